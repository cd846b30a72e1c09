"""Single bits flipped in everything that is read: `python -m epochal.tests.stress.flips --flips 1000 [--seed 0]`.

The flips are spread over every file of every kind of artifact, export, model, checkpoint and run folder. Each flipped
file is read by every command that reads its kind. It is noticed when a command names the file or its folder; it is
harmless when all commands end as they did before, with the same output and the same files written. Anything else is
silent, and a fault.
"""

import argparse
import hashlib
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from epochal.common.hashing import digest
from epochal.tests.stress import world as w

EVALUATE = [
    "evaluate",
    w.MODEL,
    "--loss",
    w.VALIDATION,
    "--tasks",
    "hellaswag",
    "--data",
    ".",
    "--out",
    "new/v",
    "--json",
]
COMMANDS: dict[str, list[list[str]]] = {
    "artifacts/pools/tiny/": [
        ["verify", w.POOL],
        ["show", w.POOL, "--json"],
        ["carve", w.POOL, "--unique-tokens", "30001", "--materialize", "--out", "new/c", "--json"],
        ["export", w.POOL, "--format", "bin", "--out", "new/e", "--json"],
        ["build", "foreign.yaml", f"sources.0.path={w.POOL}", "sources.0.format=mds", "out=new/b", "--quiet", "--json"],
    ],
    "artifacts/pools/tiny-val/": [
        ["verify", w.VALIDATION],
        EVALUATE,
        [*w.TRAIN],
    ],
    "artifacts/subsets/view/": [
        ["verify", w.VIEW],
        ["export", w.VIEW, "--format", "bin", "--out", "new/e", "--json"],
        ["plan", w.VIEW, "--epochs", "3", "--batch-tokens", "64", "--json"],
        [*w.TRAIN],
    ],
    "artifacts/subsets/copy/": [
        ["verify", w.COPY],
        ["export", w.COPY, "--format", "parquet", "--out", "new/e", "--json"],
        ["build", "foreign.yaml", f"sources.0.path={w.COPY}", "sources.0.format=mds", "out=new/b", "--quiet", "--json"],
    ],
    "artifacts/subsets/tar/": [
        ["verify", w.TAR],
        ["build", "foreign.yaml", f"sources.0.path={w.TAR}", "sources.0.format=wds", "out=new/b", "--quiet", "--json"],
    ],
    **{
        f"exports/{name}/": [
            ["verify", f"exports/{name}"],
            [*f"build foreign.yaml sources.0.path=exports/{name} sources.0.format={name} out=new/b --quiet".split()],
        ]
        for name in w.EXPORTS
    },
    "runs/whole/final/": [
        ["generate", w.MODEL, "def f(x):", "--max-new-tokens", "8", "--json"],
        EVALUATE,
        ["export-model", w.MODEL, "--out", "new/m"],
        ["train", "new.yaml", f"init_from={w.MODEL}", "save_folder=new/r", "max_duration=1024"],
    ],
    **{
        f"runs/{name}/best/": [["generate", f"runs/{name}/best", "def f(x):", "--max-new-tokens", "8", "--json"]]
        for name in ("whole", "stopped")
    },
    **{
        f"runs/whole/ba{step}-": [
            ["train", "whole.yaml", f"load_path={w.WHOLE}/ba{step}-rank0.pt", "save_folder=new/r"]
        ]
        for step in (15, 20)
    },
    "runs/whole/": [["train", "whole.yaml", "autoresume=true"], ["audit", f"{w.WHOLE}/receipt.json"]],
    "runs/stopped/": [[*w.TRAIN]],
}
"""What reads the files below a folder; the longest that fits is taken."""

HARMLESS = {
    "metrics.jsonl": "a record for people and plots, which nothing is computed from",
    "environment.json": "what a run was computed with, shown when it changes",
    "config.yaml": "the resolved configuration, written anew by each start",
    "runs/stopped/run.json": "in the settings that no figure follows from; all others are compared",
    "runs/whole/run.json": "a finished run is known by its result.json",
    "runs/whole/hashes.json": "of the checkpoints of a run that is finished; whoever names one as load_path is told",
    "runs/whole/result.json": "figures that are shown again; the receipt is what audit checks",
}
"""Ends of the paths of files in which a flip may be without effect, and why."""


def files(root: Path) -> list[Path]:
    """Return the files that are flipped, relative to the world."""
    return sorted(
        path.relative_to(root)
        for folder in ("artifacts", "exports", "runs")
        for path in (root / folder).rglob("*")
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    )


def commands_of(path: Path) -> list[list[str]]:
    """Return the commands that read a file."""
    fits = [folder for folder in COMMANDS if str(path).startswith(folder)]
    return COMMANDS[max(fits, key=len)]


_CHANGES = re.compile(r"/tmp/[^\s\"']*|\"[a-z_]*(seconds|per_s)\": [^,}]+|\d{4}-\d\d-\d\d.\d\d:\d\d:\d\d\S*")
"""What differs from one time to the next: places, rates, dates."""


def outcome(words: Sequence[str], root: Path) -> tuple[int | None, str, str, str]:
    """Return status, output and error of a command, and a digest of what it wrote."""
    ended = w.run_bounded(words, root, seconds=60)
    return ended.status, _CHANGES.sub("", ended.out), ended.err, _written(root)


def _written(root: Path) -> str:
    """Return a digest of the tokens, weights and receipts that a command left."""
    wanted = ("*.mds", "*.bin", "*.parquet", "*.safetensors", "receipt.json")
    paths = sorted(p for top in ("new", "runs/stopped") for name in wanted for p in (root / top).rglob(name))
    paths = [path for path in paths if path.parts[-2] != "v"]  # an evaluation's tables have its seconds
    return digest([[str(p.relative_to(root)), hashlib.sha256(p.read_bytes()).hexdigest()] for p in paths])


def flip(path: Path, chance: random.Random) -> str:
    """Flip a random bit of a file; return where."""
    data = bytearray(path.read_bytes())
    bit = chance.randrange(len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return f"bit {bit % 8} of byte {bit // 8:,} of {len(data):,}"


def judge(path: Path, root: Path, template: Path, before: dict[str, tuple[int | None, str, str, str]]) -> str:
    """Return `noticed`, `harmless` or what went wrong; `before` has how commands end with whole files."""
    noticed, silent = False, []
    for words in commands_of(path):
        key = " ".join(words)
        flipped = (root / path).read_bytes()
        if key not in before:
            before[key] = outcome(words, w.clone(template, root))
            assert before[key][0] == 0, before[key][2]  # else nothing would be read
        w.clone(template, root)
        (root / path).write_bytes(flipped)
        status, out, err, written = outcome(words, root)
        if status is None or "Traceback" in err or "failed with" in err:
            return f"{words[0]}: no words of ours: {err.strip().splitlines()[-1:]}"
        if status != before[key][0]:
            noticed = True
            said = (path.name, path.stem, path.parts[-2], "not ok: the")
            if not any(part in err + out for part in said):
                return f"{words[0]} does not name the file: {err.strip().splitlines()[-1:]}"
        elif (out, written) != (before[key][1], before[key][3]):
            silent.append(words[0])
    if silent:
        return f"{', '.join(silent)}: another result, and no word"
    if not noticed and not str(path).endswith(tuple(HARMLESS)):
        return "no command noticed it, and none gave another result"
    return "noticed" if noticed else "harmless"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files with this in their paths")
    args = parser.parse_args()
    from epochal.tests.stress.hostile import _new_run, prepare

    w.warm_up()
    chance, counts, harmless = random.Random(args.seed), Counter[str](), Counter[str]()
    before: dict[str, tuple[int | None, str, str, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        template, root = Path(name, "template"), Path(name, "world")
        template.mkdir()
        w.make_world(template)
        prepare(template)
        _new_run(template)
        paths = [path for path in files(template) if args.only in str(path)]
        for i in range(args.flips):
            path = paths[i % len(paths)]
            w.clone(template, root)
            where = flip(root / path, chance)
            verdict = judge(path, root, template, before)
            counts[verdict if verdict in ("noticed", "harmless") else "silent"] += 1
            if verdict == "harmless":
                harmless[str(path)] += 1
            elif verdict != "noticed":
                print(f"{path}, {where}: {verdict}", flush=True)
    for path, n in sorted(harmless.items()):
        print(f"harmless {n:4} {path}")
    print(", ".join(f"{n:,} {verdict}" for verdict, n in counts.items()))
    sys.exit(bool(counts["silent"]))


if __name__ == "__main__":
    main()
