"""The part of a pool's report that follows the rows of each source alone: what was read, what each step took away, what
is left. Counted in the tables that lie beside the pool; the rest follows from the manifest."""

from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from ..common import storage
from ..common.html import Html, fold, paragraph, shown, table, text
from ..common.html import count as _count
from ..shards.arrow import ONE_THREAD
from ..shards.artifact import Artifact
from ..shards.facts import facts_by_source, plain
from .stages.ingest import EMPTY
from .stages.statistics import step_of

MOST = 20
"""Sources, those with most tokens, whose way is shown."""

MOST_OF_A_FACT = 2000
"""Characters of a fact that are shown."""

Steps = list[tuple[str, int]]


def steps_by_source(pool: Artifact) -> dict[str, Steps]:
    """Return (step, documents) by source, most tokens first: what was read, what each step took away (negative), what
    was kept, the validation pool included. Steps that took nothing of any source are left out."""
    statistics = pool.manifest.statistics
    rejects = _counted(pool, "rejects", "reason") if statistics["rejected"] or _step(pool, "empty") else Counter()
    filtered = _counted(pool, "filtered", "filter") if any(f["removed"] for f in statistics["filters"]) else Counter()
    copies = _counted(pool, "duplicates", "kind") if statistics["cluster_sizes"] else Counter()
    ranked = sorted(statistics["sources"].items(), key=lambda item: (-item[1]["tokens"], item[0]))
    ways: dict[str, Steps] = {}
    for name, counts in ranked:
        unusable = sum(n for (source, reason), n in rejects.items() if source == name and reason != EMPTY)
        losses = [("unusable rows", unusable)]
        losses += [(step_of(f["name"]), filtered[name, f["name"]]) for f in statistics["filters"]]
        losses.append(("empty", rejects[name, EMPTY]))
        losses.append(("contaminated", counts["rows"] - counts["encoded"] - sum(n for _, n in losses)))
        exact = copies[name, "exact"]
        ends = [("exact duplicates", exact), ("near-duplicates", counts["encoded"] - counts["documents"] - exact)]
        ways[name] = [
            ("rows read", counts["rows"]),
            *((step, -n) for step, n in losses),
            ("encoded", counts["encoded"]),
            *((step, -n) for step, n in ends),
            ("kept", counts["documents"]),
        ]
    used = {step for way in ways.values() for step, n in way if n} | {"rows read", "encoded", "kept"}
    return {name: [(step, n) for step, n in way if step in used] for name, way in ways.items()}


def by_source(pool: Artifact, draw: Callable[[Steps], Html]) -> str:
    """Return a fold for each source, or nothing where the only source's way is that of all."""
    if len(pool.manifest.statistics["sources"]) < 2:
        return ""
    ways = steps_by_source(pool)
    folds = [
        fold(
            f"{text(name)} <small>{_count(dict(way)['rows read'], 'row')} read, {dict(way)['kept']:,} kept</small>",
            draw(way),
        )
        for name, way in list(ways.items())[:MOST]
    ]
    note = paragraph("Documents; the validation pool’s are among those kept.", "note")
    inner = f"{note}{shown(len(folds), len(ways))}{''.join(folds)}"
    return fold(f"Each source by itself <small>{_count(len(ways), 'source')}</small>", inner)


def facts(pool: Artifact) -> str:
    """Return a table of what sources say of themselves, or nothing where they say nothing."""
    said = facts_by_source(pool.manifest.config)
    rows = [(name, key, plain(value, MOST_OF_A_FACT)) for name, facts in said.items() for key, value in facts.items()]
    if not rows:
        return ""
    lead = "<h3>What they say of themselves</h3>\n" + paragraph("As the configuration of the build states it.", "note")
    return lead + table(["Source", "What", "Said"], rows, "stack")


def _counted(pool: Artifact, table: str, column: str) -> "Counter[tuple[str, str]]":
    """Return the rows of a table by source and `column`; one small batch is in memory at a time."""
    import pyarrow.compute as pc  # a tenth of a second, which a build of one source need not wait

    found: Counter[tuple[str, str]] = Counter()
    file = pq.ParquetFile(storage.open_read(storage.join(pool.root, f"{table}.parquet")))
    for batch in file.iter_batches(columns=["source", column], **ONE_THREAD):
        sources, values = batch.column("source").cast(pa.string()), batch.column(column).cast(pa.string())
        for source in pc.unique(sources).to_pylist():  # pyarrow's own grouping takes half a second to be imported
            for counted in pc.value_counts(values.filter(pc.equal(sources, source))).to_pylist():
                found[source, counted["values"]] += counted["counts"]
    return found


def _step(pool: Artifact, name: str) -> int:
    return sum(int(s["documents"]) for s in pool.manifest.statistics["waterfall"] if s["step"] == name)
