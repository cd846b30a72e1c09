"""The commands that make, describe and check artifacts: carve, show, verify."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

Run = Callable[[argparse.Namespace], int]


def carve(parser: argparse.ArgumentParser) -> Run:
    """Add the arguments of `epochal carve`; return what runs it."""
    parser.add_argument("pool", help="folder of the pool")
    parser.add_argument("--unique-tokens", required=True, metavar="N", help="exactly so many: 500M, 1.5B, 2049")
    parser.add_argument("--replicate", type=int, default=0, metavar="R", help="a disjoint draw for each (default 0)")
    parser.add_argument("--out", metavar="DIR", help="where it goes (default: subsets/<pool>-<N> beside pools/)")
    parser.add_argument("--materialize", action="store_true", help="copy the shards, so that the folder stands alone")
    parser.add_argument("--format", choices=["mds", "wds"], default="mds", help="MDS (default) or WebDataset tar files")
    parser.add_argument("--json", action="store_true", help="print what `epochal show --json` prints")

    def run(args: argparse.Namespace) -> int:
        from .carve import carve
        from .units import parse_count

        tokens = parse_count(args.unique_tokens, "--unique-tokens")
        out, new = carve(args.pool, tokens, args.replicate, args.out, args.materialize, args.format)
        if args.json:
            print(json.dumps(describe(out)))
        else:
            print(f"{'carved' if new else 'already there:'} {out}  ({tokens:,} unique tokens)")
        return 0

    return run


def show(parser: argparse.ArgumentParser) -> Run:
    """Add the arguments of `epochal show`; return what runs it."""
    parser.add_argument("path", help="folder or URL of a pool or subset")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")

    def run(args: argparse.Namespace) -> int:
        described = describe(args.path)
        if args.json:
            print(json.dumps(described))
            return 0
        for key, value in described.items():
            print(f"{key:<12} {_plain(value)}")
        return 0

    return run


def verify(parser: argparse.ArgumentParser) -> Run:
    """Add the arguments of `epochal verify`; return what runs it."""
    parser.add_argument("paths", nargs="+", metavar="path", help="folders or URLs of pools and subsets")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")

    def run(args: argparse.Namespace) -> int:
        from .verify import verify

        found = {path: verify(path, progress=not args.json) for path in args.paths}
        if args.json:
            problems = [p if len(found) == 1 else f"{path}: {p}" for path in found for p in found[path]]
            print(json.dumps({"ok": not problems, "problems": problems}))
        for path, problems in found.items():
            if problems:
                more = f" (and {len(problems) - 1} more: --json lists them)" if len(problems) > 1 else ""
                print(f"epochal: {path}: {problems[0]}{more}", file=sys.stderr)
            elif not args.json:
                print(f"whole: {path}")
        return 1 if any(found.values()) else 0

    return run


def describe(path: str) -> dict[str, Any]:
    """Return what `epochal show` prints of the artifact at `path`; `--json` promises these keys."""
    from .artifact import read_manifest

    m = read_manifest(path)
    tokenizer = f"{m.tokenizer.name} (vocabulary {m.tokenizer.vocab_size:,}; eod {m.tokenizer.eod}"
    return {
        "kind": m.kind,
        "name": m.name,
        "fingerprint": m.fingerprint,
        "documents": m.documents,
        "tokens": m.tokens,
        "samples": m.samples,
        "shards": m.shards,
        "seq_len": m.seq_len,
        "dtype": m.dtype,
        "seed": m.seed,
        "tokenizer": f"{tokenizer}, pad {m.tokenizer.pad}, mask {m.tokenizer.mask})",
        "format": m.layout,
        "materialized": m.materialized,
        "parent": m.parent.model_dump() if m.parent else None,
    }


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return (
            f"{value['name']} {value['fingerprint']} (replicate {value['replicate']}, sample {value['start_sample']})"
        )
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)
