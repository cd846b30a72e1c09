"""The report of a pool: one self-contained HTML page of what became of every row that was read.

A section is a function from the pool to HTML, listed in SECTIONS; the look is in `common/html.py`. Equal pools give
equal bytes: no time and no path of this machine is in it, and every order is explicit.
"""

import bisect
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..common import storage
from ..common.html import Bar, Cell, Html, Number, definitions, document, fold
from ..common.html import code as _code
from ..common.html import count as _count
from ..common.html import paragraph as _p
from ..common.html import table as _table
from ..common.html import text as _text
from ..common.units import format_bytes, format_count, parse_count
from ..shards.artifact import Artifact
from ..shards.carve import capacity
from ..shards.tables.names import names_in
from ..shards.tables.table import Table
from . import report_sources, report_text
from .text.excerpts import LARGEST_CLUSTERS, Excerpts

FIRST_ROWS = 20
"""Rejects and contaminated documents that are shown."""

IDS_PER_CLUSTER = 3
REPLICATES = (1, 2, 4, 8)
SMALLEST_SUBSET = 500_000
MOST_SOURCES = 4
"""Sources that are shown without folding them away."""


def write_report(pool: Artifact, excerpts: Excerpts, path: str) -> None:
    """Write the page for `pool`, whose tables lie in its folder, to the file `path` (local or URL)."""
    storage.write_atomic(path, render(pool, excerpts).encode(), flush=False)


def render(pool: Artifact, excerpts: Excerpts) -> Html:
    """Return the page for `pool`, whose tables lie in its folder."""
    name, m = _text(pool.manifest.name), pool.manifest
    rows = _steps(pool)["rows read"]["documents"]
    lead = Html(
        f"{m.tokens:,} unique tokens in {_count(m.documents, 'document')}, made from {_count(rows, 'row')}.\n"
        "This page says what became of every row, and which subsets can be carved."
    )
    sections = [(key, title, section(pool, excerpts)) for key, title, section in SECTIONS]
    sections.insert(TEXT_AT, ("text", "Some text", report_text.some_text(excerpts)))
    title = f"Pool {name}: {m.tokens:,} unique tokens"
    return document(title, "epochal pool", name, lead, sections, report_text.STYLE)


def _overview(pool: Artifact, _: Excerpts) -> str:
    m, t = pool.manifest, pool.manifest.tokenizer
    pairs: list[tuple[str, Cell]] = [
        ("Unique tokens", m.tokens),
        ("Documents", m.documents),
        ("Samples", m.samples),
        ("Shards", m.shards),
        ("Tokens per sample", Html(f"{m.seq_len:,} <small>seq_len, {_text(m.dtype)}</small>")),
        ("Seed", str(m.seed)),
        ("Tokenizer", Html(f"{_text(t.name)} <small>{t.vocab_size:,} ids</small>")),
        ("Special ids", f"EOD {t.eod}, PAD {t.pad}, MASK {t.mask}"),
        ("Fingerprint", _code(m.fingerprint)),
        ("Tokenizer’s fingerprint", _code(t.fingerprint)),
    ]
    if kept := pool.manifest.statistics.get("kept"):
        pairs.append(
            ("Fields of the rows in documents.parquet", ", ".join(f"{k} ({kind})" for k, kind in kept.items()))
        )
    return definitions(pairs)


def _waterfall(pool: Artifact, _: Excerpts) -> str:
    steps = pool.manifest.statistics["waterfall"]
    documents = _falling([s["documents"] for s in steps], "documents")
    tokens = _falling([s["tokens"] for s in steps], "tokens")
    rows = zip((s["step"] for s in steps), documents, tokens, strict=True)
    size = format_bytes(pool.manifest.statistics["text_bytes"])
    return (
        _p(f"From what was read to what is packed. Tokens are known once text is encoded: {size} of it were.")
        + _p("Full bars are what there is at a step, short ones what the step took away.", "note")
        + _table(["Step", "Documents", "Tokens"], rows, "wide")
    )


def _falling(values: Sequence[int | None], unit: str) -> Iterator[Cell]:
    """Yield a bar for each step: what there is (positive values), or what was taken off its end (the others)."""
    whole = max((v for v in values if v is not None), default=0) or 1
    left = 0
    for value in values:
        if value is None:
            yield Bar("unknown", 0, 0, "not encoded yet", "unknown")
            continue
        before, left = left, value if value > 0 else left + value
        title = f"{_signed(value)} {unit}, {_percent(abs(value) / whole)} of {whole:,}"
        if value > 0:
            yield Bar(_signed(value), 0, value / whole, title)
        else:
            yield Bar(_signed(value), left / whole, (before - left) / whole, title, "goes")


def _sources(pool: Artifact, _: Excerpts) -> str:
    sources = pool.manifest.statistics["sources"]
    whole = sum(s["tokens"] for s in sources.values()) or 1
    ranked = sorted(sources.items(), key=lambda item: (-item[1]["tokens"], item[0]))
    rows = [
        (name, s["rows"], s["encoded"], s["documents"], _share_bar(s["tokens"], whole, whole, name, "tokens"))
        for name, s in ranked
    ]
    head, others = ["Source", "Rows read", "Encoded", "Kept", "Tokens"], rows[MOST_SOURCES:]
    return (
        _p("Documents and tokens that were kept, those of the validation pool included.")
        + _table(head, rows[:MOST_SOURCES], "stack")
        + (fold(_count(len(others), "smaller source"), _table(head, others, "stack")) if others else "")
        + report_sources.facts(pool)
        + report_sources.by_source(pool, _way)
    )


def _way(steps: report_sources.Steps) -> Html:
    """Return the waterfall of one source."""
    bars = _falling([n for _, n in steps], "documents")
    return _table(["Step", "Documents"], zip((step for step, _ in steps), bars, strict=True))


def _lengths(pool: Artifact, _: Excerpts) -> str:
    sources = pool.manifest.statistics["sources"].values()
    documents, tokens = sum(s["documents"] for s in sources), sum(s["tokens"] for s in sources)
    mean = f"{tokens / max(documents, 1):,.0f}"
    return _p(
        f"Tokens per kept document, its end-of-document token and the validation pool included; {mean} on average."
    ) + _histogram(pool.manifest.statistics["document_lengths"], "Tokens", "Documents")


def _filters(pool: Artifact, _: Excerpts) -> str:
    filters = pool.manifest.statistics["filters"]
    if not filters:
        return _p("No filter was used.")
    rows: list[list[Cell]] = []
    for f in filters:
        seen = f["seen"] or 1
        rows.append([f["name"], f["seen"], _share_bar(f["removed"], seen, seen, f["name"], "documents", "goes")])
        if f["changed"]:
            changed = f"changed the text of {_count(f['changed'], 'document')} that it kept"
            rows.append([Html(f'<span class="inner quiet">{changed}</span>'), "", ""])
        rows += [
            [Html(f'<span class="inner quiet">{_text(reason)}</span>'), "", n] for reason, n in _ranked(f["reasons"])
        ]
    lead = "In order: each filter sees what the one before it left. filtered.parquet lists what they removed."
    return _p(lead) + _table(["Filter", "Saw", "Removed"], rows, "wide")


def _rejects(pool: Artifact, _: Excerpts) -> str:
    statistics = pool.manifest.statistics
    empty = -_steps(pool)["empty"]["documents"]
    files = statistics["files_not_read"]
    unread = _p(f"{_count(files, 'whole file')} not read. left_out.parquet lists them.") if files else ""
    counts = statistics["rejected"] | ({"empty": empty} if empty else {})
    if not counts:
        return _p("Every row could be used.") + unread
    total, most = sum(counts.values()), max(counts.values())
    reasons = [(reason, _share_bar(n, most, total, reason, "rows", "goes")) for reason, n in _ranked(counts)]
    listed = _open_table(pool, "rejects")
    first = [(r["source"], _code(r["file"]), r["row"], r["reason"]) for r in _first_rows(listed, FIRST_ROWS)]
    return (
        _p(f"{_count(total, 'row')} could not be used. rejects.parquet lists them.")
        + _table(["Reason", "Rows"], reasons, "slim")
        + unread
        + fold(
            _first("Which rows", len(first), listed.n_rows, "rejects.parquet"),
            _table(["Source", "File", "Row, from 0", "Reason"], first, "stack"),
        )
    )


def _duplicates(pool: Artifact, excerpts: Excerpts) -> str:
    steps = _steps(pool)
    encoded = steps["encoded"]
    rows: list[list[Cell]] = [
        [kind, *(_share_bar(-step[unit], encoded[unit], encoded[unit], kind, unit, "goes") for unit in _UNITS)]
        for kind, step in (("Exact", steps["exact duplicates"]), ("Near", steps["near-duplicates"]))
    ]
    parts: list[str] = [
        _p("Removed because a copy, or a document much like it, was kept. duplicates.parquet lists them."),
        _table(["Duplicates", "Documents", "Tokens"], rows, "wide"),
    ]
    sizes = pool.manifest.statistics["cluster_sizes"]
    if sizes:
        clusters = _largest_clusters(_open_table(pool, "duplicates"), excerpts.clusters)
        n_clusters = sum(n for _, n in sizes)
        note = "Some documents of each, first the kept one with their number. Similarity to it is estimated."
        parts += [
            fold(
                f"Cluster sizes <small>{_count(n_clusters, 'cluster')}</small>",
                _p("Documents per cluster, the one that was kept included.", "note")
                + _histogram(sizes, "Documents", "Clusters"),
            ),
            fold(
                _first("The largest clusters", min(LARGEST_CLUSTERS, n_clusters), n_clusters, "duplicates.parquet"),
                _p(note, "note") + _table(["Document", "Cluster", "Similarity"], clusters),
            ),
        ]
    return "".join(parts)


_UNITS = ("documents", "tokens")


def _largest_clusters(table: Table, clusters: Sequence[tuple[int, int]]) -> Iterator[tuple[Cell, ...]]:
    """Yield rows (id, documents, similarity) for the kept and some removed documents of the largest clusters."""
    for start, n_removed in clusters:
        members = _rows_at(table, start, min(n_removed, IDS_PER_CLUSTER), ("id", "survivor_id", "similarity"))
        yield _code(members[0]["survivor_id"]), n_removed + 1, Number("kept")
        for row in members:
            yield Html(f'<span class="inner">{_code(row["id"])}</span>'), "", Number(f"{row['similarity']:.2f}")


def _decontamination(pool: Artifact, excerpts: Excerpts) -> str:
    evaluation = pool.manifest.statistics["evaluation"]
    if evaluation is None:
        return _p("No evaluation files were given: nothing was looked for.")
    table, hits = _open_table(pool, "contaminated"), excerpts.hits
    documents = -_steps(pool)["contaminated"]["documents"]
    short = _count(evaluation["too_short"], "item")
    files = [(_code(f["name"]), f["items"], hits.get(f["name"], 0)) for f in evaluation["files"]]
    first = [
        (_code(r["id"]), _code(r["evaluation_file"]), r["item"], r["ngram"]) for r in _first_rows(table, FIRST_ROWS)
    ]
    examples = fold(
        _first("Hits", len(first), sum(hits.values()), "contaminated.parquet"),
        _table(["Document", "File", "Item, from 0", "Words"], first, "stack"),
    )
    return (
        _p(f"{_count(documents, 'document')} removed that shared {evaluation['ngram']} words in a row with an item.")
        + _p(f"{short} with fewer words than that could not be looked for. contaminated.parquet lists the hits.")
        + _table(["Evaluation file", "Items", "Hits"], files)
        + (examples if first else "")
    )


def _subsets(pool: Artifact, _: Excerpts) -> str:
    m = pool.manifest
    most = {n: capacity(pool, n - 1) for n in REPLICATES}
    fits = [(n, _share_bar(most[n], m.tokens, m.tokens, f"{n} replicates", "tokens")) for n in REPLICATES]
    command = f"epochal carve pools/{shlex.quote(m.name)} --unique-tokens"
    lines = [
        (
            Number(size),
            max(n for n in REPLICATES if most[n] >= parse_count(size)),
            _code(f"{command} {size}", uncut=True),
        )
        for size in map(format_count, _round_sizes(most[1]))
    ]
    return (
        _p("The most unique tokens that disjoint replicates can have each: no two share a document.")
        + _table(["Replicates", "Tokens each"], fits)
        + "<h3>To carve</h3>\n"
        + "<p>In the folder that holds <code>pools/</code>. A smaller subset is a prefix of a larger one. For another "
        "draw of the same size add <code>--replicate 1</code>, and so on.</p>\n"
        + fold(
            f"{_count(len(lines), 'size')}, each with its command",
            _table(["Unique tokens", "Replicates that fit", "Command"], lines, "stack"),
        )
    )


def _round_sizes(most: int) -> list[int]:
    """Return 500k, 1M, 2M, 5M, 10M ... up to `most`; for smaller pools the three largest such numbers."""
    fitting = [d * 10**e for e in range(len(str(most))) for d in (1, 2, 5) if d * 10**e <= most]
    return [n for n in fitting if n >= SMALLEST_SUBSET] or fitting[-3:]


def _versions(pool: Artifact, _: Excerpts) -> str:
    items = "".join(f"<li>{_text(k)} <span>{_text(v)}</span></li>\n" for k, v in sorted(pool.manifest.versions.items()))
    packages = _count(len(pool.manifest.versions), "package")
    return _p("What made these bytes.") + fold(packages, f'<ul class="versions">\n{items}</ul>\n')


def _first(title: str, first: int, total: int, file: str) -> Html:
    """Return the line of a fold that holds the first rows of a table, and where the others are."""
    more = f"the first {first:,} of {total:,}; all are in {file}" if first < total else f"{total:,}"
    return Html(f"{_text(title)} <small>{more}</small>")


SECTIONS: tuple[tuple[str, str, Callable[[Artifact, Excerpts], str]], ...] = (
    ("pool", "Pool", _overview),
    ("waterfall", "Waterfall", _waterfall),
    ("sources", "Sources", _sources),
    ("lengths", "Document lengths", _lengths),
    ("rejects", "Unusable rows", _rejects),
    ("filters", "Filters", _filters),
    ("decontamination", "Decontamination", _decontamination),
    ("duplicates", "Duplicates", _duplicates),
    ("subsets", "Subsets", _subsets),
    ("versions", "Versions", _versions),
)
"""(anchor, title, what returns its HTML)"""

TEXT_AT = [key for key, _, _ in SECTIONS].index("subsets")
"""Before which of them the excerpts stand."""


def _steps(pool: Artifact) -> dict[str, Any]:
    return {step["step"]: step for step in pool.manifest.statistics["waterfall"]}


def _open_table(pool: Artifact, name: str) -> Table:
    """Return a table of a pool that is being built."""
    return Table(pool.root, names_in(storage.names(pool.root), name))


def _first_rows(table: Table, n: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for group in table.groups():
        rows += group.slice(0, n - len(rows)).to_pylist()
        if len(rows) == n:
            break
    return rows


def _rows_at(table: Table, start: int, n: int, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return up to `n` rows from row `start` on, none beyond its row group."""
    group = bisect.bisect_right(table.edges, start) - 1
    rows: list[dict[str, Any]] = table.read(group, columns).slice(start - int(table.edges[group]), n).to_pylist()
    return rows


def _ranked(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Return the counts, largest first, equal ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _histogram(bins: Sequence[Sequence[int]], value: str, unit: str) -> Html:
    """Return bins [lower edge, count] over powers of two as a table with bars."""
    most, total = max(n for _, n in bins), sum(n for _, n in bins)
    labels = [f"{edge:,}" if edge == 1 else f"{edge:,} – {2 * edge - 1:,}" for edge, _ in bins]
    rows = [
        (Number(_text(label)), _share_bar(n, most, total, f"{label} {value.lower()}", unit.lower()))
        for label, (_, n) in zip(labels, bins, strict=True)
    ]
    return _table([value, unit], rows, "slim")


def _share_bar(n: int, longest: int, whole: int, name: str, unit: str, kind: str = "stays") -> Bar:
    """Return a bar for `n` on a track as long as `longest`, with its share of `whole` on hovering."""
    title = f"{name}: {n:,} {unit}, {_percent(n / max(whole, 1))} of {whole:,}"
    return Bar(f"{n:,}", 0, n / max(longest, 1), title, kind)


def _signed(n: int) -> str:
    return f"{n:,}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
