"""The commands that make, describe and check artifacts: carve, export, show, verify."""

import argparse
from typing import TYPE_CHECKING, Any

from ..common import storage
from ..common.cli import Runner, add_examples, print_json, say, say_next, short_path
from ..common.errors import RequestError, printable, without_secrets
from ..common.publish import MANIFEST_NAME

if TYPE_CHECKING:
    from .artifact import Artifact
    from .manifest import Manifest
    from .without.found import TakenOut

MOST_PROBLEMS = 20
"""Lines that `verify` prints of an artifact."""


def carve(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal carve`; return what runs it."""
    add_examples(
        parser,
        "carve artifacts/pools/mine --unique-tokens 500M",
        "carve artifacts/pools/mine --unique-tokens 1M --unique-tokens 5M",
        "carve artifacts/pools/mine --unique-tokens 1.5B --replicate 1 --materialize --out /data/subset",
        "carve artifacts/pools/mine --unique-tokens 500M --without opt-outs.txt",
        "carve artifacts/pools/mine --unique-tokens 500M --without-matching \"lang = 'de'\"",
    )
    parser.add_argument("pool", metavar="POOL", help="folder of the pool")
    parser.add_argument(
        "--unique-tokens",
        action="append",
        required=True,
        metavar="N",
        help="exactly so many: 500M, 1.5B, 2049; give it again for another subset",
    )
    parser.add_argument("--replicate", type=int, default=0, metavar="R", help="a disjoint draw for each (default 0)")
    parser.add_argument("--out", metavar="DIR", help="where it goes (default: subsets/<pool>-<N> beside pools/)")
    parser.add_argument("--materialize", action="store_true", help="copy the shards, so that the folder stands alone")
    parser.add_argument("--format", choices=["mds", "wds"], default="mds", help="MDS (default) or WebDataset tar files")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="LIST",
        help="a file of documents to leave out: keys, ids or texts, one a line, or JSON lines with one of these fields",
    )
    parser.add_argument(
        "--without-matching",
        metavar="CONDITION",
        help="leave out the documents for which it is true: SQL on kept columns, id, source and tokens, as a build's "
        "`where`",
    )
    parser.add_argument("--json", action="store_true", help="print what `epochal show --json` prints, a line a subset")

    def run(args: argparse.Namespace) -> int:
        from ..common.units import parse_count
        from .artifact import open_artifact
        from .carve import carve_from

        sizes = [parse_count(size, "--unique-tokens") for size in args.unique_tokens]
        if args.out and len(sizes) > 1:
            raise RequestError("--out is the place of one subset: give --unique-tokens once, or leave --out away")
        pool = open_artifact(args.pool)
        taken_out = _taken_out(args, pool)
        for tokens in sizes:
            out, new = carve_from(pool, tokens, args.replicate, args.out, args.materialize, args.format, taken_out)
            if args.json:
                print_json(describe(out))
            else:
                print(f"{'carved' if new else 'already there:'} {without_secrets(out, {})}  ({tokens:,} unique tokens)")
        if not args.json:
            say_next(["verify", short_path(out)] if args.format == "wds" else _training(args.pool, out))
        return 0

    return run


def _taken_out(args: argparse.Namespace, pool: "Artifact") -> "TakenOut | None":
    """Return what is taken out of a pool, None where nothing is asked for; say what each list and condition found."""
    from .without.found import find, lines_of

    if not args.without and args.without_matching is None:
        return None
    taken_out = find(pool, args.without, args.without_matching)
    for line in lines_of(taken_out.by):
        say(f"without {line}")
    if not len(taken_out.table):
        say(f"nothing of it is in pool '{pool.manifest.name}': the subset is the one that it would be without that")
    return taken_out


def _training(pool: str, subset: str) -> list[str]:
    """Return the command that trains on `subset`, validated on its pool's neighbour where there is one."""
    validation = f"{pool.rstrip('/')}-val"
    known = storage.exists(storage.join(validation, MANIFEST_NAME))
    evaluated = f"eval_loader.dataset.path={short_path(validation)}" if known else "eval_loader=null"
    return ["train", "tiny-ar", f"train_loader.dataset.path={short_path(subset)}", evaluated]


def export(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal export`; return what runs it."""
    add_examples(
        parser,
        "export artifacts/subsets/mine-500M --format megatron --out exported",
        "export artifacts/subsets/mine-500M --format bin --out exported --order --passes 4",
    )
    from .order.base import POLICIES
    from .order.commands import SKIP, asked_skips

    parser.add_argument("subset", metavar="SUBSET", help="folder or URL of a subset or pool")
    parser.add_argument(
        "--format",
        required=True,
        choices=["wds", "parquet", "megatron", "bin", "hf"],
        help="WebDataset tar files, Parquet, Megatron-LM's .bin and .idx, flat ids as nanoGPT reads them, or a Hugging "
        "Face dataset",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where it goes: a new folder, or an fsspec URL")
    parser.add_argument("--order", action="store_true", help="write the repeated order out, for sequential loaders")
    parser.add_argument("--passes", "--epochs", type=int, metavar="K", help="with --order: whole passes (default 1)")
    parser.add_argument("--seed", type=int, metavar="S", help="with --order: seed of the order (default 0)")
    parser.add_argument("--policy", choices=POLICIES, help="with --order: how data is repeated (default reshuffle)")
    parser.add_argument("--skip", **SKIP | {"help": f"with --order: {SKIP['help']}"})
    parser.add_argument(
        "--workers", type=int, metavar="W", help="processes (default: one for each core, one for few tokens)"
    )
    parser.add_argument("--json", action="store_true", help="print what `epochal show --json` prints")

    def run(args: argparse.Namespace) -> int:
        from .export import export

        given = {
            name: value for name in ("passes", "seed", "policy", "skip") if (value := getattr(args, name)) is not None
        }
        if given and not args.order:
            raise RequestError(f"--{next(iter(given))} is for --order: add it, or leave --{next(iter(given))} away")
        order = {"passes": 1} | given | {"skip": asked_skips(args)} if args.order else {}
        out, new = export(args.subset, args.format, args.out, **order, quiet=args.json, workers=args.workers)
        described = describe(out)
        if args.json:
            print_json(described)
            return 0
        print(f"{'exported' if new else 'already there:'} {without_secrets(out, {})}  ({described['tokens']:,} tokens)")
        if args.format == "bin" and described["dtype"] == "uint32":
            print("note: the vocabulary has more than 65,536 ids, so these are uint32: nanoGPT's loaders expect uint16")
        say_next(["verify", short_path(out)])
        return 0

    return run


def show(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal show`; return what runs it."""
    add_examples(
        parser,
        "show artifacts/pools/mine",
        "show artifacts/subsets/mine-500M --json",
    )
    parser.add_argument("path", metavar="PATH", help="folder or URL of a pool, subset or export")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")

    def run(args: argparse.Namespace) -> int:
        from .facts import plain as fact

        described = describe(args.path)
        if args.json:
            print_json(described)
            return 0
        facts = described.pop("sources", {})
        for key, value in described.items():
            print(f"{key:<12} {without_secrets(_plain(value), {})}")
        for name, said in facts.items():
            print(f"{'source':<12} {printable(name)}")
            for key, value in said.items():
                print(f"  {key:<10} {without_secrets(fact(value), {})}")
        return 0

    return run


def verify(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal verify`; return what runs it."""
    add_examples(
        parser,
        "verify artifacts/pools/mine artifacts/subsets/mine-500M",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders or URLs of pools, subsets and exports")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")

    def run(args: argparse.Namespace) -> int:
        from .verify import verify

        found = {path: verify(path, progress=not args.json) for path in args.paths}
        if args.json:
            problems = [p if len(found) == 1 else f"{path}: {p}" for path in found for p in found[path]]
            print_json({"ok": not problems, "problems": problems})
        for path, problems in found.items():
            for problem in problems[:MOST_PROBLEMS]:
                say(printable(f"{path}: {problem}"))
            if len(problems) > MOST_PROBLEMS:
                say(f"and {len(problems) - MOST_PROBLEMS} more: --json lists them")
            if not problems and not args.json:
                print(f"whole: {without_secrets(path, {})}{_remark(path)}")
        return 1 if any(found.values()) else 0

    return run


def _remark(path: str) -> str:
    """Return what an export that is whole was held against."""
    from .artifact import read_any_manifest
    from .manifest import ExportManifest
    from .verify import find_subset

    m = read_any_manifest(path)
    if not isinstance(m, ExportManifest):
        return "" if m.without is None else f"  (without {_held_against(path, m)}"
    at_hand = find_subset(path, m) is not None
    return f"  (equal to {m.parent.name})" if at_hand else "  (as it was written: its subset is not at hand)"


def _held_against(path: str, m: "Manifest") -> str:
    from ..common.html import count
    from .without.check import pool_at_hand

    assert m.without is not None, "there is nothing to hold it against"
    at_hand = pool_at_hand(path, m) is not None
    how = "as its pool becomes without them" if at_hand else "as it was written: its pool is not at hand"
    return f"{count(m.without.documents, 'document')}, {how})"


def describe(path: str) -> dict[str, Any]:
    """Return what `epochal show` prints of the artifact at `path`; `--json` promises these keys."""
    from .artifact import read_any_manifest
    from .description.describe import DESCRIPTIONS
    from .documents import table_files
    from .facts import facts_by_source
    from .manifest import ExportManifest
    from .tokenizer_file import TOKENIZER_NAME

    m = read_any_manifest(path)
    ids = m.tokenizer
    beside = {TOKENIZER_NAME, *table_files(m.files), *DESCRIPTIONS}
    said = {
        "kind": m.kind,
        "name": m.name,
        "fingerprint": m.fingerprint,
        "documents": m.documents,
        "tokens": m.tokens,
        "samples": m.samples,
        "shards": len(m.files.keys() - beside) if isinstance(m, ExportManifest) else m.shards,
        "seq_len": m.seq_len,
        "dtype": m.dtype,
        **({} if isinstance(m, ExportManifest) else {"seed": m.seed}),
        "tokenizer": f"{ids.name} (vocabulary {ids.vocab_size:,}; eod {ids.eod}, pad {ids.pad}, mask {ids.mask})",
        "format": m.layout,
    }
    parent = m.parent.model_dump() if m.parent else None
    if not isinstance(m, ExportManifest):
        facts, without = facts_by_source(m.config), m.without.model_dump() if m.without else None
        said |= {"materialized": m.materialized, "parent": parent} | ({"without": without} if without else {})
        return said | ({"sources": facts} if facts else {})
    return said | {
        "token_digest": m.token_digest,
        "order": f"{m.plan['policy']}, seed {m.plan['seed']}, plan {m.plan['fingerprint']}" if m.plan else None,
        "passes": m.tokens // m.unique_tokens,
        "parent": parent,
    }


def _plain(value: object) -> str:
    if isinstance(value, dict) and "by" in value:
        by = ", ".join(printable(one["name"]) for one in value["by"])
        return f"{value['documents']:,} documents, {value['tokens']:,} tokens of the pool ({by})"
    if isinstance(value, dict):
        window = f" (replicate {value['replicate']}, sample {value['start_sample']})" if "replicate" in value else ""
        return f"{value['name']} {value['fingerprint']}{window}"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)
