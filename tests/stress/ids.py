"""Ids against the library's, in full: `python -m epochal.tests.stress.ids [--texts 100000]`.

Hostile texts for tokenizers of every kind, and every character for every expression that gigatoken is trusted with.
Takes a few minutes; tests/tokenize/test_reference.py is the short form. Run it when tokenizers, gigatoken or engines.py
change.
"""

import argparse
import tempfile
import time
from pathlib import Path

from epochal.tests.tokenize.kinds import EXPRESSIONS, KINDS
from epochal.tests.tokenize.test_reference import POINTS, check_kind, check_points


def main() -> None:
    """Run all comparisons; the first difference ends it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--texts", type=int, default=100_000)
    n = parser.parse_args().texts
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            start = time.perf_counter()
            check_kind(kind, n, Path(folder))
            print(f"{kind}: {n:,} texts, {time.perf_counter() - start:.1f} s", flush=True)
        for name in EXPRESSIONS:
            start = time.perf_counter()
            check_points(name, POINTS, Path(folder))
            print(f"{name}: {len(POINTS):,} characters, {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
