"""Which epochal this is: its version and the commit of its code, from git or as it was written into a wheel."""

import functools
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMIT_NAME = "commit.txt"
"""Beside the package in a wheel or source archive: the commit that it was built from. `setup.py` writes it."""

DIRTY = "-dirty"


def version_line(version: str, root: Path = ROOT) -> str:
    """Return `version`, with the commit behind it where one is known."""
    commit, dirty, _ = (_read(root) or "").partition(DIRTY)
    known = f" (commit {commit[:12]}{', with changes that are not committed' if dirty else ''})"
    return f"{version}{known if commit else ''}"


@functools.cache
def commit() -> str | None:
    """Return the commit of this code, all 40 digits, `-dirty` behind them where files differ; None if it is unknown."""
    return _read(ROOT)


def _read(root: Path) -> str | None:
    written = root / COMMIT_NAME
    if written.is_file():
        return written.read_text(encoding="ascii", errors="replace").strip() or None
    return of_checkout(root)


def of_checkout(root: Path) -> str | None:
    """Return what git says of the checkout at `root`; None where there is no checkout, or no git."""
    if not (root / ".git").exists():
        return None
    # In a hook of another repository these would lead git there.
    environment = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
