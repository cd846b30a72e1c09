"""The public summary of training content, in the sections of the template of the European Commission for Article
53(1)(d) of Regulation (EU) 2024/1689. What only the provider knows is marked, and counted."""

from collections.abc import Iterator, Sequence
from typing import Any

from ...shards.description.markdown import code, escaped, linked, table
from ..commands import counted
from .account import Account, Dataset, LeftOut, OptOut, Pool, Removed, latest_date

TO_FILL_IN = "*to be filled in by the provider*"
SIZES = ((10**9, "less than 1 billion tokens"), (10**13, "1 billion to 10 trillion tokens"))
LARGEST = "more than 10 trillion tokens"
FACTS = (
    ("license", "licence"),
    ("url", "address"),
    ("collected", "collected"),
    ("language", "language"),
    ("pii", "personal data"),
)
NOT_STATED = "not stated"
NOT_KNOWN = "not known"
ILLEGAL_CONTENT = (
    "The manifests name the filters that 3.3 lists; whether they remove content that is illegal under Union law is not "
    "stated."
)


def summary(account: Account) -> str:
    """Return the summary as Markdown."""
    parts = [f"# Public summary of training content: {escaped(account.run)}", _made(account)]
    parts += [*_general(account), *_sources(account), *_processing(account), *_ledger(account)]
    return "\n\n".join(parts) + "\n"


def left_to_fill_in(text: str) -> int:
    """Return how many places of a summary are the provider's to fill in."""
    return text.count(TO_FILL_IN)


def _made(a: Account) -> str:
    return (
        f"Made with epochal {escaped(a.epochal)} from the manifests of the data sets and the ledger of the service. "
        f"Run {code(a.fingerprint)}, {escaped(a.state)}; its receipt, a digest over every sample that was read: "
        f"{escaped(a.receipt)}. What neither states is marked as such."
    )


def _general(a: Account) -> Iterator[str]:
    yield "## 1. General information"
    yield "### 1.1 Provider identification"
    yield _fields(("Provider name and contact details", TO_FILL_IN), ("Authorised representative", TO_FILL_IN))
    yield "### 1.2 Model identification"
    parents = [f"{escaped(s.run)} ({code(s.fingerprint)}, up to position {s.position:,})" for s in a.history[1:]]
    yield _fields(
        ("Versioned model name", f"{escaped(a.run)} ({code(a.fingerprint)})"),
        ("Model dependencies", "; ".join(parents) or "none: the run continues no other in this ledger"),
        ("Date of placement on the Union market", TO_FILL_IN),
    )
    yield "### 1.3 Modalities, overall training data size and other characteristics"
    unique = a.seen.unique_tokens if a.seen else None
    date, silent = latest_date(a)
    known = (date or NOT_STATED) + (f" (not stated of {counted(silent, 'source')})" if silent else "")
    languages = sorted({text for pool in a.pools for s in pool.sources for text in _list(s.facts.get("language"))})
    yield _fields(
        ("Modality", "text"),
        (
            "Training data size, text",
            _size(unique) if unique is not None else f"{NOT_STATED}: {escaped(a.not_counted)}",
        ),
        ("Types of content", TO_FILL_IN),
        ("Latest date of data acquisition", escaped(known)),
        ("Linguistic characteristics", ", ".join(map(escaped, languages)) or NOT_STATED),
        ("Tokenizer", ", ".join(sorted({escaped(pool.tokenizer) for pool in a.pools})) or NOT_STATED),
    )


def _size(tokens: int) -> str:
    words = next((text for most, text in SIZES if tokens < most), LARGEST)
    return f"{words} ({tokens:,} different tokens, EOD included)"


def _sources(a: Account) -> Iterator[str]:
    yield "## 2. List of data sources"
    yield (
        "All sources of the pools that the training data are cut from, as their manifests state them. Documents and "
        "tokens are those of a whole pool and its validation pool; section 4 says what of it the model was fed."
    )
    for pool in a.pools:
        yield f"**Pool {escaped(pool.name)}** ({code(pool.fingerprint)}): {pool.tokens:,} tokens"
        yield _source_table(pool)
    missing = [d for s in a.history for d in s.datasets if d.pool is None]
    if missing:
        names = ", ".join(code(d.fingerprint) for d in missing)
        yield f"Not in the catalogue, so that nothing is known of their sources: {names} ({len(missing):,})."
    kinds = (
        "2.1 Publicly available datasets",
        "2.2 Private non-publicly available datasets obtained from third parties",
        "2.3 Data crawled and scraped from online sources",
        "2.4 User data",
        "2.5 Synthetic data",
        "2.6 Other sources of data",
    )
    yield "Which of the sources above belong to which kind no manifest states:"
    yield _fields(*((kind, TO_FILL_IN) for kind in kinds))


def _source_table(pool: Pool) -> str:
    head = ["source", "documents", "tokens", *(title for _, title in FACTS)]
    rows = [
        [escaped(s.name), _count(s.documents), _count(s.tokens), *(_fact(s.facts.get(key)) for key, _ in FACTS)]
        for s in pool.sources
    ]
    return table(head, rows, numbers=(1, 2)) if rows else "Its manifest names no sources."


def _processing(a: Account) -> Iterator[str]:
    yield "## 3. Data processing aspects"
    yield "### 3.1 Respect of reservation of rights from text and data mining"
    taken = [(f"subset {d.name}", removed) for d in _datasets(a) for removed in d.without]
    lists = [(f"pool {pool.name}", one) for pool in a.pools for one in pool.left_out]
    lists += [(f"subset {d.name}", one) for d in _datasets(a) for one in d.left_out]
    if lists:
        yield "Lists of documents, and conditions on them, without which pools were built and subsets carved:"
        yield _left_out_table(lists)
    if taken:
        yield "Documents that were taken out of data sets before training:"
        yield _removed_table("data set", taken)
    if a.optouts:
        yield "Opt-out lists in force, and what of them the model was fed over its history:"
        yield _optout_table(a.optouts)
        yield from _holders(a.optouts)
    if not taken and not lists:
        yield "No manifest says that documents were taken out, or kept out, on request."
    yield f"Measures taken when the data were collected: {TO_FILL_IN}"
    yield "### 3.2 Removal of illegal content"
    yield f"{ILLEGAL_CONTENT} {TO_FILL_IN}"
    yield "### 3.3 What was taken out of the pools"
    steps = [(f"pool {pool.name}", removed) for pool in a.pools for removed in pool.removed]
    yield _removed_table("pool", steps) if steps else "No manifest states a step that took documents out."


def _optout_table(lists: Sequence[OptOut]) -> str:
    head = ("list", "entered", "lines", "documents in its data sets", "documents fed", "most exposures", "honoured")
    rows = [
        [
            f"{escaped(o.name)}, version {o.version}",
            o.entered,
            f"{o.lines:,}",
            f"{o.documents:,}",
            f"{o.fed:,}",
            f"{o.most_exposures:,}",
            _honoured(o),
        ]
        for o in lists
    ]
    return table(head, rows, numbers=(2, 3, 4, 5))


def _holders(lists: Sequence[OptOut]) -> Iterator[str]:
    rows = [(o, held) for o in lists for held in o.held_by]
    if not rows:
        yield "No data set of the model, and no pool that one is cut from, holds a document of them."
        return
    yield "Data sets of the model, and pools that they are cut from, that still hold documents of these lists:"
    cells = [
        [
            f"{escaped(o.name)}, version {o.version}",
            f"{held.kind} {escaped(held.name)}",
            code(held.fingerprint),
            NOT_KNOWN if held.documents is None else f"{held.documents:,}",
            NOT_KNOWN if held.tokens is None else f"{held.tokens:,}",
        ]
        for o, held in rows
    ]
    yield table(("list", "held by", "fingerprint", "documents", "tokens"), cells, numbers=(3, 4))


def _left_out_table(rows: Sequence[tuple[str, LeftOut]]) -> str:
    head = ("list", "left out of", "lines", "documents", "lines that name none")
    cells = [
        [_title(one), escaped(of), _count(one.lines), _count(one.documents), _count(one.unmatched)] for of, one in rows
    ]
    return table(head, cells, numbers=(2, 3, 4))


def _title(one: LeftOut) -> str:
    if one.kind == "condition":
        return f"condition: {escaped(one.name)}"
    return escaped(one.name) + (f", version {one.version}" if one.version is not None else "")


def _honoured(o: OptOut) -> str:
    """Return in words since when nothing of a list was fed."""
    if o.unknown:
        return f"not known of {counted(len(o.unknown), 'data set')}"
    if not o.fed:
        return "none was fed"
    return f"none since position {o.since[1]:,} of run {escaped(o.since[0])}" if o.since else "fed by the run itself"


def _removed_table(what: str, rows: Sequence[tuple[str, Removed]]) -> str:
    cells = [[escaped(of), escaped(r.step), _count(r.documents), _count(r.tokens)] for of, r in rows]
    return table((what, "step", "documents taken out", "tokens"), cells, numbers=(2, 3))


def _ledger(a: Account) -> Iterator[str]:
    yield "## 4. What the model was fed"
    rows = [
        [
            escaped(s.run),
            escaped(d.name),
            code(d.fingerprint),
            f"{d.unique_tokens:,}",
            f"{d.tokens_fed:,}",
            f"{d.passes:.4g}",
            d.policy,
        ]
        for s in a.history
        for d in s.datasets
    ]
    head = ("run", "data set", "fingerprint", "unique tokens", "tokens fed", "passes", "order")
    yield table(head, rows, numbers=(3, 4, 5))
    yield f"In all the model was fed {a.tokens_fed:,} tokens."
    if a.seen is None:
        yield f"How many of them differ, and of how many documents they are, was not counted: {escaped(a.not_counted)}."
        return
    yield (
        f"They are {a.seen.unique_tokens:,} different tokens of {a.seen.documents:,} documents; no token was fed more "
        f"than {a.seen.most_exposures:,} times."
    )


def _datasets(a: Account) -> list[Dataset]:
    """Return the data sets of all stretches, each once."""
    return list({d.fingerprint: d for s in a.history for d in s.datasets}.values())


def _fields(*pairs: tuple[str, str]) -> str:
    return table(("", ""), [(f"**{name}**", text) for name, text in pairs])


def _count(n: int | None) -> str:
    return NOT_STATED if n is None else f"{n:,}"


def _list(fact: Any) -> list[str]:
    return [] if fact is None else [str(text) for text in (fact if isinstance(fact, list) else [fact])]


def _fact(fact: Any) -> str:
    return ", ".join(map(linked, _list(fact))) or NOT_STATED
