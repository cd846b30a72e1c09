"""kill -9 of builds and of training at random moments: `python -m epochal.tests.stress.kills_of_work --kills 50`.

Each is killed and started again, at moments spread over its whole length, until it ends by itself; what it left must
be, byte for byte where bytes are promised, what an undisturbed one leaves. tests/stress/kills.py does so to servers.
"""

import argparse
import os
import random
import tempfile
from pathlib import Path

from epochal.common.hashing import xxh64_file
from epochal.tests.stress import world as w
from epochal.train.run_folder import read_metrics

BUILD = ["build", "build.yaml", "out=work", "tasks=3", "workers=2", "--quiet"]
RUN = ["train", "stopped.yaml", "save_folder=work/run", "autoresume=true", "save_interval=2ba"]


def files_of(folder: Path) -> dict[str, str]:
    """Return the hashes of what a build or a run left that does not depend on when it was made."""
    kept = ("manifest.json", "index.json", ".mds", ".parquet", ".safetensors", "receipt.json")
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name.endswith(kept)]
    return {str(p.relative_to(folder)): xxh64_file(str(p)) for p in sorted(paths)}


def torture(words: list[str], template: Path, root: Path, kills: int, chance: random.Random) -> int:
    """Kill a command `kills` times in all, in as many lives as that takes; return how often it came to its end.

    Raises:
        AssertionError: when it left something else than an undisturbed one.
    """
    w.clone(template, root)
    whole = w.run_bounded(words, root, seconds=300)
    assert whole.status == 0, whole.err
    expected, killed, ends = files_of(root / "work"), 0, 0
    steps = _steps(root)
    while killed < kills:
        w.clone(template, root)
        while True:
            limit = chance.uniform(0.02, 1.1 * whole.seconds) if killed < kills else 300.0
            ended = w.run_bounded(words, root, seconds=limit)
            if ended.status is not None:
                break
            killed += 1
        assert ended.status == 0, ended.err
        assert files_of(root / "work") == expected, "another result"
        assert _steps(root) == steps, "steps are missing, or there twice"
        ends += 1
    return ends


def _steps(root: Path) -> list[float]:
    folder = root / "work/run"
    return [row["step"] for row in read_metrics(str(folder))] if os.path.isdir(folder) else []


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    w.warm_up()
    with tempfile.TemporaryDirectory() as name:
        template, root = Path(name, "template"), Path(name, "world")
        template.mkdir()
        w.make_world(template)
        for label, words in (("builds", BUILD), ("training", RUN)):
            ends = torture(words, template, root, args.kills, random.Random(args.seed))
            print(f"{label}: {args.kills} kills, {ends} times to its end, each with the undisturbed result", flush=True)


if __name__ == "__main__":
    main()
