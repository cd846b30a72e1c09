"""Commands whose output lies on a file system that is too small: `python -m epochal.tests.stress.full_disk`, as root.

Each must end with status 1 and a line that says so and where, or, where there is room enough, succeed.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from epochal.tests.stress import world as w

KILOBYTES = (4, 8, 16, 24, 40, 64, 100, 150, 200, 300)
COMMANDS = {
    "build": ["build", "build.yaml", "out=#/b", "--quiet"],
    "carve": ["carve", w.POOL, "--unique-tokens", "9001", "--materialize", "--out", "#/c"],
    **{f"export {name}": ["export", w.VIEW, "--format", name, "--out", "#/e"] for name in w.EXPORTS},
    "train": ["train", "stopped.yaml", "save_folder=#/r"],
    "evaluate": ["evaluate", w.MODEL, "--tasks", "hellaswag", "--data", ".", "--loss", w.VALIDATION, "--out", "#/v"],
    "export-model": ["export-model", w.MODEL, "--out", "#/m"],
}


def attempt(words: list[str], small: Path, kilobytes: int, root: Path) -> str | None:
    """Run a command whose output goes to `small`; return what is wrong, None for nothing."""
    for path in small.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", small], check=True)
    ended = w.run_bounded([word.replace("#", str(small)) for word in words], root, seconds=60)
    if fault := ended.fault((0, 1)):
        return fault
    last = ended.err.strip().rpartition("\n")[2]
    named = "space" in last and str(small) in last
    return None if ended.status == 0 or named else f"it does not say that the disk is full, and where: {last[:200]}"


def main() -> None:
    """Run from the command line."""
    w.warm_up()
    faults = 0
    with tempfile.TemporaryDirectory() as name:
        root, small = Path(name, "world"), Path(name, "small")
        root.mkdir()
        small.mkdir()
        w.make_world(root)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], check=True)
        try:
            for label, words in COMMANDS.items():
                for kilobytes in KILOBYTES:
                    if fault := attempt(words, small, kilobytes, root):
                        faults += 1
                        print(f"{label}, {kilobytes} kB: {fault}", flush=True)
        finally:
            subprocess.run(["umount", small], check=True)
    print(f"{len(COMMANDS) * len(KILOBYTES)} attempts, {faults} without a word of where")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
