import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.common.errors import RequestError
from epochal.shards.order import windows
from epochal.shards.order.base import POLICIES
from epochal.shards.order.mixture import Mixture, Source, positions_of_own
from epochal.shards.order.plan import Plan
from epochal.shards.order.windows import Stage

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def plan(number, samples, positions, policy="reshuffle", padding=0, seq_len=16, seed=3):
    """Return a plan of exactly so many positions, of a subset known by its number."""
    n = samples * seq_len - padding
    widest = Plan(f"{number:032x}", samples, n, seq_len, -(-positions // samples) * n, seed, policy)
    return Plan(f"{number:032x}", samples, n, seq_len, widest.tokens_before(positions), seed, policy)


def mixture_of(counts, window, stages=None, seed=1, samples=(7, 12, 5, 90), **fields):
    """Return a mixture of sources with so many positions each; `stages`: their counts in each of several stages."""
    stages = stages or [counts]
    sources = tuple(Source(f"s{i}", plan(i, samples[i], n, **fields)) for i, n in enumerate(counts))
    return Mixture(sources, tuple(Stage(sum(c), tuple(c)) for c in stages), window, seed)


def by_hand(mixture):
    """Return (source, its own position) of every position, walked one window after the other by the definition."""
    from epochal.common.hashing import derive_words

    def mix(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    def before(stage, length):
        edges = [0, *itertools.accumulate(stage.shares)]
        total = edges[-1]
        rounded = [(2 * length * e + total) // (2 * total) for e in edges]
        return [b - a for a, b in itertools.pairwise(rounded)]

    seen = [0] * len(mixture.sources)
    found = []
    for number, stage in enumerate(mixture.stages):
        key = int(derive_words("mixture/window", mixture.seed, number, 1)[0])
        whole, rest = divmod(stage.positions, mixture.window)
        edges = [before(stage, min(w * mixture.window, stage.positions)) for w in range(whole + 1 + bool(rest))]
        if whole and rest:
            left = [0, *itertools.accumulate(b - a for a, b in zip(edges[-3], edges[-1], strict=True))]
            size = mixture.window + rest
            cut = [(2 * n * mixture.window + size) // (2 * size) for n in left]
            edges[-2] = [a + c - b for a, b, c in zip(edges[-3], cut, cut[1:], strict=False)]
        for w, (start, end) in enumerate(itertools.pairwise(edges)):
            quota = [b - a for a, b in zip(start, end, strict=True)]
            assert min(quota) >= 0
            owners = [s for s, n in enumerate(quota) for _ in range(n)]
            slots = sorted(
                range(len(owners)), key=lambda i: (mix((key + (w * 2**20 + i) * 0x9E3779B97F4A7C15) % 2**64), i)
            )
            for slot in slots:
                found.append((owners[slot], seen[owners[slot]]))
                seen[owners[slot]] += 1
    return found


@st.composite
def mixtures(draw):
    n = draw(st.integers(1, 4))
    counts = draw(st.lists(st.integers(1, 60), min_size=n, max_size=n))
    n_stages = draw(st.integers(1, 3))
    window = draw(st.integers(1, 40))
    policy = draw(st.sampled_from(POLICIES))
    padding = draw(st.integers(0, 15))
    stages = [counts]
    if n_stages > 1:  # cut each source's count into stages
        cuts = [
            np.sort(draw(st.lists(st.integers(0, c), min_size=n_stages - 1, max_size=n_stages - 1))) for c in counts
        ]
        parts = np.diff([[0, *cut, c] for cut, c in zip(cuts, counts, strict=True)], axis=1).T
        stages = [list(map(int, part)) for part in parts if part.sum()]
    try:
        return mixture_of(counts, window, stages, draw(st.integers(0, 5)), policy=policy, padding=padding)
    except RequestError as error:
        assert "has room for less than one" in str(error)  # noqa: PT017
        return mixture_of(counts, 1000, stages, policy=policy, padding=padding)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(mixtures(), st.randoms())
def test_every_position_is_what_the_definition_says(mixture, random):
    expected = by_hand(mixture)
    sources, numbers = (np.array(column) for column in zip(*expected, strict=True))
    ids = mixture.ids(range(mixture.positions))
    for s, source in enumerate(mixture.sources):
        own = source.plan.ids(range(source.plan.positions)) + np.uint64(mixture.offsets[s])
        np.testing.assert_array_equal(ids[sources == s], own)  # each source in its own plan's order, whole
    found, inner = mixture.locate(ids)
    np.testing.assert_array_equal(found, sources)
    assert (inner < np.array([s.plan.samples for s in mixture.sources])[sources]).all()
    some = [random.randrange(mixture.positions) for _ in range(20)]
    np.testing.assert_array_equal(mixture.ids(some), ids[some])
    start = random.randrange(mixture.positions)
    np.testing.assert_array_equal(mixture.ids(range(start, mixture.positions)), ids[start:])
    for position in {0, start, mixture.positions}:
        assert mixture.counts(position) == np.bincount(sources[:position], minlength=len(mixture.sources)).tolist()
        seen = np.bincount(ids[:position].astype(int), minlength=mixture.samples)
        np.testing.assert_array_equal(mixture.exposures(position), seen)
        chosen = [random.randrange(mixture.samples) for _ in range(5)]
        np.testing.assert_array_equal(mixture.exposures(position, chosen), seen[chosen])
        assert mixture.histogram(position) == {
            int(k): int(v) for k, v in zip(*np.unique(seen, return_counts=True), strict=True)
        }
        assert mixture.tokens_before(position) == mixture.n_tokens(ids[:position]).sum()
    for pass_ in range(min(s.plan.copies for s in mixture.sources)):
        places = mixture.position_of(np.arange(mixture.samples), pass_)
        inside = places < mixture.positions
        np.testing.assert_array_equal(ids[places[inside].astype(int)], np.flatnonzero(inside))
    assert len(numbers) == mixture.positions


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.lists(mixtures(), min_size=1, max_size=4), st.randoms(), st.sampled_from([30, 1 << 18]), st.integers(1, 30))
def test_samples_of_many_mixtures_come_where_each_has_them(found, random, chunk, most):
    """Few of a window are ranked, many are sorted; windows of several mixtures are hashed together, so many at once."""
    asked, expected = [], []
    for mixture in found:
        own = np.array(by_hand(mixture))
        for s, source in enumerate(mixture.sources):
            numbers = np.array([random.randrange(source.plan.positions) for _ in range(random.randint(0, most))], int)
            asked.append((mixture, s, numbers))
            expected.append(np.flatnonzero(own[:, 0] == s)[numbers])
    asked.append((found[0].sources[0].plan, 0, np.array([3, 1])))  # a plan's positions are its own
    expected.append(np.array([3, 1]))
    which = np.repeat(np.arange(len(asked)), [len(numbers) for _, _, numbers in asked])
    shuffled = np.array(random.sample(range(len(which)), len(which)), int)
    numbers = np.concatenate([numbers for _, _, numbers in asked])[shuffled]
    sources = [(order, component) for order, component, _ in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "CHUNK", chunk)
        places = positions_of_own(sources, which[shuffled], numbers)
    np.testing.assert_array_equal(places, np.concatenate(expected)[shuffled])


@pytest.mark.slow
def test_counts_are_exact_in_every_window_of_a_million_positions():
    """1 part of s0, 3 of s1 and 6 of s2: every aligned window of 1000 has 100, 300 and 600, wherever it lies."""
    parts = [plan(i, n, 1) for i, n in enumerate((1_000, 90_001, 250_000))]
    shares, length = (1, 3, 6), 1_000_000
    counts = [length * share // 10 for share in shares]
    sources = tuple(Source(f"s{i}", plan(i, p.samples, n)) for i, (p, n) in enumerate(zip(parts, counts, strict=True)))
    mixture = Mixture(sources, (Stage(length, shares),), 1000, 7)
    ids = mixture.ids(range(length))
    owner = mixture.locate(ids)[0].reshape(-1, 1000)
    for s, n in enumerate((100, 300, 600)):
        assert ((owner == s).sum(axis=1) == n).all()
        np.testing.assert_array_equal(
            np.bincount(ids[owner.ravel() == s].astype(int) - mixture.offsets[s], minlength=parts[s].samples),
            sources[s].plan.exposures(counts[s]),
        )
    # Spread, not sorted: a source's places in a window are about evenly distributed over it.
    places = np.argwhere(owner == 0)[:, 1]
    assert np.histogram(places, 10, (0, 1000))[0] == pytest.approx([10_000] * 10, rel=0.05)
    assert len(set(map(bytes, owner[:100].astype(np.uint8)))) == 100


def test_quotas_of_token_counts_that_do_not_divide_evenly_are_off_by_at_most_one_and_right_in_sum():
    mixture = mixture_of((2999, 7001, 12_345, 5), 5_000, samples=(100, 1000, 500, 90))
    quotas = mixture.quotas(0, range(5))
    np.testing.assert_array_equal(quotas.sum(axis=0), [2999, 7001, 12_345, 5])
    assert quotas.sum(axis=1).tolist() == [5000, 5000, 5000, 5000, 2350]
    exact = np.array([2999, 7001, 12_345, 5]) * 5000 / 22_350
    assert (abs(quotas[:4] - exact) <= 1).all()
    with pytest.raises(RequestError, match="use a window of at least 4470"):
        mixture_of((2999, 7001, 12_345, 5), 1_000, samples=(100, 1000, 500, 90))


def test_golden_vectors():
    """The definition in docs/repetition.md: changing any of these needs a new MIXTURE_VERSION."""
    a, b = plan(1, 10, 20, seed=1), plan(2, 20, 20, seed=2)
    mixture = Mixture((Source("a", a), Source("b", b)), (Stage(10, (1, 0)), Stage(30, (1, 2))), 6, 1)
    sources = mixture.locate(mixture.ids(range(40)))[0]
    assert "".join("ab"[s] for s in sources) == GOLDEN_SOURCES
    assert mixture.ids(range(10, 20)).tolist() == GOLDEN_IDS
    assert mixture.fingerprint == GOLDEN_FINGERPRINT
    assert mixture.digest(0, 40) == GOLDEN_DIGEST


GOLDEN_SOURCES = "aaaaaaaaaabbababbbababbbaabbbbbababbbaba"
GOLDEN_IDS = [11, 18, 8, 27, 0, 14, 24, 26, 9, 15]
GOLDEN_FINGERPRINT = "13822986a5120ba1c4fe51c833517666"
GOLDEN_DIGEST = "7e3c9ff5be35d3d092b7943fc675d5b3"


def test_ten_trillion_tokens_need_no_table():
    """40 passes over 10^9 tokens of code, the rest web: known anywhere at once, counts exact at the end."""
    code = Plan("c" * 32, 488_281, 10**9 - 512, 2048, 40 * (10**9 - 512))
    rest = 10**13 - code.tokens
    web = Plan("b" * 32, -(-(rest // 4) // 2048), rest // 4, 2048, rest)
    assert code.tokens + web.tokens > 10**13 - 2048
    shares = (code.positions, web.positions)
    mixture = Mixture((Source("code", code), Source("web", web)), (Stage(sum(shares), shares),), 1000, 0)
    assert mixture.positions > 4.8e9
    assert mixture.counts(mixture.positions) == list(shares)
    for start in (0, mixture.positions // 2, mixture.positions - 256):
        ids = mixture.ids(range(start, start + 256))
        sources, inner = mixture.locate(ids)
        own = [inner[sources == s] for s in range(2)]
        first = mixture.counts(start)
        for s, source in enumerate(mixture.sources):
            np.testing.assert_array_equal(own[s], source.plan.ids(range(first[s], first[s] + len(own[s]))))
        pass_ = first[0] // code.samples
        mine = np.flatnonzero(sources == 0)
        if len(mine) and start + 256 <= mixture.positions:
            found = mixture.position_of(ids[mine].astype(np.int64), pass_)
            np.testing.assert_array_equal(found, start + mine)


def test_places_do_not_depend_on_whether_int64_has_room_for_the_shares():
    plans = [Plan("a" * 32, 50, 800, 16, 16 * 5000), Plan("b" * 32, 70, 1120, 16, 16 * 3000, seed=3)]
    sources = tuple(Source(name, plan) for name, plan in zip("ab", plans, strict=True))
    numbers = np.arange(0, 3000, 7)
    found = []
    for times in (1, 2**61):
        mixture = Mixture(sources, (Stage(8000, (5 * times, 3 * times)),), 40, 2)
        assert mixture._windows[0].fits == (times == 1)
        found.append(mixture.position_of_own(1, numbers))
        assert (mixture._located(found[-1])[0] == 1).all()
    np.testing.assert_array_equal(*found)
