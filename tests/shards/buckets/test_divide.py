"""Pools divided into buckets: each document whole in the bucket of its value, all of them there, exact tokens."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from epochal.__main__ import main
from epochal.common.errors import RequestError
from epochal.shards.artifact import read_manifest
from epochal.shards.buckets.divide import divide
from epochal.shards.buckets.split import Split
from epochal.shards.carve import carve
from epochal.shards.manifest import dump_manifest
from epochal.shards.order.mixing import Ingredient, check_together
from epochal.shards.verify import verify
from epochal.tests.support.builds import stream
from epochal.tests.support.pools import planted


@pytest.mark.parametrize(
    "split",
    [
        Split(by="quality", quantiles=20),
        Split(by="quality", edges=[0.1, 0.5, 0.99]),
        Split(by="lang"),
        Split(by="good"),
        Split(by="source"),
        Split(by="tokens", quantiles=3),
    ],
)
def test_every_document_is_whole_in_the_bucket_of_its_value(make_pool, split: Split) -> None:
    pool = planted(make_pool)
    divided = divide(pool, split)
    rows = {row["key"]: row for row in pq.read_table(f"{pool}/documents.parquet").to_pylist()}
    whole = stream(pool)
    seen: list[bytes] = []
    for path, m in divided.pools:
        bucket = m.bucket
        assert bucket is not None
        assert (bucket.pool, bucket.fingerprint) == ("toy", read_manifest(pool).fingerprint)
        assert verify(path) == []
        mine, at, order = stream(path), 0, []
        for row in pq.read_table(f"{path}/documents.parquet").to_pylist():
            original = rows[row["key"]]
            assert row["start"] == at
            there = whole[original["start"] : original["start"] + original["tokens"]]
            np.testing.assert_array_equal(mine[at : at + row["tokens"]], there)
            assert {k: row[k] for k in ("id", "source", "quality", "lang")} == {
                k: original[k] for k in ("id", "source", "quality", "lang")
            }
            value = original[split.by]
            if bucket.value is not None:
                assert str(value).lower() == bucket.value
            elif bucket.name == "null":
                assert value is None
            else:
                assert bucket.lower is None or value >= bucket.lower
                assert bucket.upper is None or value < bucket.upper
            order.append(original["start"])
            seen.append(row["key"])
            at += row["tokens"]
        assert order == sorted(order)
        assert (at, len(order)) == (m.tokens, m.documents)
    assert sorted(seen) == sorted(rows)
    assert sum(m.tokens for _, m in divided.pools) == read_manifest(pool).tokens


def test_quantiles_have_equal_tokens_up_to_a_document(make_pool) -> None:
    divided = divide(planted(make_pool), Split(by="quality", quantiles=20))
    sizes = [m.tokens for _, m in divided.pools if m.bucket and m.bucket.name != "null"]
    assert len(sizes) == 20
    assert max(sizes) - min(sizes) <= 2 * 61


def test_what_is_there_stays_and_what_is_missing_is_made(make_pool) -> None:
    pool, split = planted(make_pool), Split(by="lang")
    first = divide(pool, split)
    assert (first.new, [Path(path).name for path, _ in first.pools]) == (2, ["toy-lang-de", "toy-lang-en"])
    shutil.rmtree(first.pools[0][0])
    again = divide(pool, split)
    assert again.new == 1
    assert [m for _, m in again.pools] == [m for _, m in first.pools]
    assert divide(pool, split).new == 0


def test_something_else_is_never_replaced(make_pool) -> None:
    pool = planted(make_pool)
    divide(pool, Split(by="quality", quantiles=4))
    with pytest.raises(RequestError, match="exists and holds something else"):
        divide(pool, Split(by="quality", quantiles=5))


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"by": "stars"}, "have no column 'stars' to divide by: there are good, lang, quality, source, tokens"),
        ({"by": "quality"}, "say how it is cut"),
        ({"by": "lang", "quantiles": 3}, "which has no quantiles"),
    ],
)
def test_what_cannot_be_divided_is_refused(make_pool, split, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        divide(planted(make_pool, 2000), Split(**split))


def test_a_subset_is_not_divided_and_a_bucket_is_carved(make_pool) -> None:
    pool = planted(make_pool)
    with pytest.raises(RequestError, match="is a subset"):
        divide(carve(pool, 1000)[0], Split(by="lang"))
    (path, m), _ = divide(pool, Split(by="lang")).pools
    out, _ = carve(path, 1001)
    assert verify(out) == []
    whole = Ingredient("whole", read_manifest(pool))
    with pytest.raises(RequestError, match="'part' is a bucket of the pool of 'whole'"):
        check_together([whole, Ingredient("part", m)])


def test_the_command_shows_each_bucket(make_pool, capsys) -> None:
    pool = planted(make_pool)
    assert main(["split", pool, "--by", "quality", "--edges", "0.5,2"]) == 0
    caught = capsys.readouterr()
    lines = caught.out.splitlines()
    assert [line.split()[0].rpartition("-")[2] for line in lines[2:]] == ["e00", "e01", "null"]
    assert "below 0.5" in lines[2]
    assert "from 0.5 to below 2" in lines[3]
    assert "no value" in lines[4]
    assert "1 buckets would hold no document" in caught.err


def test_a_manifest_without_a_bucket_has_no_word_of_it(make_pool) -> None:
    assert '"bucket"' not in dump_manifest(read_manifest(str(make_pool(500))))
