"""Statistics: what became of rows, documents and tokens on their way to the pools, for the manifest and the report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import Source
from ..sources.base import NULL_CONDITION, reason_of, where_name
from ..text.excerpts import PER_FILTER, smallest
from ..text.exclude import STEP as EXCLUDE
from .cluster import TRAIN, VALIDATION
from .division import Corpus
from .duplicates import RemovedCounts
from .fates import DocumentCounts
from .ingest import COUNTS
from .kept import Counts, add_counts
from .parts import Part


@dataclass
class IngestTotals:
    """The counts of all ingest tasks together; see `ingest.COUNTS`.

    Attributes:
        rows: by source.
        accepted: by source.
        rejected: by reason.
        first_rejects: of each reason the first row: (source, file, row, names of its fields).
        left_out: damaged files: (source, file, reason).
        judged: what became of the rows of each source that has a condition, as `ingest` writes it.
        kept: as `KeptValues.counts`.
        longest_kept: bytes of the longest values of a document.
        hits: rows of the table of contaminated documents, by evaluation file.
        left_out_rows: rows of the tables of what was left out, by table.
        filters: as `filters.removed_by` returns them, summed.
        excluded: of each part, what it found of the lists of documents to leave out; see `Exclusion.counts`.
        excerpts: for each filter, rows as in `FilterStep.samples`.
    """

    rows: dict[str, int] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    first_rejects: dict[str, list[Any]] = field(default_factory=dict)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    judged: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: Counts = field(default_factory=dict)
    longest_kept: int = 0
    hits: dict[str, int] = field(default_factory=dict)
    left_out_rows: dict[str, int] = field(default_factory=dict)
    filters: list[dict[str, Any]] = field(default_factory=list)
    excluded: list[dict[str, list[str]]] = field(default_factory=list)
    excerpts: list[list[tuple[Any, ...]]] = field(default_factory=list)
    empty: int = 0
    contaminated: int = 0
    text_bytes: int = 0
    unknown: int = 0
    with_unknown: int = 0
    known_by_ids: int = 0


def ingest_totals(parts: Iterable[Part]) -> IngestTotals:
    """Sum the counts of the parts."""
    totals = IngestTotals()
    for part in parts:
        counts = part.counts
        for name in ("rows", "accepted", "rejected", "hits", "left_out_rows"):
            _add_to(getattr(totals, name), counts[name])
        for name in COUNTS:
            setattr(totals, name, getattr(totals, name) + counts[name])
        samples = [[tuple(row) for row in rows] for rows in counts["excerpts"]]
        before = totals.excerpts or [[] for _ in samples]
        totals.excerpts = [smallest(a + b, PER_FILTER) for a, b in zip(before, samples, strict=True)]
        for reason, place in counts["first_rejects"].items():
            totals.first_rejects[reason] = min(place, totals.first_rejects.get(reason, place))
        totals.left_out += map(tuple, counts["left_out"])
        for source, more in counts.get("judged", {}).items():
            _add_judged(totals.judged.setdefault(source, {"absent": {}, "fields": []}), more)
        add_counts(totals.kept, counts.get("kept", {}))
        totals.longest_kept = max(totals.longest_kept, counts.get("longest_kept", 0))
        totals.excluded += [counts["excluded"]] if "excluded" in counts else []
        if not totals.filters:
            totals.filters = [{**row, "reasons": dict(row["reasons"])} for row in counts["filters"]]
            continue
        for row, more in zip(totals.filters, counts["filters"], strict=True):
            for name in ("seen", "changed", "removed"):
                row[name] += more[name]
            _add_to(row["reasons"], more["reasons"])
    return totals


def _add_judged(judged: dict[str, Any], more: dict[str, Any]) -> None:
    for name in ("rows", "false", "null"):
        judged[name] = judged.get(name, 0) + more[name]
    _add_to(judged["absent"], more["absent"])
    judged["fields"] = sorted({*judged["fields"], *more["fields"]})


def conditions(totals: IngestTotals, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return what the conditions of sources took away, in the form of `filters.removed_by`."""
    found = []
    for source in sources:
        if source.where is None:
            continue
        judged = totals.judged.get(source.name, {})
        false, null = judged.get("false", 0), judged.get("null", 0)
        reasons = {reason_of(source.where): false, NULL_CONDITION: null}
        row = {"name": where_name(source.name), "seen": judged.get("rows", 0), "changed": 0, "removed": false + null}
        found.append(row | {"reasons": {reason: n for reason, n in sorted(reasons.items()) if n}})
    return found


def step_of(name: str) -> str:
    """Return what the waterfall calls the step of a filter, of a condition, or of lists of documents."""
    return name if name == EXCLUDE or name.startswith(where_name("")) else f"filter {name}"


def _add_to(counts: dict[str, int], more: dict[str, int]) -> None:
    for key, n in more.items():
        counts[key] = counts.get(key, 0) + n


def collect_statistics(
    corpus: Corpus,
    counts: DocumentCounts,
    removed: RemovedCounts,
    totals: IngestTotals,
    evaluation: dict[str, Any] | None,
    sources: Sequence[Source],
) -> dict[str, Any]:
    """Return what the manifest and the report say of the way from rows to pools; the same for any number of tasks."""
    ends = {
        name: (int(counts.documents[fate].sum()), int(counts.tokens[fate].sum()))
        for name, fate in (("validation", VALIDATION), ("pool", TRAIN))
    }
    filters = conditions(totals, sources) + totals.filters
    return {
        "waterfall": _waterfall(totals, filters, removed, ends, int(counts.tokens.sum()), evaluation is not None),
        "sources": _by_source(corpus, counts, totals),
        "rejected": dict(sorted(totals.rejected.items())),
        "filters": filters,
        "text_bytes": totals.text_bytes,
        "document_lengths": _histogram_rows(counts.lengths),
        "cluster_sizes": _histogram_rows(removed.sizes),
        "evaluation": evaluation,
    } | {name: getattr(totals, name) for name in ("unknown", "with_unknown", "known_by_ids") if getattr(totals, name)}


def _waterfall(
    totals: IngestTotals,
    filters: list[dict[str, Any]],
    removed: RemovedCounts,
    ends: dict[str, tuple[int, int]],
    tokens: int,
    decontaminated: bool,
) -> list[dict[str, Any]]:
    """Return steps in order: {"step", "documents", "tokens"}, the first what was read, the next what each took away,
    the last what is in the pool. Tokens are known (not null) from encoding on."""
    steps: list[tuple[str, int, int | None]] = [
        ("rows read", sum(totals.rows.values()), None),
        ("unusable rows", -sum(totals.rejected.values()), None),
    ]
    steps += [(step_of(row["name"]), -row["removed"], None) for row in filters]
    steps.append(("empty", -totals.empty, None))
    if decontaminated:
        steps.append(("contaminated", -totals.contaminated, None))
    steps += [
        ("encoded", sum(totals.accepted.values()), tokens),
        ("exact duplicates", -removed.exact_documents, -removed.exact_tokens),
        ("near-duplicates", -removed.near_documents, -removed.near_tokens),
    ]
    if ends["validation"][0]:
        steps.append(("validation pool", -ends["validation"][0], -ends["validation"][1]))
    steps.append(("pool", *ends["pool"]))
    return [{"step": step, "documents": n, "tokens": t} for step, n, t in steps]


def _by_source(corpus: Corpus, counts: DocumentCounts, totals: IngestTotals) -> dict[str, dict[str, int]]:
    table = {}
    for i, name in enumerate(corpus.sources):
        row = {"rows": totals.rows.get(name, 0), "encoded": totals.accepted.get(name, 0)}
        kept = {"documents": counts.documents, "tokens": counts.tokens}
        table[name] = row | {what: int(n[[TRAIN, VALIDATION], i].sum()) for what, n in kept.items()}
    return table


def _histogram_rows(counts: NDArray[np.int64]) -> list[list[int]]:
    """Return [[lower edge, count], ...] over powers of two, from the first to the last that is not empty."""
    filled = np.flatnonzero(counts)
    return [[1 << e, int(counts[e])] for e in range(filled[0], filled[-1] + 1)] if len(filled) else []
