"""A pool of many short documents: each function of the standard library is one. `make crossover-functions` builds it.

A few tens of thousands of tokens of whole files are a handful of files, which a model learns by heart; of functions
they are hundreds. The text is that of one Python version alone, whatever packages are installed.
"""

import argparse
import ast
import itertools
import json
import sys
import sysconfig
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..common import storage
from ..common.cli import run_plainly
from ..common.publish import MANIFEST_NAME
from .demo import IDS, run_epochal, small_tokenizer

POOL = "functions-1k"
LIBRARY = Path(sysconfig.get_path("stdlib"))
SHORTEST, LONGEST = 120, 700
"""Characters of a function that is taken."""

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
"""Folders that are no part of the library's own code everywhere."""


def functions(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the functions and methods of a module, unindented, in order; none where it has errors."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    lines = source.splitlines(keepends=True)
    for node in sorted((n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)), key=lambda n: n.lineno):
        text = textwrap.dedent("".join(lines[node.lineno - 1 : node.end_lineno]))
        if SHORTEST <= len(text) <= LONGEST:
            yield node.lineno, text


def library(root: Path) -> Iterator[str]:
    """Yield a line of JSON for each function below `root`: its place as the id, and its text."""
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if LEFT_OUT.isdisjoint(place.parts):
            source = path.read_text(encoding="utf-8", errors="replace")
            yield from (json.dumps({"id": f"{place.as_posix()}:{line}", "text": t}) for line, t in functions(source))


def make_pool(artifacts: Path, most: int | None = None) -> Path:
    """Build the pool and its validation pool where they are missing; return the pool.

    Args:
        most: functions that are taken, the first of the library; None for all.
    """
    pool = artifacts / "pools" / POOL
    if not all((folder / MANIFEST_NAME).exists() for folder in (pool, pool.with_name(f"{POOL}-val"))):
        rows, tokenizer = artifacts / f"{POOL}.jsonl", artifacts / f"{POOL}-tokenizer.json"
        artifacts.mkdir(parents=True, exist_ok=True)
        storage.write_atomic(str(rows), "\n".join(itertools.islice(library(LIBRARY), most)).encode())
        storage.write_atomic(str(tokenizer), json.dumps(small_tokenizer(IDS)).encode())
        settings = {"name": POOL, "out": artifacts, "tokenizer.name": tokenizer, "seq_len": 256}
        settings |= {"sources.0.path": rows, "sources.0.format": "jsonl", "validation_tokens": "60k"}
        run_epochal("build", "folder", *(f"{k}={v}" for k, v in settings.items()), "--quiet")
    return pool


def main(argv: Sequence[str] | None = None) -> int:
    """Build the pool; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where pools and subsets lie")
    make_pool(parser.parse_args(argv).artifacts)
    return 0


if __name__ == "__main__":
    sys.exit(run_plainly(main, sys.argv[1:]))
