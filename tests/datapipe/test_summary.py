from typing import Any

import pytest

from epochal.datapipe.summary import WIDTH, left_out
from epochal.shards.artifact import open_artifact
from epochal.shards.manifest import Manifest

WATERFALL = {
    "rows read": 1_300,
    "unusable rows": -7,
    "filter A": -20,
    "filter B": -1,
    "empty": -1,
    "contaminated": -2,
    "encoded": 1_269,
    "exact duplicates": -10,
    "near-duplicates": -5,
    "validation pool": -12,
    "pool": 1_242,
}
STATISTICS: dict[str, Any] = {
    "rejected": {"bad JSON": 3, "no field 'text'": 2, "not UTF-8": 1, "lone surrogate": 1},
    "filters": [{"name": "A", "removed": 20, "changed": 4}, {"name": "B", "removed": 1, "changed": 0}],
    "files_not_read": 2,
}
TABLES = ("rejects", "filtered", "left_out", "contaminated", "duplicates")


@pytest.fixture
def pool(make_pool) -> Manifest:
    return open_artifact(str(make_pool(5000))).manifest


def made(pool: Manifest, waterfall: dict[str, int] = WATERFALL, **changed: Any) -> Manifest:
    steps = [{"step": step, "documents": n, "tokens": None} for step, n in waterfall.items()]
    some = next(iter(pool.files.values()))
    return pool.model_copy(
        update={
            "statistics": STATISTICS | {"waterfall": steps} | changed,
            "files": {f"{name}.parquet": some for name in TABLES},
        }
    )


def test_every_loss_is_a_line_that_names_its_table(pool):
    validation = pool.model_copy(update={"name": "toy-val", "tokens": 50, "documents": 12})
    assert left_out(made(pool), validation) == [
        "left out of 1,300 rows (the tables lie beside the pool):",
        "  rejects.parquet       7 rows: 3 bad JSON, 2 no field 'text', 1 lone surrogat…",
        "  rejects.parquet       1 empty row",
        "  left_out.parquet      2 whole files",
        "  filtered.parquet      21 documents: 20 A, 1 B",
        "  cut by filters        4 texts: 4 A",
        "  contaminated.parquet  2 documents",
        "  duplicates.parquet    15 documents: 10 exact, 5 near",
        "  pool toy-val          12 documents, 50 tokens (1.0%) for validation",
    ]


def test_lines_are_short_and_can_be_printed(pool):
    rejected = {f"\x1b[31m{'x' * 100}": 5}
    lines = left_out(made(pool, rejected=rejected), None)
    assert all(len(line) <= WIDTH and line.isprintable() for line in lines)
    assert lines[1].endswith("…")


def test_a_build_that_left_nothing_out_says_so(pool):
    nothing = {step: n if n > 0 else 0 for step, n in WATERFALL.items()}
    clean = made(pool, nothing, rejected={}, filters=[], files_not_read=0)
    assert left_out(clean, None) == ["nothing was left out of 1,300 rows"]
    asked = clean.model_copy(update={"config": {"validation_tokens": "auto"}})
    assert left_out(asked, None)[1] == "  no validation pool    there are too few documents for one"


def test_a_pool_of_an_earlier_version_has_no_table_of_filtered_documents(pool):
    old = made(pool, filters=[{"name": "A", "removed": 20}])
    del old.files["filtered.parquet"]
    assert "  (in no table)         20 documents: 20 A" in left_out(old, None)


def test_items_that_were_not_looked_for_are_said(pool):
    files = [{"name": "a.jsonl", "items": 30, "digest": ""}, {"name": "b.jsonl", "items": 2, "digest": ""}]
    some = made(pool, evaluation={"ngram": 13, "too_short": 3, "files": files})
    assert left_out(some, None)[-1] == "3 of 32 evaluation items have fewer than 13 words: they were not looked for"
    none = made(pool, evaluation={"ngram": 13, "too_short": 0, "files": files})
    assert left_out(none, None) == left_out(made(pool), None)
