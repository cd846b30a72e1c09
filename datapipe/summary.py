"""What a build says in its last lines: what it left out, how much of it, and in which table each of it is listed."""

from collections.abc import Iterator
from typing import Any

from ..common.html import count as _count
from ..shards.manifest import Manifest
from ..shards.tables.names import pattern_of

WIDTH = 79
REASONS = 3
"""Reasons and filters that a line names."""

_NAME = 22
"""Room for the name of a table."""


def left_out(pool: Manifest, validation: Manifest | None) -> list[str]:
    """Return lines of at most `WIDTH` characters on what is not in the pool, the first of them a heading."""
    steps = {step["step"]: -step["documents"] for step in pool.statistics["waterfall"]}
    rows = _count(-steps["rows read"], "row")
    lines = [(_listed(name, pool), said) for name, said in _tables(pool.statistics, steps)]
    lines += _held_out(pool, validation)
    heading = f"left out of {rows} (the tables lie beside the pool):" if lines else f"nothing was left out of {rows}"
    return [heading, *(_cut(f"  {name:<{_NAME}}{said}") for name, said in lines), *_not_looked_for(pool.statistics)]


def _not_looked_for(statistics: dict[str, Any]) -> Iterator[str]:
    """Yield a line where there are evaluation items that cannot be recognised."""
    evaluation = statistics.get("evaluation") or {}
    if short := evaluation.get("too_short"):
        items = sum(file["items"] for file in evaluation["files"])
        yield (
            f"{short:,} of {_count(items, 'evaluation item')} {'has' if items == 1 else 'have'} fewer than "
            f"{evaluation['ngram']} words: {'it was' if short == 1 else 'they were'} not looked for"
        )


def _tables(statistics: dict[str, Any], steps: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield (table, what it lists) for each kind of loss."""
    rejected = statistics["rejected"]
    if rejected:
        yield "rejects.parquet", f"{_count(sum(rejected.values()), 'row')}: {_ranked(rejected)}"
    if steps.get("empty"):
        yield "rejects.parquet", _count(steps["empty"], "empty row")
    if statistics.get("files_not_read"):
        yield "left_out.parquet", f"{_count(statistics['files_not_read'], 'whole file')}"
    filtered = {f["name"]: f["removed"] for f in statistics["filters"] if f["removed"]}
    if filtered:
        yield "filtered.parquet", f"{_count(sum(filtered.values()), 'document')}: {_ranked(filtered)}"
    changed = {f["name"]: f["changed"] for f in statistics["filters"] if f.get("changed")}
    if changed:
        yield "cut by filters", f"{_count(sum(changed.values()), 'text')}: {_ranked(changed)}"
    if steps.get("contaminated"):
        yield "contaminated.parquet", _count(steps["contaminated"], "document")
    copies = {kind: steps[step] for kind, step in (("exact", "exact duplicates"), ("near", "near-duplicates"))}
    if any(copies.values()):
        yield "duplicates.parquet", f"{_count(sum(copies.values()), 'document')}: {_ranked(copies)}"


def _listed(name: str, pool: Manifest) -> str:
    """Return the name of a table's file, or a pattern of its files; a pool of an earlier version may not have it."""
    if not name.endswith(".parquet"):
        return name
    return pattern_of(pool.files, name.removesuffix(".parquet")) or "(in no table)"


def _held_out(pool: Manifest, validation: Manifest | None) -> list[tuple[str, str]]:
    """Return what went to the validation pool, or why there is none though one was asked for."""
    if validation is not None:
        share = validation.tokens / (pool.tokens + validation.tokens)
        documents = _count(validation.documents, "document")
        return [(f"pool {validation.name}", f"{documents}, {validation.tokens:,} tokens ({share:.1%}) for validation")]
    if pool.config.get("validation_tokens") == "auto":
        return [("no validation pool", "there are too few documents for one")]
    return []


def _ranked(counts: dict[str, int]) -> str:
    """Return the largest counts as `3 x, 2 y`, equal ones by name, and how many others there are."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{n:,} {name}" for name, n in ranked[:REASONS] if n]
    rest = sum(n for _, n in ranked[REASONS:])
    return ", ".join(shown + ([f"{rest:,} others"] if rest else []))


def _cut(line: str) -> str:
    """Return a line that can be printed, at most `WIDTH` characters long."""
    plain = "".join(c if c.isprintable() else "?" for c in line)
    return plain if len(plain) <= WIDTH else plain[: WIDTH - 1] + "…"
