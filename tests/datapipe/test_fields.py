"""Builds of rows with further fields: kept beside their documents, chosen by conditions, described by their sources."""

import datetime
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from epochal.common.errors import RequestError
from epochal.datapipe.build import build
from epochal.datapipe.preview import describe, preview
from epochal.shards import commands
from epochal.shards.artifact import read_manifest
from epochal.shards.carve import carve
from epochal.shards.description.describe import DESCRIPTIONS
from epochal.shards.verify import verify
from epochal.tests.support.builds import same_files, settings
from epochal.tests.support.corpora import real_documents, write_jsonl

UTC = datetime.UTC
TOLD = {"manifest.json", *DESCRIPTIONS}
"""Files that say where the text was."""

TEXTS = real_documents(24, 400)


def lines(rows: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


def built(
    tmp_path: Path, rows: list[dict[str, Any]], files: int = 1, said: list[str] | None = None, **more: Any
) -> str:
    """Return the pool of some rows, dealt out to files."""
    source = {"name": "s", "path": write_jsonl(tmp_path / "in", lines(rows), [f"{i}.jsonl" for i in range(files)])}
    source |= more.pop("source", {})
    config = settings(tmp_path, source, **more)
    return build(config, quiet=True, say=[].append if said is None else said.append).pool


def documents(pool: str) -> dict[str, dict[str, Any]]:
    """Return the rows of a pool's documents.parquet by id."""
    table = pq.read_table(f"{pool}/documents.parquet")
    return {
        row.pop("id"): row
        for row in table.drop_columns(["key", "source", "start", "tokens"]).append_column("id", table["id"]).to_pylist()
    }


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Rows with further fields, some of them copies of others, word for word and nearly."""
    drawn = random.Random(7)
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(TEXTS)]
    rows += [{"id": f"copy{i}", "text": f" {TEXTS[i]}\n"} for i in range(6)]
    rows += [{"id": f"near{i}", "text": TEXTS[i] + " and a word or two more"} for i in range(6, 12)]
    for row in rows:
        row["meta"] = {"url": f"https://example.org/{row['id']}"}
        row["quality"] = drawn.choice([0, 1, 0.25, 0.75, None])
        if drawn.random() < 0.7:
            row["lang"] = drawn.choice(["en", "de"])
    return rows


KEEP = ["meta.url", "quality", "lang"]


def values(row: dict[str, Any]) -> dict[str, Any]:
    """Return what documents.parquet is to hold of a row."""
    quality = row["quality"]
    return {
        "meta.url": row["meta"]["url"],
        "quality": quality if quality is None else float(quality),
        "lang": row.get("lang"),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("tasks", "files", "run_bytes"), [(3, 4, 1 << 30), (2, 1, 3000)])
def test_a_document_keeps_its_own_values_whatever_the_number_of_tasks(
    tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: Any, tasks: int, files: int, run_bytes: int
) -> None:
    more: dict[str, Any] = {"keep": KEEP, "validation_tokens": 600}
    first = built(tmp_path / "a", rows, **more)
    found = documents(first) | documents(f"{first}-val")
    by_id = {row["id"]: row for row in rows}
    assert found == {identifier: values(by_id[identifier]) for identifier in found}
    assert len(found) == len(TEXTS)
    assert any(not identifier.startswith("d") for identifier in found), "a copy is preferred to its original somewhere"
    monkeypatch.setattr("epochal.datapipe.build.RUN_BYTES", run_bytes)
    monkeypatch.setattr("epochal.datapipe.build.PARTITION_BYTES", 4000)
    shuffled = random.Random(tasks).sample(rows, len(rows))
    second = built(tmp_path / "b", shuffled, files, tasks=tasks, workers=tasks, **more)
    for suffix in ("", "-val"):
        assert same_files(first + suffix, second + suffix, {*TOLD, "report.html"})
        assert read_manifest(first + suffix).statistics == read_manifest(second + suffix).statistics
        assert verify(second + suffix) == []
    assert read_manifest(first).statistics["kept"] == {"meta.url": "text", "quality": "float", "lang": "text"}
    schema = pq.read_schema(f"{first}/documents.parquet")
    assert [str(schema.field(name).type) for name in KEEP] == ["string", "double", "string"]


@pytest.mark.slow
@examples(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drawn=st.lists(
        st.tuples(st.sampled_from(TEXTS[:4]), st.sampled_from(["a", "b"]), st.sampled_from([0, 0.5, 1, None])),
        min_size=2,
        max_size=8,
    ),
    condition=st.sampled_from([None, "q > 0", "q IS NULL OR q < 1"]),
    order=st.randoms(use_true_random=False),
)
def test_rows_that_differ_in_kept_fields_alone_give_the_same_bytes_in_any_order(
    tmp_path_factory: Any, drawn: list[tuple[str, str, Any]], condition: str | None, order: random.Random
) -> None:
    rows = [{"id": i, "text": text, "q": q} for text, i, q in drawn] + [{"id": "c", "text": TEXTS[5], "q": 0.75}]
    more: dict[str, Any] = {"keep": {"q": "float"}, "source": {"where": condition} if condition else {}}
    pools = [
        built(tmp_path_factory.mktemp("x"), order.sample(rows, len(rows)), files, tasks=files, **more)
        for files in (1, 3)
    ]
    assert same_files(*pools, {*TOLD, "report.html"})
    hold = {
        None: lambda q: True,
        "q > 0": lambda q: q is not None and q > 0,
        "q IS NULL OR q < 1": lambda q: q is None or q < 1,
    }
    left = {row["text"] for row in rows if hold[condition](row["q"])}
    table = pq.read_table(f"{pools[0]}/documents.parquet")
    assert table.num_rows == len(left)
    assert all(map(hold[condition], table["q"].to_pylist()))


def test_without_kept_fields_nothing_of_a_pool_is_another(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    plain, kept = built(tmp_path / "a", rows), built(tmp_path / "b", rows, keep=KEEP)
    assert pq.read_schema(f"{plain}/documents.parquet").names == ["key", "id", "source", "start", "tokens"]
    assert "keep" not in read_manifest(plain).config
    assert "kept" not in read_manifest(plain).statistics
    assert same_files(plain, kept, {*TOLD, "report.html", "documents.parquet"})
    assert read_manifest(plain).fingerprint == read_manifest(kept).fingerprint


def test_a_subset_that_stands_alone_keeps_fields_and_facts(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    pool = built(tmp_path, rows, keep=KEEP, source={"license": "MIT"})
    out, _ = carve(pool, 1000, materialize=True)
    assert verify(out) == []
    kept, whole = documents(out), documents(pool)
    assert kept == {identifier: whole[identifier] for identifier in kept}
    assert read_manifest(out).statistics["kept"] == read_manifest(pool).statistics["kept"]
    assert commands.describe(out)["sources"] == {"s": {"license": "MIT"}} == commands.describe(pool)["sources"]
    assert "mit" in Path(f"{pool}/README.md").read_text().lower()


AT, DAY = datetime.datetime(2024, 1, 2, 3, tzinfo=UTC), datetime.date(2024, 1, 2)
ROWS: list[dict[str, Any]] = [
    {"text": TEXTS[0], "at": AT, "day": DAY, "q": Decimal("0.50"), "n": 3, "tag": "a", "ok": True},
    {"text": TEXTS[1], "at": None, "day": None, "q": Decimal("0.75"), "n": None, "tag": None, "ok": None},
    {"text": TEXTS[2], "at": AT.replace(hour=4), "day": DAY, "q": None, "n": 5, "tag": "b", "ok": False},
]
TYPES = {"at": "timestamp", "day": "date", "q": "float", "n": "int", "tag": "text", "ok": "bool"}


def _pandas(path: Path) -> None:
    frame = pd.DataFrame(ROWS).astype({"tag": "category", "n": "Int32", "at": "datetime64[ns, UTC]", "ok": "boolean"})
    frame.to_parquet(path)


def _polars(path: Path) -> None:
    pl.DataFrame(ROWS).with_columns(pl.col("tag").cast(pl.Categorical), pl.col("n").cast(pl.UInt8)).write_parquet(path)


def _arrow(path: Path) -> None:
    kinds = {"text": pa.large_string(), "at": pa.timestamp("ms", "Europe/Paris"), "day": pa.date64()}
    kinds |= {"q": pa.decimal128(9, 2), "n": pa.int16(), "tag": pa.dictionary(pa.int8(), pa.large_string())}
    schema = pa.schema(kinds | {"ok": pa.bool_()})
    pq.write_table(pa.Table.from_pylist(ROWS, schema), path)


def _datasets(path: Path) -> None:
    import datasets

    datasets.Dataset.from_list([row | {"q": None if row["q"] is None else float(row["q"])} for row in ROWS]).to_parquet(
        path
    )


@pytest.mark.parametrize("write", [_pandas, _polars, _arrow, _datasets])
def test_parquet_of_other_programs_keeps_its_types(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "a.parquet"
    write(path)
    source = {"name": "s", "format": "parquet", "path": str(path), "where": "q >= 0.6 OR n > 2"}
    pool = build(settings(tmp_path, source, keep=list(TYPES)), quiet=True, say=[].append).pool
    table = pq.read_table(f"{pool}/documents.parquet", columns=list(TYPES))
    assert read_manifest(pool).statistics["kept"] == TYPES
    expected = [{k: float(v) if isinstance(v, Decimal) else v for k, v in row.items() if k != "text"} for row in ROWS]
    assert sorted(table.to_pylist(), key=str) == sorted(expected, key=str)


def test_nulls_and_fields_that_are_missing_are_said_by_name(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [
        {"id": "a", "text": TEXTS[0], "q": 1},
        {"id": "b", "text": TEXTS[1], "q": None},
        {"id": "c", "text": TEXTS[2]},
    ]
    pool = built(tmp_path, rows, said=said, keep=["q", "url"])
    assert said[:3] == [
        "kept in documents.parquet: q (int), url (text)",
        "q: null in 2 of 3 documents, 1 of which have no such field",
        "source 's': no row has a field 'url', which is null there",
    ]
    assert read_manifest(pool).statistics["kept_null"] == {"q": 2, "url": 3}


def test_token_ids_have_no_fields(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    pool = built(tmp_path / "a", rows)
    more = {"name": "text", "path": write_jsonl(tmp_path / "in", lines(rows[:3]), ["a.jsonl"])}
    said: list[str] = []
    config = settings(tmp_path, {}, sources=[{"name": "ids", "format": "mds", "path": pool}, more], keep=["lang"])
    build(config, quiet=True, say=said.append)
    assert "source 'ids': no row has a field 'lang', which is null there" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"keep": ["mixed"]}, r"'mixed' holds whole numbers .* and text \(source 's'\).*keep: {mixed: text}"),
        ({"keep": ["meta"]}, r"'meta' holds fields of their own .*\(as JSON\)"),
        ({"source": {"where": "qualty > 0"}}, r"^sources.0.where: no row .* field 'qualty': did you mean 'quality'\?"),
        ({"source": {"where": 'lang = "en"'}}, r"no row of source 's' has a field 'en'.*single quotes"),
        ({"source": {"where": "AVG(quality) > 0"}}, r"^sources.0.where: an average cannot be used"),
        ({"source": {"where": "mixed > 0"}}, r"where cannot be used on row \d+ of 0.jsonl: .*'mixed' is text"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tasks", [1, 2])
def test_what_cannot_be_kept_or_judged_stops_the_build_in_a_line(
    tmp_path: Path, rows: list[dict[str, Any]], more: dict[str, Any], message: str, tasks: int
) -> None:
    mixed = [row | {"mixed": i if i % 2 else "x"} for i, row in enumerate(rows)]
    with pytest.raises(RequestError, match=message) as caught:
        built(tmp_path, mixed, tasks=tasks, workers=1, **more)
    assert "\n" not in str(caught.value)


def test_what_a_condition_leaves_out_is_in_the_waterfall_and_the_table(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    written, where = "quality >= 0.5\n  AND lang = 'en'\n", "quality >= 0.5 AND lang = 'en'"
    pool = built(tmp_path, rows, source={"where": written}, filters=[{"name": "RegexFilter", "regex_exp": "qqqq"}])
    statistics = read_manifest(pool).statistics
    good = [row for row in rows if (row["quality"] or 0) >= 0.5 and row.get("lang") == "en"]
    (condition, regex) = statistics["filters"]
    assert condition["name"] == "where of s"
    assert condition["seen"] == len(rows) == condition["removed"] + len(good)
    false = [r for r in rows if (r["quality"] is not None and r["quality"] < 0.5) or r.get("lang") == "de"]
    null = len(rows) - len(good) - len(false)
    assert condition["reasons"] == {where: len(false), "the condition is null": null}
    assert (regex["name"], regex["seen"]) == ("RegexFilter", len(good))
    steps = {step["step"]: step["documents"] for step in statistics["waterfall"]}
    assert steps["where of s"] == -condition["removed"]
    assert steps["encoded"] == len(good)
    table = pl.read_parquet(f"{pool}/filtered.parquet").filter(pl.col("filter") == "where of s")
    assert set(table["id"]) == {row["id"] for row in rows} - {row["id"] for row in good}
    assert dict(table.group_by("reason").len().rows()) == condition["reasons"]
    page = Path(f"{pool}/report.html").read_text()
    assert "where of s" in page
    assert "filter where of" not in page


def test_a_dry_run_counts_what_a_condition_leaves_out(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = write_jsonl(tmp_path / "in", lines(rows), ["a.jsonl"])
    said = describe(preview(settings(tmp_path, {"name": "s", "path": path, "where": "quality > 0"})))
    dropped = sum(not row["quality"] for row in rows)
    assert f"{dropped} rows left out by where" in said


FACTS = {
    "license": "CC-BY-4.0",
    "citation": "Doe\n(2024)",
    "collected": "2024",
    "language": ["en", "de"],
    "pii": "none <known>",
}


def test_what_a_source_says_of_itself_is_written_down_and_decides_no_byte(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    path, said = write_jsonl(tmp_path / "in", lines(rows[:8]), ["a.jsonl"]), []

    def run(name: str, **facts: Any) -> tuple[str, bool]:
        config = settings(tmp_path, {"name": "s", "path": path} | facts, name=name)
        found = build(config, quiet=True, say=said.append)
        return found.pool, found.new

    plain, _ = run("plain")
    pool, _ = run("said", **FACTS)
    assert read_manifest(plain).fingerprint == read_manifest(pool).fingerprint
    (source,) = read_manifest(pool).config["sources"]
    assert {key: source[key] for key in FACTS} == FACTS
    assert "url" not in source
    assert not set(FACTS) & set(read_manifest(plain).config["sources"][0])
    page = Path(f"{pool}/report.html").read_text()
    assert "none &lt;known&gt;" in page
    assert "en, de" in page
    assert "What they say" not in Path(f"{plain}/report.html").read_text()
    assert not said, "what is the same is not remarked on"
    again = FACTS | {"license": "MIT"}
    assert run("said", **again) == (pool, False)
    assert read_manifest(pool).config["sources"][0]["license"] == "CC-BY-4.0"
    assert said == [
        f"source 's': license is CC-BY-4.0 in {pool}, which stays as it is, and MIT now: to have that in it, remove it "
        "and build again (the tokens will be the same)"
    ]
    with pytest.raises(RequestError, match="text_key=text, which is body now"):
        run("said", **again, text_key="body")


def test_a_build_divides_its_pool_and_no_cluster_or_validation_document_is_divided(tmp_path: Path) -> None:
    """Each text comes twice, nearly alike, with qualities far apart: the survivor's quality alone counts."""
    rows = [{"id": f"{i}", "text": text, "quality": i / 48} for i, text in enumerate(TEXTS)]
    rows += [{"id": f"{i} again", "text": f"{t} indeed", "quality": 1 - i / 48} for i, t in enumerate(TEXTS)]
    said: list[str] = []
    split = {"by": "quality", "quantiles": 4}
    pool = built(tmp_path, rows, said=said, keep=["quality"], split=split, validation_tokens=300)
    kept, held_out = documents(pool), documents(f"{pool}-val")
    assert len({id_.split()[0] for id_ in [*kept, *held_out]}) == len(kept) + len(held_out) == len(TEXTS)
    found: dict[str, int] = {}
    for number in range(4):
        path = f"{pool}-quality-q{number:02}"
        bucket = read_manifest(path).bucket
        assert bucket is not None
        for id_, row in documents(path).items():
            assert id_ not in found
            assert row == kept[id_]
            assert bucket.lower is None or row["quality"] >= bucket.lower
            found[id_] = number
        assert verify(path) == []
    assert found.keys() == kept.keys()
    assert any(line.startswith("bucket p-quality-q00: ") for line in said)
    plain = built(tmp_path / "plain", rows, keep=["quality"], validation_tokens=300)
    assert read_manifest(plain).fingerprint == read_manifest(pool).fingerprint
    assert "split" not in read_manifest(pool).config
    assert built(tmp_path, rows, keep=["quality"], validation_tokens=300) == pool  # the same pool, divided or not


def test_a_split_by_what_is_not_kept_is_refused_before_the_build(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"split: by stars, which documents\.parquet does not have: add it to keep"):
        built(tmp_path, [{"text": "a"}], keep=["quality"], split={"by": "stars"})
