"""From a folder of documents to a subset with an exact number of unique tokens, in Python.

python -m epochal.examples.own_text FOLDER --unique-tokens 500k
"""

import argparse
import sys
from collections.abc import Sequence

import epochal
from epochal.common.cli import run_plainly
from epochal.common.units import parse_count


def run(words: Sequence[str]) -> int:
    """Build a pool of the folder, carve the subset, check both, and print how the subset would be repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="of documents: text, JSON Lines, Parquet")
    parser.add_argument("--unique-tokens", default="10k", metavar="N", help="of the subset (default 10k)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the build: name=mine seq_len=128 ...")
    args = parser.parse_intermixed_args(words)

    built = epochal.build(
        "folder", [f"sources.0.path={args.folder}", "sources.0.format=auto", *args.settings], quiet=True
    )
    pool = epochal.open_artifact(built.pool).manifest
    print(
        f"{built.pool}: {pool.tokens:,} unique tokens of {pool.documents:,} documents, fingerprint {pool.fingerprint}"
    )

    subset, _ = epochal.carve(built.pool, parse_count(args.unique_tokens, "--unique-tokens"))
    for path in (built.pool, subset):
        problems = epochal.verify(path)
        print(f"{path}: {problems or 'whole'}")

    manifest = epochal.open_artifact(subset).manifest
    plan = epochal.Plan.for_artifact(manifest, total_tokens=4 * manifest.tokens, seed=0)
    print(f"four passes: {plan.positions:,} samples; the first are {plan.ids(range(5)).tolist()}")
    return 0


if __name__ == "__main__":
    sys.exit(run_plainly(run, sys.argv[1:]))
