"""The ledger's arithmetic against counting every token of every position, and the index of documents."""

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.common.errors import RequestError
from epochal.service.document_index import HASHES_NAME, NAMES, Document, DocumentIndex, read_spans
from epochal.service.ledger import Segment, histogram, intervals, most_exposed, parts, segments_of
from epochal.service.optouts.counts import count
from epochal.service.optouts.places import Spans
from epochal.shards.order.amendment.amend import amend
from epochal.shards.order.base import POLICIES
from epochal.shards.order.mixture import Mixture, Source
from epochal.shards.order.packing import Packing
from epochal.shards.order.permutation import inverse_many, keyed_permutation
from epochal.shards.order.plan import Plan
from epochal.shards.order.windows import Stage
from epochal.tests.support.orders.amended import spans_of

SEQ_LEN = 5


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(1, 40), st.integers(1000, 1050), st.integers(1, 2**48)),
            st.integers(0, 2**63 - 1),
            st.integers(0, 10**6),
            st.integers(0, 2**48),
        ),
        max_size=20,
    )
)
def test_places_of_many_orders_are_each_orders_inverse(asked):
    asked = [(n, seed, number, id_ % n) for n, seed, number, id_ in asked]
    found = inverse_many(*zip(*asked, strict=True)) if asked else []
    for (n, seed, number, id_), place in zip(asked, found, strict=True):
        order = keyed_permutation(n, "order/pass", seed, number)
        assert order.inverse(np.array([id_], np.uint64))[0] == place


def draw_plan(draw, pools, subset, pool_of):
    """Return a plan on some window of some pool, which is entered in `pool_of`."""
    pool = pool_of[subset] = str(draw(st.integers(0, len(pools) - 1)))
    stream = pools[pool][-1][1] + pools[pool][-1][2]
    start = draw(st.integers(0, (stream - 1) // SEQ_LEN))
    unique = draw(st.integers(1, stream - start * SEQ_LEN))
    return Plan(
        subset=subset,
        samples=-(-unique // SEQ_LEN),
        unique_tokens=unique,
        seq_len=SEQ_LEN,
        total_tokens=draw(st.integers(max(unique, SEQ_LEN), 4 * max(unique, SEQ_LEN))),
        seed=draw(st.integers(0, 5)),
        policy=draw(st.sampled_from(POLICIES)),
        start_sample=start,
    )


def draw_order(draw, pools, run, pool_of):
    """Return a plan, or a mixture of one to three in one or two stages."""
    plans = [draw_plan(draw, pools, f"{run}.{i}", pool_of) for i in range(draw(st.integers(1, 3)))]
    if len(plans) == 1 and draw(st.booleans()):
        return plans[0]
    first = [draw(st.integers(0, p.positions)) for p in plans]
    shares = [s for s in (first, [p.positions - n for p, n in zip(plans, first, strict=True)]) if any(s)]
    stages = tuple(Stage(sum(counts), tuple(counts)) for counts in shares)
    sources = tuple(Source(str(i), p) for i, p in enumerate(plans))
    try:
        return Mixture(sources, stages, draw(st.integers(1, 30)), draw(st.integers(0, 5)))
    except RequestError:  # a window too small for the least source
        return Mixture(sources, stages, 1000)


def draw_amended(draw, order):
    """Return an order with or without skips."""
    spans = draw(spans_of(order.positions, most=3)) if draw(st.booleans()) else []
    try:
        return amend(order, spans)
    except RequestError:  # nothing would be left of a source
        return order


@st.composite
def histories(draw):
    """Return (documents by pool: (key, start, tokens) in order, pool of each subset, [(plan or mixture, stop)])."""
    n_pools = draw(st.integers(1, 2))
    lengths = draw(st.lists(st.integers(1, 13), min_size=6, max_size=12))
    pools = {}
    for pool in range(n_pools):
        order = draw(st.permutations(range(len(lengths))))
        kept = order[: draw(st.integers(5, len(order)))]
        starts = np.cumsum([0] + [lengths[i] for i in kept]).tolist()
        pools[str(pool)] = [(i, start, lengths[i]) for i, start in zip(kept, starts, strict=False)]
    pool_of = {}
    orders = [draw_amended(draw, draw_order(draw, pools, run, pool_of)) for run in range(draw(st.integers(1, 3)))]
    return pools, pool_of, [(order, draw(st.integers(0, order.positions))) for order in orders]


def walk(order, stop):
    """Return {subset: [(position, sample) for every position before `stop`]} of a plan or mixture."""
    ids = order.ids(range(stop))
    where, inner = order.locate(ids)
    return {
        plan.subset: [(p, int(inner[p])) for p in np.flatnonzero(where == s).tolist()]
        for s, plan in enumerate(order.components().values())
    }


def packed_by_hand(documents, plan):
    """Return, for a plan of the policy repack, the tokens of its pool in the order of each pass; else nothing."""
    if plan.policy != "repack":
        return []
    low, high = plan.start_sample * SEQ_LEN, plan.start_sample * SEQ_LEN + plan.unique_tokens
    pieces = [range(max(a, low), min(a + n, high)) for _, a, n in documents if a < high and low < a + n]
    last, passes = len(pieces) - 1, []
    for pass_ in range(plan.copies):
        permutation = keyed_permutation(max(1, last), "order/repack", plan.seed, pass_)
        order = permutation.forward(np.arange(last, dtype=np.uint64)).tolist()
        passes.append([t for i in [*order, last] for t in pieces[i]])
    return passes


def tokens_fed(order, plan, packed, position, id_):
    """Return the tokens of its pool that a position of an order feeds, which reads sample `id_` of a plan."""
    if packed:
        return packed[int(order.passes_at([position])[0])][id_ * SEQ_LEN : (id_ + 1) * SEQ_LEN]
    low = plan.start_sample * SEQ_LEN
    return list(range(low + id_ * SEQ_LEN, min(low + (id_ + 1) * SEQ_LEN, low + plan.unique_tokens)))


def seen_by(order, segment, packed, walked, token):
    """Return how often a token of the pool is fed by a segment of the policy repack."""
    found = walked[segment.plan.subset]
    return sum(token in tokens_fed(order, segment.plan, packed, p, i) for p, i in found)


def with_packing(pools, segment):
    """Return a segment with the packing that the service would give it."""
    own = segment.plan.without_skips()
    if own.policy != "repack":
        return segment
    low, high = segment.window
    edges = [max(a, low) - low for _, a, n in pools[segment.pool] if a < high and low < a + n]
    return segment._replace(packing=Packing(own, np.array([*edges, high - low])))


def brute_force(pools, pool_of, history):
    """Return {document key: exposures of each token} by walking every position, and the keys in some window."""
    seen = {key: np.zeros(tokens, int) for documents in pools.values() for key, _, tokens in documents}
    inside = {key: np.zeros(tokens, bool) for documents in pools.values() for key, _, tokens in documents}
    for order, stop in history:
        walked = walk(order, stop)
        for plan in order.components().values():
            low, documents = plan.start_sample * SEQ_LEN, pools[pool_of[plan.subset]]
            high = low + plan.unique_tokens
            stream = np.zeros(max(high, max(a + n for _, a, n in documents)), int)
            packed = packed_by_hand(pools[pool_of[plan.subset]], plan)
            for position, id_ in walked[plan.subset]:
                stream[tokens_fed(order, plan, packed, position, id_)] += 1
            for key, start, tokens in documents:
                seen[key] += stream[start : start + tokens]
                inside[key][max(0, low - start) : max(0, high - start)] = True
    return seen, inside


def reader(pools):
    """Return what reads the documents of a pool, two row groups each."""

    def read(pool):
        for rows in (pools[pool][:4], pools[pool][4:]):
            if rows:
                keys, starts, tokens = zip(*rows, strict=True)
                column = pa.chunked_array([pa.array([k.to_bytes(16, "big") for k in keys], pa.binary(16))])
                yield {"key": column, "start": np.array(starts), "tokens": np.array(tokens)}

    return read


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(histories())
def test_the_ledger_equals_counting_every_position(history):
    pools, pool_of, orders = history
    seen, inside = brute_force(pools, pool_of, orders)
    of = [(order, s) for order, stop in orders for s in segments_of("run", order, stop, 3, pool_of.__getitem__)]
    segments = [with_packing(pools, s) for _, s in of]
    order_of = {s.plan.subset: order for order, s in of}
    walked = {subset: found for order, stop in orders for subset, found in walk(order, stop).items()}
    for key in seen:
        spans = [[(a, n) for k, a, n in pools[s.pool] if k == key] for s in segments]
        there = [(s, span[0]) for s, span in zip(segments, spans, strict=True) if span]
        found = parts([s for s, _ in there], [span for _, span in there])
        by_token = np.concatenate([np.full(b - a, n) for a, b, n in intervals(len(seen[key]), found)])
        assert by_token.tolist() == seen[key].tolist()
        for (s, _), row in zip(there, found, strict=True):
            for part in row:
                if s.plan.policy == "repack":
                    packed, start = (
                        packed_by_hand(pools[s.pool], s.plan),
                        next(a for k, a, _ in pools[s.pool] if k == key),
                    )
                    part_of = set(range(start + part.start, start + part.stop))
                    order = order_of[s.plan.subset]
                    at = [p for p, i in walked[s.plan.subset] if part_of & set(tokens_fed(order, s.plan, packed, p, i))]
                    assert part.exposures == int(bool(at)) * int(seen_by(order, s, packed, walked, start + part.start))
                    assert (part.first, part.last) == ((at[0], at[-1]) if at else (None, None))
                    continue
                at = [position for position, sample in walked[s.plan.subset] if sample == part.sample]
                assert (part.exposures, part.first, part.last) == (len(at), *((at[0], at[-1]) if at else (None, None)))
    counted = [key for key in seen if inside[key].any()]
    assert histogram(segments, reader(pools)) == {
        "whole": dict(sorted(Counter(int(seen[key].min()) for key in counted).items())),
        "any": dict(sorted(Counter(int(seen[key].max()) for key in counted).items())),
        "tokens": dict(sorted(Counter(np.concatenate([seen[k][inside[k]] for k in counted]).tolist()).items())),
    }
    most, found = max(int(v.max()) for v in seen.values()), most_exposed(segments, -1, reader(pools))
    assert found == most or (found > most and any(s.plan.policy == "repack" for s in segments))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(histories(), st.sets(st.integers(0, 11), min_size=1))
def test_what_is_counted_of_a_list_equals_counting_every_position(history, listed):
    pools, pool_of, orders = history
    seen, inside = brute_force(pools, pool_of, orders)
    of = [s for order, stop in orders for s in segments_of("run", order, stop, 3, pool_of.__getitem__)]
    places = {}
    for pool, documents in pools.items():
        rows = [(key.to_bytes(16, "big"), str(key), a, n) for key, a, n in documents if key in listed]
        keys, ids, starts, tokens = zip(*rows, strict=True) if rows else ((), (), (), ())
        places[pool] = Spans(keys, ids, np.array(starts, np.int64), np.array(tokens, np.int64))
    found = count([with_packing(pools, s) for s in of], places)
    held = [seen[key] for key in listed if key in seen and inside[key].any()]
    assert found == (
        len(held),
        sum(bool(tokens.any()) for tokens in held),
        sum(int(tokens.sum()) for tokens in held),
        max((int(tokens.max()) for tokens in held), default=0),
    )


def test_positions_of_a_sample_in_every_pass():
    for policy in POLICIES:
        plan = Plan("0" * 32, 7, 35, 5, 100, 1, policy)
        ids = plan.ids(range(21))
        for id_ in range(7):
            assert plan.positions_of(id_).tolist() == np.flatnonzero(ids == id_).tolist()


def test_documents_are_found_by_key_and_by_id(make_pool, tmp_path: Path):
    pool = make_pool(3000)
    index = DocumentIndex(str(pool), "f" * 32, str(tmp_path / "index"))
    spans = [
        (key.as_py(), start, n)
        for chunk in read_spans(str(pool))
        for key, start, n in zip(chunk["key"], chunk["start"].tolist(), chunk["tokens"].tolist(), strict=True)
    ]
    assert len(spans) > 50
    for i, (key, start, n) in enumerate(spans):
        (found,) = index.by_key(key)
        assert (found.key, found.id, found.start, found.tokens) == (key.hex(), f"doc{i}", start, n)
        assert index.by_id(f"doc{i}") == [found]
    assert index.by_key(b"x" * 16) == []
    assert index.by_id("nobody") == []
    again = DocumentIndex(str(tmp_path / "gone"), "f" * 32, str(tmp_path / "index"))  # nothing is built twice
    with pytest.raises(FileNotFoundError):
        again.by_id("doc3")


def test_the_example_in_the_docs():
    """The table of docs/service.md, computed from the numbers its text gives."""
    text = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    rows = re.findall(r"^\| (\d) to (\d) \| (\d) \| (\d) \| (\d) \| (\d) \|$", text, re.M)
    table = [tuple(map(int, row)) for row in rows]
    a = Plan("a", 10, 40, 4, 400, seed=1)
    b = Plan("b", 5, 18, 4, 100, policy="sequential", start_sample=3)
    assert a.ids(range(20)).tolist() == [6, 9, 3, 1, 4, 2, 5, 8, 0, 7, 8, 0, 9, 6, 7, 1, 4, 5, 3, 2]
    stops = (a, 17), (a, 12), (b, 6)
    found = parts([Segment("r", plan, stop, 4, "p") for plan, stop in stops], [(10, 7)] * 3)
    columns = [intervals(7, [row]) for row in found] + [intervals(7, found[1:])]
    by_token = [[n for start, stop, n in column for _ in range(start, stop)] for column in columns]
    assert [by for start, stop, *by in table for _ in range(start, stop)] == [
        list(row) for row in zip(*by_token, strict=True)
    ]
    assert len(table) == 3
    assert sum(by_token[3]) == 16
    assert min(part.first for part in found[1]) == 2
    assert max(part.last for part in found[2] if part.exposures) == 5


# -- damage to the index --------------------------------------------------------------------------------------------

POOL = "f" * 32
BUILT_AGAIN = f"the index of the documents of pool {POOL} is damaged: it is built again"


def answers(index: DocumentIndex, keys: list[bytes]) -> list[list[Document]]:
    return [index.by_key(key) for key in keys] + [index.by_id(f"doc{i}") for i in range(len(keys))]


@pytest.fixture
def pool(make_pool) -> Path:
    return make_pool(3000)


def keys_of(pool: Path) -> list[bytes]:
    return [key.as_py() for chunk in read_spans(str(pool)) for key in chunk["key"]]


@pytest.mark.slow
@pytest.mark.parametrize("opened", [False, True])
def test_a_flipped_bit_anywhere_is_noticed(pool: Path, tmp_path: Path, capfd, opened: bool) -> None:
    folder = tmp_path / "index"
    keys = [*keys_of(pool), b"x" * 16]
    index = DocumentIndex(str(pool), POOL, str(folder))
    right = answers(index, keys)
    random = np.random.default_rng(3)
    for name in (*(f"{name}.npy" for name in NAMES), HASHES_NAME):
        path = folder / POOL / name
        for at in random.integers(0, path.stat().st_size, 4).tolist():
            whole = path.read_bytes()
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << random.integers(0, 8))]) + whole[at + 1 :])
            found = index if opened else DocumentIndex(str(pool), POOL, str(folder))
            assert answers(found, keys) == right, (name, at)
            assert path.read_bytes() == whole
            assert BUILT_AGAIN in capfd.readouterr().err


@pytest.mark.parametrize("name", [f"{name}.npy" for name in NAMES])
def test_a_file_that_is_cut_or_gone_is_built_again(pool: Path, tmp_path: Path, capfd, name: str) -> None:
    keys = keys_of(pool)
    index = DocumentIndex(str(pool), POOL, str(tmp_path))
    right = answers(index, keys)
    path = tmp_path / POOL / name
    with path.open("r+b") as f:
        f.truncate(path.stat().st_size // 2)
    assert answers(index, keys) == right
    path.unlink()
    assert answers(index, keys) == right
    assert capfd.readouterr().err.count(BUILT_AGAIN) == 2
    shutil.rmtree(tmp_path / POOL)
    assert answers(index, keys) == right


def test_an_index_of_an_earlier_version_is_built_again(pool: Path, tmp_path: Path, capfd) -> None:
    DocumentIndex(str(pool), POOL, str(tmp_path))
    (tmp_path / POOL / HASHES_NAME).unlink()
    DocumentIndex(str(pool), POOL, str(tmp_path))
    assert "has no checksums: it is built again" in capfd.readouterr().err
    DocumentIndex(str(pool), POOL, str(tmp_path))
    assert capfd.readouterr().err == ""


def test_a_table_that_is_not_the_one_that_was_indexed_is_refused(make_pool, tmp_path: Path) -> None:
    pool, other = make_pool(3000), make_pool(3003, name="other")
    keys = keys_of(pool)
    index = DocumentIndex(str(pool), POOL, str(tmp_path))
    shutil.copy(other / "documents.parquet", pool / "documents.parquet")
    with pytest.raises(RequestError, match=r"documents\.parquet is damaged: restore it"):
        answers(index, keys)
