"""`epochal split`, `epochal curve`, `epochal proxy`: pools in buckets, how often each is fed, the same on less."""

import argparse
import os

from ...common import storage
from ...common.cli import Runner, add_examples, print_json, say, say_next, short_path, text_table
from ...common.config import load_yaml, validate
from ...common.errors import RequestError, printable, without_secrets
from ...common.units import format_count, parse_count
from ..manifest import Manifest


def split(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal split`; return what runs it."""
    add_examples(
        parser,
        "split artifacts/pools/web --by quality --quantiles 20",
        "split artifacts/pools/web --by quality --edges 0.2,0.5,0.8",
        "split artifacts/pools/web --by source",
    )
    parser.add_argument("pool", metavar="POOL", help="folder or URL of the pool")
    parser.add_argument("--by", required=True, metavar="COLUMN", help="a column that the build kept, source or tokens")
    parser.add_argument("--quantiles", type=int, metavar="Q", help="of a number: so many buckets of equal tokens")
    parser.add_argument("--edges", metavar="A,B,...", help="of a number: values at which buckets begin, ascending")
    parser.add_argument("--json", action="store_true", help="print one JSON object")

    def run(args: argparse.Namespace) -> int:
        from .divide import divide
        from .split import Split

        given = {"by": args.by, "quantiles": args.quantiles, "edges": args.edges and args.edges.split(",")}
        divided = divide(args.pool, validate(Split, given, "split"), quiet=args.json)
        if args.json:
            buckets = [{"path": path, "tokens": m.tokens, "documents": m.documents} for path, m in divided.pools]
            print_json({"buckets": buckets, "new": divided.new, "empty": divided.empty})
            return 0
        rows = [
            (short_path(path), _values(m), f"{m.documents:,}", f"{m.tokens:,}", f"{m.shards:,}")
            for path, m in divided.pools
        ]
        print(text_table(("bucket", args.by, "documents", "tokens", "shards"), rows))
        there = len(divided.pools) - divided.new
        if there:
            say(f"{there} of {len(divided.pools)} buckets were there already")
        if divided.empty:
            say(f"{divided.empty} buckets would hold no document: they were not made")
        return 0

    return run


def _values(m: Manifest) -> str:
    """Return which values the documents of a bucket have."""
    bucket = m.bucket
    assert bucket is not None, "it is a bucket"
    if bucket.value is not None or bucket.name == "null":
        return bucket.value if bucket.value is not None else "no value"
    if bucket.lower is None:
        return "all" if bucket.upper is None else f"below {bucket.upper:g}"
    return f"from {bucket.lower:g}" + ("" if bucket.upper is None else f" to below {bucket.upper:g}")


def curve(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal curve`; return what runs it."""
    add_examples(
        parser,
        "curve artifacts/pools/web curve.yaml --total-tokens 96B --out mix.yaml",
        "curve artifacts/pools/web curve.yaml",
    )
    parser.add_argument("pool", metavar="POOL", help="the pool that was divided by `epochal split`")
    parser.add_argument("curve", metavar="CURVE", help="YAML with passes by bucket: passes: [0, 0, 1, 2.5, 7]")
    parser.add_argument("--total-tokens", metavar="N", help="scale the curve so that the mixture has exactly so many")
    parser.add_argument("--out", metavar="FILE", help="a new file for the mixture (default: standard output)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")

    def run(args: argparse.Namespace) -> int:
        from .curve import Curve, buckets_of, fed, mixture_of, mixture_text, window_of

        settings = validate(Curve, load_yaml(args.curve), args.curve)
        total = parse_count(args.total_tokens, "--total-tokens") if args.total_tokens else None
        buckets, factor = fed(settings, buckets_of(args.pool, settings.by), total)
        mixture = mixture_of(settings, buckets)
        sources = {
            b.name: {"path": short_path(b.path), "tokens": b.tokens}
            | ({} if settings.policy == "reshuffle" else {"policy": settings.policy})
            for b in buckets
            if b.tokens
        }
        comment = [f"{b.name}: {_plain(b.passes)} passes of {b.manifest.tokens:,} tokens" for b in buckets]
        text = mixture_text(sources, window_of(settings, buckets), comment)
        _write(args.out, text, args.json)
        if args.json:
            rows = [{"bucket": b.name, "passes": float(b.passes), "tokens": b.tokens} for b in buckets]
            asked = sum(b.tokens for b in buckets)
            print_json({"buckets": rows, "factor": float(factor), "tokens": asked, "fingerprint": mixture.fingerprint})
            return 0
        if total is not None:
            say(f"the curve is scaled by {float(factor):.6g} to {format_count(total)} tokens")
        unfed = [b for b in buckets if not b.tokens]
        if unfed:
            n = sum(b.manifest.tokens for b in unfed)
            say(f"{len(unfed)} of {len(buckets)} buckets are fed 0 times and left out ({n:,} tokens)")
        if args.out:
            print(f"wrote {args.out}: {len(sources)} sources, {sum(b.tokens for b in buckets):,} tokens")
            say_next(["plan", short_path(args.out), "--batch-tokens", "524288"])
        return 0

    return run


def proxy(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal proxy`; return what runs it."""
    add_examples(parser, "proxy mix.yaml --scale 1/16 --out mix-16th.yaml")
    parser.add_argument("mixture", metavar="MIXTURE", help="YAML of a mixture")
    parser.add_argument("--scale", required=True, metavar="S", help="part of the unique tokens of each source: 1/16")
    parser.add_argument("--out", metavar="FILE", help="a new file for the mixture (default: standard output)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")

    def run(args: argparse.Namespace) -> int:
        import yaml

        from ..order.mixture_config import MixtureSettings
        from .proxy import proxy, scale_of

        scale = scale_of(args.scale)
        _check_new(args.out)
        made = proxy(validate(MixtureSettings, load_yaml(args.mixture), args.mixture), scale, short_path)
        text = yaml.safe_dump(made.settings, sort_keys=False, allow_unicode=True, width=200)
        said = f"# the passes of {printable(os.path.basename(args.mixture))} on {scale} of its unique tokens\n"
        _write(args.out, said + text, args.json)
        before, now = (sum(n[i] for n in made.unique_tokens.values()) for i in (0, 1))
        if args.json:
            print_json({"scale": str(scale), "unique_tokens": made.unique_tokens, "settings": made.settings})
        elif args.out:
            print(f"wrote {args.out}: {now:,} of {before:,} unique tokens, {len(made.unique_tokens)} sources")
        return 0

    return run


def _check_new(out: str | None) -> None:
    if out and storage.exists(out):
        raise RequestError(f"{out} is there already: name another file with --out, or remove it")


def _write(out: str | None, text: str, silent: bool) -> None:
    """Write a mixture to a new file, or to standard output unless that takes JSON."""
    _check_new(out)
    if out:
        storage.write_atomic(out, text.encode())
    elif not silent:
        print(without_secrets(text, {}), end="")


def _plain(passes: object) -> str:
    return f"{float(passes):.6f}".rstrip("0").rstrip(".")  # type: ignore[arg-type]
