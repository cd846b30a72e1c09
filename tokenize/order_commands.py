"""`epochal order`: which samples a run reads at which positions, which documents lie in them, and their text.

It stands here and not beside `epochal plan` because text needs a tokenizer.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..common.cli import Runner, add_examples, for_terminal, print_json
from ..common.errors import RequestError
from ..common.units import parse_count
from ..shards.artifact import Artifact, open_artifact
from ..shards.order.amendment.amend import amend
from ..shards.order.amendment.amended import Amended
from ..shards.order.base import Order
from ..shards.order.commands import add_budget, add_order, asked, asked_skips, budget, opened_mixture
from ..shards.order.mixture_config import mixture_file
from ..shards.order.plan import Plan

MOST_SHOWN = 10_000_000
"""Positions that are printed at most: beyond that a program should compute them (docs/repetition.md)."""

MOST_WITH_DOCUMENTS = 100_000
"""The same with their documents."""


def order(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal order`; return what runs it."""
    add_examples(
        parser,
        "order artifacts/subsets/mine-500M --count 8",
        "order artifacts/subsets/mine-500M --seed 3 --start 1000000 --count 8 --json",
        "order artifacts/subsets/mine-500M --step 120 --batch-tokens 524288 --documents --text",
        "order artifacts/subsets/mine-500M --epochs 4 --document ID",
    )
    parser.add_argument(
        "subset", metavar="SUBSET", help="folder or URL of a subset or pool, or the YAML file of a mixture"
    )
    first = parser.add_mutually_exclusive_group()
    first.add_argument("--start", metavar="N", help="first position (samples from the run's beginning; default 0)")
    first.add_argument("--step", metavar="N", help="the positions of this step, the first is 0; with --batch-tokens")
    parser.add_argument("--count", metavar="N", help="number of positions")
    parser.add_argument("--batch-tokens", metavar="N", help="tokens of a global batch, for --step: 524288")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--documents", action="store_true", help="the documents in each sample, and how much of each")
    what.add_argument("--document", metavar="KEY|ID", help="where this document comes in the run")
    parser.add_argument("--text", action="store_true", help="with --documents, what the sample holds of each as text")
    parser.add_argument("--tokenizer", metavar="PATH", help="its tokenizer.json, for an artifact that carries none")
    add_budget(parser)
    add_order(parser)
    return _run


def _run(args: argparse.Namespace) -> int:
    if args.text and not args.documents:
        raise RequestError("--text goes with --documents: say both")
    the_order, artifacts, positions = _asked_for(args)
    if args.document is not None:
        return _show_places(args, the_order, artifacts, positions)
    if args.documents:
        return _show_documents(args, the_order, artifacts, positions)
    return _show_ids(args, the_order, positions)


def _asked_for(args: argparse.Namespace) -> tuple[Order, tuple[Artifact, ...], range]:
    """Return the order, the artifacts of its components, and the positions that are asked for."""
    positions = _positions(args)
    if mixture_file(args.subset):
        opened = opened_mixture(args)
        the_order: Order = opened.mixture
        artifacts, ends = opened.artifacts, True
    else:
        artifacts, ends = (open_artifact(args.subset),), asked(args)
        the_order = _plan_to_show(args, artifacts[0], positions)
    the_order = amend(the_order, asked_skips(args))
    if positions is None:
        return the_order, artifacts, range(the_order.positions)
    if args.step is not None and ends:  # the last step may be short
        positions = range(positions.start, max(positions.start + 1, min(positions.stop, the_order.positions)))
    if ends and positions.stop > the_order.positions:
        raise RequestError(f"the run ends at position {the_order.positions}: ask for less, or a larger budget")
    return the_order, artifacts, positions


def _positions(args: argparse.Namespace) -> range | None:
    """Return the positions that the arguments name, None for all of the run. Raises RequestError."""
    if args.step is not None:
        if args.count is not None or args.batch_tokens is None:
            raise RequestError("--step is one step, of --batch-tokens: give that, and no --count")
        batch = _batch_samples(args)
        start = parse_count(args.step, "--step") * batch
        return range(start, start + batch)
    if args.batch_tokens is not None:
        raise RequestError("--batch-tokens goes with --step: say which step")
    if args.count is None:
        if args.document is not None and args.start is None:
            return None
        raise RequestError("say how many positions: --count 8")
    start, count = parse_count(args.start or "0", "--start"), parse_count(args.count, "--count")
    most = MOST_WITH_DOCUMENTS if args.documents else MOST_SHOWN
    if count > most and args.document is None:
        raise RequestError(f"--count is at most {most:,}: for more, compute them (docs/repetition.md)")
    return range(start, start + count)


def _batch_samples(args: argparse.Namespace) -> int:
    """Return the samples of a step, without a plan that could be shorter than one."""
    path = args.subset
    seq_len = opened_mixture(args).mixture.seq_len if mixture_file(path) else open_artifact(path).manifest.seq_len
    samples, rest = divmod(parse_count(args.batch_tokens, "--batch-tokens"), seq_len)
    if rest or not samples:
        raise RequestError(f"--batch-tokens {args.batch_tokens} is no whole number of samples of {seq_len:,} tokens")
    if samples > MOST_WITH_DOCUMENTS:
        raise RequestError(f"a step of {samples:,} samples is too large to show: use --start and --count")
    return samples


def _plan_to_show(args: argparse.Namespace, artifact: Artifact, positions: range | None) -> Plan:
    """Return the plan whose positions are asked for, as long as it needs to be."""
    manifest = artifact.manifest
    length = asked(args)
    if args.policy == "global" and not length:
        raise RequestError(
            "the policy global shuffles all passes together: say how many with --epochs or --total-tokens"
        )
    if positions is None and not length:
        raise RequestError("say how long the run is, with --epochs or --total-tokens, or --count positions of it")
    skips = asked_skips(args)
    last = (positions.stop if positions else 0) + sum(map(len, skips))
    passes = -(-max([last, *(skip.stop for skip in skips)]) // manifest.samples) or 1
    tokens = budget(args, manifest.tokens) if length else passes * manifest.tokens
    return Plan.for_artifact(manifest, tokens, args.seed, args.policy or "reshuffle")


# -- what is shown ----------------------------------------------------------------------------------------------------


def _show_ids(args: argparse.Namespace, the_order: Order, positions: range) -> int:
    ids = the_order.ids(positions)
    columns = {"ids": ids.tolist(), "positions": list(positions)}
    mixed = the_order.kind == "mixture"
    if mixed:
        numbers, inner = the_order.locate(ids)
        names = list(the_order.components())
        columns |= {"sources": [names[s] for s in numbers], "source_ids": inner.tolist()}
    if isinstance(the_order, Amended):
        columns["own_positions"] = the_order.own_positions(positions).tolist()
    if args.json:
        print_json(columns)
        return 0
    shown = ["positions", "sources", "source_ids"] if mixed else ["positions", "ids"]
    shown += ["own_positions"] if "own_positions" in columns else []
    for row in zip(*(columns[name] for name in shown), strict=True):
        print(*row)
    return 0


def _show_documents(
    args: argparse.Namespace, the_order: Order, artifacts: tuple[Artifact, ...], positions: range
) -> int:
    from ..shards.order.contents import contents, documents_of

    found = contents(the_order, [documents_of(artifact) for artifact in artifacts], positions)
    rows = [content.to_dict() for content in found]
    if args.text:
        for row, texts in zip(rows, _texts(args, artifacts, the_order, found), strict=True):
            for document, text in zip(row["documents"], texts, strict=True):
                document["text"] = text
    if args.json:
        print_json({"positions": rows})
        return 0
    for row in rows:
        where = f"  {row['component']} {row['sample']}" if "component" in row else ""
        print(for_terminal(f"position {row['position']}  sample {row['id']}{where}"))
        for document in row["documents"]:
            print(for_terminal(f"  {_part(document)}"))
            if args.text:
                print(for_terminal(document["text"], keep="\n\t"))
    return 0


def _part(document: dict[str, Any]) -> str:
    """Return which part of a document it is, for people."""
    end = document["begin"] + document["tokens"]
    whole = "" if document["tokens"] < document["of"] else ", whole"
    span = f"tokens {document['begin']}-{end - 1} of {document['of']}{whole}"
    return f"{document['id']}  {document['source']}  {span}  {document['key']}"


def _texts(
    args: argparse.Namespace, artifacts: tuple[Artifact, ...], the_order: Order, found: list[Any]
) -> Iterator[list[str]]:
    """Yield what each sample holds of each of its documents as text."""
    from ..shards.loader.order_reader import OrderReader
    from .tokenizer import folder_tokenizer, spell

    tokenizer = folder_tokenizer(artifacts[0].root, args.tokenizer)
    names = {tokenizer.info.eod: "<EOD>", tokenizer.info.mask: "<MASK>"}
    reader = OrderReader.of(the_order, artifacts)
    for content in found:
        (ids,) = reader.read([content.position], np.array([content.id])).tolist()
        ends = np.cumsum([piece.tokens for piece in content.documents]).tolist()
        spans = zip([0, *ends], ends, strict=False)
        yield [spell(ids[begin:end], names, tokenizer.decode) for begin, end in spans]


def _show_places(args: argparse.Namespace, the_order: Order, artifacts: tuple[Artifact, ...], positions: range) -> int:
    from ..shards.order.contents import documents_of, places

    found = places(the_order, [documents_of(artifact) for artifact in artifacts], args.document, positions)
    if args.json:
        print_json({"positions": [place.to_dict() for place in found]})
        return 0
    for place in found:
        where = f"  {place.component}" if place.component else ""
        head = f"position {place.position}  pass {place.pass_}{where}  sample {place.id}"
        print(for_terminal(f"{head}  {_part(place.to_dict()['document'])}"))
    if not found:
        print(f"it does not come in positions {positions.start:,} to {positions.stop - 1:,}")
    return 0
