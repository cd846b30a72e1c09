"""The dataset card, `README.md`: what an artifact or export is and how to read it, for people and for the hub.

It depends on the manifest alone, and holds no time and no path of a machine.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..facts import FACTS
from ..manifest import ExportManifest, Manifest
from .hub import metadata
from .markdown import code, dump_yaml, escaped, fenced, front_matter, linked, table
from .subject import Subject
from .usage import snippets

_MACHINE_PATH = re.compile(r"(file://)?/|~|[A-Za-z]:[\\/]")
_LEFT_OUT = "(a path of the machine that built it: see manifest.json)"


def card(s: Subject) -> str:
    """Return the text of the card."""
    sections = [f"# {escaped(s.manifest.name)}", *_about(s), *_counts(s), *_built(s), *_sources(s), *_reading(s)]
    return front_matter(metadata(s)) + "\n" + "\n\n".join([*sections, *_checking(s)]) + "\n"


# -- what it is -------------------------------------------------------------------------------------------------------

_LIES = {
    "pool": "Its shards are MDS files of MosaicML Streaming.",
    "copy": "Its shards are MDS files of MosaicML Streaming; the folder stands alone.",
    "wds": "Each sample is `<number>.tokens.npy` in WebDataset files.",
    "parquet": "Each sample is a list in column `input_ids` of Parquet files.",
    "megatron": "It is Megatron-LM's indexed dataset, `text_document.bin` and `text_document.idx`.",
    "bin": "It is one flat file of ids, `train.bin`.",
    "hf": "Each sample is a list in column `input_ids` of Arrow files, as `Dataset.save_to_disk` writes them.",
}


def _order(m: ExportManifest) -> str:
    """Return in which order an export's rows come."""
    if m.plan is None:
        return "canonical order"
    skipped = sum(stop - start for start, stop, _ in m.plan.get("skip", ()))
    if not skipped:
        return f"{m.tokens // m.unique_tokens} whole passes in the order of a plan"
    passes = m.plan["total_tokens"] // m.unique_tokens
    return f"{passes} whole passes in the order of a plan, less {skipped:,} positions that it skips"


def _about(s: Subject) -> Iterator[str]:
    """Yield paragraphs that say what it is."""
    m = s.manifest
    if isinstance(m, ExportManifest):
        order = _order(m)
        of = f"{code(m.parent.fingerprint)} ({escaped(m.parent.name)})"
        yield (
            f"An export: the {m.unique_tokens:,} unique tokens of {of}, {order}, for programs that read this format. "
            f"{_LIES[s.form]}"
        )
    elif m.parent is None:
        yield (
            f"A pool of token ids for pre-training: {m.tokens:,} unique tokens of {m.documents:,} documents without "
            f"duplicates, in an order that depends on the documents and the seed alone. {_LIES[s.form]}"
        )
    else:
        of = f"A subset of exactly {m.tokens:,} unique tokens of the pool {escaped(m.parent.name)}"
        place = f"replicate {m.parent.replicate}, from its sample {m.parent.start_sample:,}"
        lies = _lies_in_the_pool(m) if s.form == "view" else _LIES[s.form]
        yield f"{of} ({code(m.parent.fingerprint)}), {place} on. {lies}"
    if isinstance(m, Manifest) and m.without is not None:
        yield (
            f"Carved without {m.without.documents:,} documents of the pool, {m.without.tokens:,} tokens there, which "
            f"without.parquet lists ({', '.join(escaped(one.name) for one in m.without.by)}). {m.without.left_over:,} "
            "tokens of others, which filled no sample beside a shard that stayed whole, are left out with them."
        )
    yield "Made with epochal, which repeats exactly these tokens in orders that can be computed."


def _lies_in_the_pool(m: Manifest) -> str:
    assert m.parent is not None, "only subsets lie in a pool"
    where = escaped(m.parent.path)
    own = "at most one sample" if m.without is None else "the shards from which something was taken out"
    return (
        f"It is a view: its shards lie in the pool, at {where} as seen from this folder. The files here are the index, "
        f"and {own}; keep the pool at that place, or carve with `--materialize`."
    )


def _counts(s: Subject) -> Iterator[str]:
    m = s.manifest
    t = m.tokenizer
    special = f"EOD {t.eod}, PAD {t.pad}, MASK {t.mask}"
    rows = [
        ("tokens", f"{m.tokens:,}"),
        ("documents", f"{m.documents:,}"),
        ("samples", f"{m.samples:,} of {m.seq_len:,} tokens"),
        ("ids", f"{m.dtype}; {t.vocab_size:,} in the vocabulary; {special}"),
        ("tokenizer", f"{escaped(shareable(t.name))} ({code(t.fingerprint)})"),
        ("fingerprint", code(m.fingerprint)),
    ]
    yield "## What is in it"
    yield table(("", ""), rows)
    yield (
        "Documents follow each other, each ended by EOD, and are cut into samples wherever they begin and end. PAD is "
        "no token; at most the last sample ends in it."
    )


# -- how it was made --------------------------------------------------------------------------------------------------


def _built(s: Subject) -> Iterator[str]:
    m = s.manifest
    if isinstance(m, ExportManifest) or m.parent is not None:
        return
    if waterfall := m.statistics.get("waterfall"):
        yield "## What became of the text"
        rows = [(escaped(row["step"]), f"{row['documents']:,}", _count(row["tokens"])) for row in waterfall]
        yield table(("step", "documents", "tokens"), rows, numbers=(1, 2))
    if m.config:
        yield "## How it was built"
        yield fenced(dump_yaml(shareable(m.config)), "yaml")


def _count(n: int | None) -> str:
    return "" if n is None else f"{n:,}"


def shareable(value: Any) -> Any:
    """Return a configuration, or a part of one, without paths of the machine that it was used on."""
    if isinstance(value, Mapping):
        return {key: shareable(inner) for key, inner in value.items() if key != "sha256"}
    if isinstance(value, list):
        return [shareable(inner) for inner in value]
    return _LEFT_OUT if isinstance(value, str) and _MACHINE_PATH.match(value) else value


def _sources(s: Subject) -> Iterator[str]:
    known = [key for key in FACTS if key != "citation" and any(key in source for source in s.sources)]
    counted = _by_source(s.manifest)
    yield "## Where the text comes from"
    if not (known or counted or any("citation" in source for source in s.sources)):
        yield "Nothing is stated of its sources: no licence, no citation, no address."
        return
    head = ["source", *(["documents", "tokens"] if counted else []), *known]
    rows = []
    for source in s.sources:
        numbers = counted.get(source["name"], {})
        counts = [_count(numbers.get(key)) for key in ("documents", "tokens")] if counted else []
        rows.append([escaped(source["name"]), *counts, *(_fact(source.get(key, "not stated")) for key in known)])
    yield table(head, rows, numbers=(1, 2) if counted else ())
    if counted:
        yield "Counted before the validation pool was taken out."
    if "license" not in known:
        yield "No licence is stated for any source."
    for source in s.sources:
        if "citation" in source:
            yield f"Cite {escaped(source['name'])} as"
            yield fenced(str(source["citation"]))


def _by_source(m: Manifest | ExportManifest) -> dict[str, dict[str, int]]:
    return {} if isinstance(m, ExportManifest) else m.statistics.get("sources", {})


def _fact(value: Any) -> str:
    return ", ".join(linked(v) for v in (value if isinstance(value, list) else [value]))


# -- how to read it ---------------------------------------------------------------------------------------------------


def _reading(s: Subject) -> Iterator[str]:
    yield "## How to read it"
    yield "In this folder, in Python:"
    for tool, program in snippets(s):
        yield f"**{tool}**"
        yield fenced(program, "python")
    if s.rows is None:
        yield (
            "`datasets.load_dataset` finds no rows here. A form that it reads: "
            "`epochal export SUBSET --format parquet --out NEW`."
        )
    if s.window is not None:
        yield (
            "The rows are those of the pool: `start` counts from its first token, and the last document, which the end "
            "of the subset may cut, has the number of its tokens in the pool."
        )


def _checking(s: Subject) -> Iterator[str]:
    yield "## How to check it"
    yield (
        "`sha256sum -c SHA256SUMS` checks the files of this folder but manifest.json, which vouches for the sums. "
        "`epochal verify` checks every token besides, "
        + ("those in the pool too." if s.form == "view" else "and the fingerprint.")
    )
    parent = s.manifest.parent
    if parent is not None:
        yield f"How the text was cleaned is in the card of the pool; this was made from {code(parent.fingerprint)}."
