"""What pip-audit knows of the pins: `python audit.py COMMAND...`, where the command is pip-audit with its options.

pip-audit says "no known vulnerabilities" with status 0 of packages that it could not ask about; here that is no
verdict.
Status 0: all were asked about, nothing is known; 1: there are known faults; 2: it could not ask.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def verdict(report: str) -> tuple[int, list[str]]:
    """Return the status and the lines for what `pip-audit --format json` printed."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 2, ["nothing was audited: pip-audit cannot be had here, or the advisories cannot be reached"]
    found = [(package, fault) for package in packages for fault in package.get("vulns", [])]
    lines = [
        f"{package['name']} {package['version']}: {fault['id']}, mended in "
        f"{', '.join(fault.get('fix_versions') or ['no version yet'])}"
        for package, fault in found
    ]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    asked = len(packages) - len(skipped)
    if not asked:
        lines.append(f"nothing was audited: none of {len(packages)} packages could be asked about here")
    elif skipped:
        lines.append(f"{asked} packages audited, {len(skipped)} could not be asked about: {', '.join(skipped[:10])}")
    else:
        lines.append(f"{asked} packages audited, {len(found)} known faults")
    return (1 if found else 2 if skipped else 0), lines


def main(command: Sequence[str]) -> int:
    """Run pip-audit and say what it found."""
    try:
        done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, timeout=900)
        report = done.stdout
    except (OSError, subprocess.TimeoutExpired):
        report = ""
    status, lines = verdict(report)
    print(*[f"audit: {line}" for line in lines], sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
