"""Samples that are packed anew every pass, held against packing all documents by hand."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.common.errors import RequestError, WorkError
from epochal.shards.order import packing as module
from epochal.shards.order.packing import Packing
from epochal.shards.order.permutation import keyed_permutation
from epochal.shards.order.plan import Plan


def packing_of(lengths, seq_len, passes=3, seed=5):
    n = sum(lengths)
    plan = Plan("0" * 32, -(-n // seq_len), n, seq_len, passes * n, seed, "repack")
    return Packing(plan, np.cumsum([0, *lengths]))


def by_hand(packing, pass_):
    """Return the samples of a pass: of each, the stream positions of its tokens; all documents written one by one."""
    edges, plan = packing.edges.tolist(), packing.plan
    last = len(edges) - 2
    order = keyed_permutation(last, "order/repack", plan.seed, pass_).forward(np.arange(last, dtype=np.uint64)).tolist()
    stream = [t for d in [*(order if last else []), last] for t in range(edges[d], edges[d + 1])]
    return [stream[i : i + plan.seq_len] for i in range(0, len(stream), plan.seq_len)]


@given(
    lengths=st.lists(st.integers(1, 60), min_size=2, max_size=80),
    seq_len=st.integers(1, 40),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_samples_equal_the_documents_written_one_after_the_other(lengths, seq_len, data):
    packing = packing_of(lengths, seq_len)
    n = packing.plan.samples
    walked = [by_hand(packing, pass_) for pass_ in range(3)]
    passes = np.array(data.draw(st.lists(st.integers(0, 2), max_size=20)), np.int64)
    samples = np.array([data.draw(st.integers(0, n - 1)) for _ in passes], np.int64)
    pieces = packing.pieces(passes, samples)
    assert (np.diff(pieces.sample) >= 0).all()
    assert (pieces.tokens > 0).all()
    for i, (pass_, sample) in enumerate(zip(passes, samples, strict=True)):
        own = [(a, n) for j, a, n in zip(pieces.sample, pieces.start, pieces.tokens, strict=True) if j == i]
        assert [t for a, n in own for t in range(a, a + n)] == walked[pass_][sample]
    assert packing.edges[pieces.document].tolist() <= pieces.start.tolist()
    for pass_ in range(3):
        assert sorted(t for sample in walked[pass_] for t in sample) == list(range(sum(lengths)))
        flat = [t for sample in walked[pass_] for t in sample]
        places = [packing.place(d, pass_) for d in range(len(lengths))]
        assert [flat[p] for p in places] == packing.edges[:-1].tolist()


@pytest.mark.slow
def test_a_million_positions_on_a_random_plan():
    rng = np.random.default_rng(0)
    packing = packing_of(rng.integers(1, 41, 60_000).tolist(), 5, passes=5)  # walking takes a step a token
    plan = packing.plan
    assert plan.positions > 1_000_000
    positions = np.arange(1_000_000)
    ids, passes = plan.ids(positions).astype(np.int64), plan.passes_at(positions)
    walked = {pass_: np.concatenate(by_hand(packing, pass_)) for pass_ in range(int(passes.max()) + 1)}
    pieces = packing.pieces(passes, ids)
    ends = np.cumsum(pieces.tokens)
    found = np.arange(ends[-1]) + np.repeat(pieces.start - ends + pieces.tokens, pieces.tokens)
    sizes = plan.n_tokens(ids)
    at = np.repeat(ids * plan.seq_len - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
    of = np.repeat(passes, sizes)
    for pass_, stream in walked.items():
        assert np.array_equal(found[of == pass_], stream[at[of == pass_]])


def test_the_last_document_stays_the_last():
    packing = packing_of([3, 4, 5, 2], 7)
    assert [packing.place(3, pass_) for pass_ in range(3)] == [12, 12, 12]
    assert packing_of([9], 4).pieces([0, 1], [1, 2]).start.tolist() == [4, 8]


def test_vectors():
    """Five documents of 4, 7, 2, 9 and 3 tokens in samples of 8, seed 1: the definition's example."""
    packing = packing_of([4, 7, 2, 9, 3], 8, seed=1)
    orders = [packing.slots(pass_).documents.tolist() for pass_ in range(3)]
    assert orders == VECTORS
    pieces = packing.pieces([0, 0, 0, 0], [0, 1, 2, 3])
    assert pieces.start.tolist() == [0, 4, 8, 13, 18, 11, 22, 24]


VECTORS = [[0, 1, 3, 2, 4], [1, 0, 3, 2, 4], [3, 0, 2, 1, 4]]


def test_what_does_not_fit_is_refused_in_a_line(monkeypatch):
    good = packing_of([3, 4, 5], 4)
    for edges in ([0, 3, 7, 11], [0, 3, 3, 12], [1, 12], [12], [0, 7, 3, 12]):
        with pytest.raises(WorkError, match="these are not the documents of the 12 tokens"):
            Packing(good.plan, np.array(edges))
    with pytest.raises(RequestError, match="packed by the policy repack, not by fixed"):
        Packing(Plan("0" * 32, 3, 12, 4, 12, policy="fixed"), good.edges)
    monkeypatch.setattr(module, "MOST_DOCUMENTS", 2)
    with pytest.raises(RequestError, match="takes at most 2 documents, the subset has 3: use reshuffle"):
        Packing(good.plan, good.edges)


def test_tables_of_two_passes_are_kept():
    packing = packing_of([5] * 1000, 16)
    for pass_ in (0, 1, 0, 2):
        packing.slots(pass_)
    assert (packing.slots.cache_info().currsize, packing.slots.cache_info().misses) == (2, 3)
    again = pickle.loads(pickle.dumps(packing))
    assert again.slots.cache_info().currsize == 0
    assert np.array_equal(again.slots(2).documents, packing.slots(2).documents)


def test_a_table_takes_twelve_bytes_a_document_and_little_more_while_it_is_made():
    packing = packing_of([3] * 300_000, 64)
    packing.edges[0]
    tracemalloc.start()
    packing.slots(0)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 12.5 * 300_000
    assert most < 80 * 300_000
