"""What keeps a build's memory bounded: dealing records out, the forest of clusters, joined tables, plain columns."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from epochal.datapipe import external_sort
from epochal.datapipe.build import build
from epochal.datapipe.stages import cluster, match
from epochal.shards import arrow
from epochal.tests.support.builds import same_files, settings
from epochal.tests.support.corpora import real_documents, write_jsonl

RECORD = np.dtype([("value", "<u8"), ("number", "<i8")])


@pytest.mark.slow
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=20), max_size=6), st.integers(1, 8))
def test_dealt_records_come_range_by_range_as_they_came(batches, in_memory):
    made, n = [], 0
    for values in batches:
        made.append(np.array([(value, n + i) for i, value in enumerate(values)], RECORD))
        n += len(values)
    before = external_sort.IN_MEMORY
    external_sort.IN_MEMORY = in_memory
    try:
        ranges = list(external_sort.deal(iter(made), "value", n, RECORD))
    finally:
        external_sort.IN_MEMORY = before
    bits = len(ranges).bit_length() - 1
    assert len(ranges) == 1 << bits
    assert n <= in_memory * len(ranges)
    found = np.concatenate(ranges)
    whole = np.concatenate([np.zeros(0, RECORD), *made])
    place = [int(v) >> (64 - bits) for v in whole["value"].tolist()]
    expected = sorted(range(n), key=lambda i: place[i])
    assert found["number"].tolist() == expected
    assert sorted(found["value"].tolist()) == sorted(whole["value"].tolist())


@pytest.mark.slow
@given(
    st.integers(1, 60).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.lists(st.tuples(*[st.integers(0, n - 1)] * 2))))
    )
)
def test_the_forest_finds_connected_components(case):
    n, batches = case
    forest = cluster.Forest(n)
    for links in batches:
        forest.join(np.array(links, np.int64).reshape(-1, 2))
    edges = np.array([link for links in batches for link in links], np.int64).reshape(-1, 2)
    _, labels = connected_components(coo_matrix((np.ones(len(edges)), edges.T), (n, n)), directed=False)
    smallest = [int(np.flatnonzero(labels == label)[0]) for label in labels]
    assert forest.roots(np.arange(n)).tolist() == smallest
    assert np.flatnonzero(forest.linked).tolist() == np.unique(edges).tolist()


def test_a_forest_of_long_chains_given_backwards():
    n = 100_000
    forest = cluster.Forest(n)
    links = np.stack([np.arange(1, n), np.arange(n - 1)], axis=1)[::-1]
    for some in np.array_split(links, 7):
        forest.join(some)
    assert not forest.roots(np.arange(n)).any()


@given(
    st.lists(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 9), st.binary(min_size=2, max_size=2))), max_size=4)
)
def test_joined_tables_are_sorted_whatever_their_pieces(tables):
    schema = pa.schema([("name", pa.string()), ("row", pa.int64()), ("key", pa.binary())])
    before = external_sort.GROUP, external_sort.MERGED
    with tempfile.TemporaryDirectory() as folder:
        external_sort.GROUP, external_sort.MERGED = 3, 2
        try:
            paths = []
            for i, rows in enumerate(tables):
                paths.append(f"{folder}/{i}")
                writer = external_sort.TableWriter(paths[-1], schema)
                for row in rows:
                    writer.add(row)
                writer.close()
            external_sort.join_tables(paths, f"{folder}/all", schema)
        finally:
            external_sort.GROUP, external_sort.MERGED = before
        found = pq.read_table(Path(folder) / "all")
    assert found.schema == schema
    assert [tuple(row.values()) for row in found.to_pylist()] == sorted(row for rows in tables for row in rows)


@given(st.lists(st.text(max_size=5)))
def test_columns_are_what_arrow_makes_of_the_same_values(texts):
    assert arrow.strings(texts).equals(pa.array(texts, pa.string()))
    sizes = np.array([len(text) for text in texts], np.int64)
    assert arrow.numbers(sizes).equals(pa.array(sizes))
    keys = [text.encode()[:2].ljust(2, b"\0") for text in texts]
    assert arrow.column(keys, pa.binary()).equals(pa.array(keys, pa.binary()))
    sliced = pa.chunked_array([pa.array(sizes), pa.array(sizes)]).slice(1)
    assert arrow.integers(sliced).tolist() == sliced.to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("near", [True, False])
def test_a_build_that_holds_little_in_memory_gives_the_same_bytes(tmp_path, monkeypatch, near):
    texts = real_documents(150)
    copies = [*texts[:30], *(text.replace("e", "E", 1) + " end" for text in texts[20:60]), *[texts[0]] * 20]
    rows = [
        f'{{"id": "d{i}", "text": {__import__("json").dumps(t)}}}'.encode() for i, t in enumerate([*texts, *copies])
    ]
    rows += [b'{"id": "bad"}'] * 3
    glob = write_jsonl(tmp_path / "in", rows, ["a.jsonl", "b.jsonl"])
    more = {"max_reject_fraction": 0.5, "validation_tokens": 3_000} | ({} if near else {"deduplicate": {"near": None}})
    whole = build(settings(tmp_path / "whole", glob, **more), quiet=True)
    monkeypatch.setattr(external_sort, "IN_MEMORY", 16)
    monkeypatch.setattr(match, "EDGES_AT_ONCE", 5)
    monkeypatch.setattr("epochal.datapipe.stages.parts.AT_ONCE", 7)
    monkeypatch.setattr("epochal.datapipe.stages.pack.CUTS_AT_ONCE", 1)
    monkeypatch.setattr(external_sort, "MERGED", 2)
    pieces = build(settings(tmp_path / "pieces", glob, tasks=3, workers=1, **more), quiet=True)
    assert same_files(whole.pool, pieces.pool)
    assert same_files(whole.validation, pieces.validation)
    removed = pq.read_table(f"{whole.pool}/duplicates.parquet")
    assert len(removed) >= 50
    assert ("near" in removed["kind"].to_pylist()) == near
