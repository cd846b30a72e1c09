"""Commands whose output lies on a file system that is too small: `python -m epochal.tests.stress.full_disk`, as root.

Each must end with status 1 and a line that says so and where, or, where there is room enough, succeed. What a grid left
on a disk that was full, it goes on with when there is room. The service has a script of its own, full_disk_service.py.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from epochal.tests.stress import world as w

KILOBYTES = (4, 8, 16, 24, 40, 64, 100, 150, 200, 300)
COMMANDS = {
    "build": ["build", "build.yaml", "out=#/b", "--quiet"],
    "carve": ["carve", w.POOL, "--unique-tokens", "9001", "--materialize", "--out", "#/c"],
    **{f"export {name}": ["export", w.VIEW, "--format", name, "--out", "#/e"] for name in w.EXPORTS},
    "train": ["train", "stopped.yaml", "save_folder=#/r"],
    "evaluate": ["evaluate", w.MODEL, "--tasks", "hellaswag", "--data", ".", "--loss", w.VALIDATION, "--out", "#/v"],
    "export-model": ["export-model", w.MODEL, "--out", "#/m"],
    "crossover": ["crossover", "grid.yaml", "out=#/x", "--quiet"],
}
FEWER = {"crossover": (4, 40, 200, 8000)}
"""Of what takes long; the last one has room."""

GRID = {"name": "grid", "base": "whole.yaml", "pool": w.POOL, "unique_tokens": [2001], "total_tokens": 4002}
GRID |= {"seeds": [1]}


def attempt(label: str, small: Path, kilobytes: int, root: Path) -> str | None:
    """Run a command whose output goes to `small`; return what is wrong, None for nothing."""
    for path in small.iterdir() if label not in FEWER else ():  # what was begun is gone on with
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", small], check=True)
    ended = w.run_bounded([word.replace("#", str(small)) for word in COMMANDS[label]], root, seconds=300)
    if label in FEWER and kilobytes == FEWER[label][-1] and ended.status != 0:
        return f"it does not end when there is room: {ended.err[-300:]}"
    if fault := ended.fault((0, 1)):
        return fault
    last = ended.err.strip().rpartition("\n")[2]
    named = "space" in last and str(small) in last
    return None if ended.status == 0 or named else f"it does not say that the disk is full, and where: {last[:200]}"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    only = parser.parse_args().only
    w.warm_up()
    attempts = faults = 0
    with tempfile.TemporaryDirectory() as name:
        root, small = Path(name, "world"), Path(name, "small")
        root.mkdir()
        small.mkdir()
        w.make_world(root)
        (root / "grid.yaml").write_text(yaml.safe_dump(GRID))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], check=True)
        try:
            for label in only:
                for kilobytes in FEWER.get(label, KILOBYTES):
                    attempts += 1
                    if fault := attempt(label, small, kilobytes, root):
                        faults += 1
                        print(f"{label}, {kilobytes} kB: {fault}", flush=True)
        finally:
            subprocess.run(["umount", small], check=True)
    print(f"{attempts} attempts, {faults} without a word of where")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
