"""`epochal peek`: the text of some samples or documents of an artifact."""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..common.cli import Runner, add_examples, for_terminal, print_json
from ..common.errors import RequestError
from ..common.units import parse_count

CHARACTERS = 400
"""Of each text, shown unless all of it is asked for."""


def peek(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal peek`; return what runs it."""
    add_examples(
        parser,
        "peek artifacts/pools/mine",
        "peek artifacts/subsets/mine-500M --sample 12000 --count 2 --whole",
        "peek artifacts/pools/mine --document 7",
    )
    parser.add_argument("artifact", metavar="ARTIFACT", help="folder or URL of a pool or subset")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sample", metavar="N", help="from this sample on, the first is 0 (default 0)")
    which.add_argument("--document", metavar="N", help="from this document of a pool or copy on, the first is 0")
    parser.add_argument("--count", default="1", metavar="N", help="so many of them (default 1)")
    parser.add_argument("--whole", action="store_true", help=f"all of each, not its first {CHARACTERS} characters")
    parser.add_argument("--tokenizer", metavar="PATH", help="its tokenizer.json, for an artifact that carries none")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, with the ids")
    return _peek


def _peek(args: argparse.Namespace) -> int:
    from ..shards.artifact import open_artifact
    from .tokenizer import folder_tokenizer, spell

    artifact = open_artifact(args.artifact)
    tokenizer = folder_tokenizer(args.artifact, args.tokenizer)
    count = parse_count(args.count, "--count")
    if args.document is None:
        found = _samples(artifact, parse_count(args.sample or "0", "--sample"), count)
    else:
        found = _documents(artifact, parse_count(args.document, "--document"), count)
    names = {tokenizer.info.eod: "<EOD>", tokenizer.info.mask: "<MASK>"}
    for said, ids in found:
        text = spell(ids, names, tokenizer.decode)
        if args.json:
            print_json(said | {"text": text, "ids": ids})
            continue
        head = (f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}" for key, value in said.items())
        print(for_terminal("  ".join(head)))
        left = 0 if args.whole else max(0, len(text) - CHARACTERS)
        more = f" ... ({left:,} characters more: --whole)" if left else ""
        print(for_terminal(text[: len(text) - left], keep="\n\t") + more)
        print()
    return 0


def _samples(artifact: Any, first: int, count: int) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Yield samples of an artifact and their ids, without PAD."""
    from ..shards.loader.sample_reader import SampleReader

    m = artifact.manifest
    if first >= m.samples:
        raise RequestError(f"--sample {first:,}: there are {m.samples:,} samples, the first is 0")
    reader = SampleReader.of(artifact)
    for number in range(first, min(first + count, m.samples)):
        (ids,) = reader.read(np.array([number]))
        yield {"sample": number}, ids[: m.tokens - number * m.seq_len].tolist()


def _documents(artifact: Any, first: int, count: int) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Yield documents of an artifact that has a table of them, and their ids, EOD included."""
    from ..shards.documents import has_documents, open_documents, rows
    from ..shards.loader.sample_reader import SampleReader

    m = artifact.manifest
    if not has_documents(m.files):
        raise RequestError(f"{artifact.root} is a {m.kind}: documents are listed in the pool that it was made from")
    documents = open_documents(artifact.root).n_rows
    if first >= documents:
        raise RequestError(f"--document {first:,}: there are {documents:,} documents, the first is 0")
    reader = SampleReader.of(artifact)
    for number, row in enumerate(rows(artifact.root, first, min(first + count, documents)), first):
        start, stop = row["start"], row["start"] + row["tokens"]
        samples = np.arange(start // m.seq_len, -(-stop // m.seq_len))
        ids = np.concatenate(list(reader.read(samples)))[start - samples[0] * m.seq_len :][: row["tokens"]]
        said = {"document": number, "id": row["id"], "source": row["source"], "tokens": row["tokens"]}
        yield said, ids.tolist()
