"""Token ids that you have as a NumPy array, made a pool with canonical order and no duplicates, and a subset of it.

    python -m epochal.examples.from_numpy ids.npy --tokenizer gpt2 --unique-tokens 10k

The array has one axis; each document ends with the tokenizer's end-of-document id.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import epochal
from epochal.common.cli import run_plainly
from epochal.common.errors import RequestError
from epochal.common.units import parse_count


def run(words: Sequence[str]) -> int:
    """Write the array as a flat file of ids, build from it, carve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("array", metavar="FILE.npy", help="ids, any type of whole numbers, shape (n,)")
    parser.add_argument("--tokenizer", default="gpt2", metavar="NAME", help="name or file that the ids are of")
    parser.add_argument("--unique-tokens", default="10k", metavar="N", help="of the subset (default 10k)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the build: name=mine seq_len=128 ...")
    args = parser.parse_intermixed_args(words)
    import numpy as np

    ids = np.load(args.array, mmap_mode="r", allow_pickle=False)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids) or ids.min() < 0:
        raise RequestError(f"{args.array} must hold ids, none negative, on one axis: it has {ids.shape} of {ids.dtype}")
    with tempfile.TemporaryDirectory() as folder:
        dtype = "uint16" if ids.max() < 2**16 else "uint32"
        ids.astype(dtype).tofile(Path(folder, "ids.bin"))
        source = {
            "format": "bin",
            "path": folder,
            "tokenized.tokenizer": args.tokenizer,
            "tokenized.dtype": dtype,
        }
        settings = [f"tokenizer.name={args.tokenizer}", *(f"sources.0.{key}={value}" for key, value in source.items())]
        built = epochal.build("folder", [*settings, *args.settings], quiet=True)
    pool = epochal.open_artifact(built.pool).manifest
    print(f"{len(ids):,} ids -> {built.pool}: {pool.tokens:,} unique tokens of {pool.documents:,} documents")
    subset, _ = epochal.carve(built.pool, parse_count(args.unique_tokens, "--unique-tokens"))
    print(f"{subset}: {epochal.open_artifact(subset).manifest.tokens:,} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(run_plainly(run, sys.argv[1:]))
