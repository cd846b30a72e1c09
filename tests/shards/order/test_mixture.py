import itertools
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.__main__ import main
from epochal.common.config import validate
from epochal.common.errors import RequestError, WorkError
from epochal.shards.artifact import open_artifact
from epochal.shards.carve import carve
from epochal.shards.loader.dataset import RepeatedDataset
from epochal.shards.order.mixture import Ingredient, Mixture, Source, Stage, by_tokens, by_weights, order_from_dict
from epochal.shards.order.mixture_config import MixtureSettings, open_mixture
from epochal.shards.order.plan import POLICIES, Plan
from epochal.shards.order.receipt import Receipt
from epochal.tests.support.loading import flat, tokens_of
from epochal.tests.support.ranks import run_ranks

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


# -- building -------------------------------------------------------------------------------------------------------


@pytest.fixture
def subsets(make_pool):
    """Three subsets that share no token: two replicates of a pool, and another pool; with their sizes padded."""
    toy = str(make_pool(6000))
    return {
        "a": carve(toy, 901)[0],
        "b": carve(toy, 1500, 1)[0],
        "c": carve(str(make_pool(2000, name="other")), 333)[0],
    }


def ingredient(name, root, **fields):
    return Ingredient(name, open_artifact(root).manifest, **fields)


def test_token_counts_give_each_source_the_plan_it_would_have_alone(subsets):
    parts = [ingredient("a", subsets["a"], seed=5), ingredient("c", subsets["c"], policy="global")]
    mixture = by_tokens([(parts[0], 40 * 901), (parts[1], 1000)], 60)
    assert mixture.sources[0].plan == Plan.for_artifact(parts[0].manifest, 40 * 901, 5)
    assert mixture.sources[1].plan == Plan.for_artifact(parts[1].manifest, 1000, 0, "global")
    assert mixture.tokens == 40 * 901 + mixture.sources[1].plan.tokens
    assert mixture.unique_tokens == 901 + 333
    assert set(mixture.exposures(mixture.positions)[: mixture.offsets[1]]) == {40}


@pytest.mark.parametrize("policy", POLICIES)
def test_weights_are_exact_in_every_window_and_the_budget_is_met_to_a_sample(subsets, policy):
    parts = [ingredient(n, subsets[n], policy=policy) for n in "ab"]
    mixture = by_weights(parts, [(50_000, {"a": Fraction("0.3"), "b": Fraction("0.7")})], 50)
    assert 0 <= 50_000 - mixture.tokens < 16
    n = mixture.positions // 50
    assert mixture.quotas(0, range(n)).tolist() == [[15, 35]] * n
    assert [s.plan.positions for s in mixture.sources] == mixture.counts(mixture.positions)


def test_stages_start_on_one_and_go_on_with_both(subsets):
    parts = [ingredient(n, subsets[n]) for n in "abc"]
    stages = [(5000, {"a": 1}), (8000, {"a": 1, "b": 1}), (4000, {"c": 1, "b": 3})]
    mixture = by_weights(parts, stages, 20)
    owner = mixture.locate(mixture.ids(range(mixture.positions)))[0]
    first, second = mixture.stages[0].positions, mixture.stages[1].positions
    assert 0 <= 5000 - mixture.tokens_before(first) < 16
    assert 0 <= 13_000 - mixture.tokens_before(first + second) < 16
    assert set(owner[:first]) == {0}
    assert set(owner[first : first + second]) == {0, 1}
    assert set(owner[first + second :]) == {1, 2}
    own = mixture.locate(mixture.ids(range(mixture.positions)))[1][owner == 0]
    np.testing.assert_array_equal(own, mixture.sources[0].plan.ids(range(len(own))))  # `a` goes on where it was


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: [p["a"], ingredient("a2", p["a"].name)], "hold the same samples"),
        (lambda p: [p["a"], Ingredient("b", p["b"].manifest.model_copy(update={"seq_len": 8}))], "have 8 tokens"),
        (
            lambda p: [p["a"], Ingredient("b", p["b"].manifest.model_copy(
                update={"tokenizer": p["b"].manifest.tokenizer.model_copy(update={"fingerprint": "1" * 32})}
            ))],
            "another tokenizer",
        ),
        (lambda p: [p["a"], Ingredient("a", p["b"].manifest)], "is there twice"),
        (lambda p: [], "at least one source"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(subsets, make_pool, change, message):
    parts = {name: ingredient(name, root) for name, root in subsets.items()}
    parts["a"] = Ingredient(subsets["a"], parts["a"].manifest) if "same samples" in message else parts["a"]
    with pytest.raises(RequestError, match=message):
        by_tokens([(part, 5000) for part in change(parts)], 100)


def test_json_round_trip_and_what_differs(subsets):
    parts = [ingredient(n, subsets[n]) for n in "ab"]
    one, other = (by_tokens([(parts[0], 9010), (parts[1], 4500)], w) for w in (100, 50))
    assert order_from_dict(json.loads(one.to_json())) == one
    assert one.difference(one) == ""
    assert one.difference(other) == "window is 50, not 100"
    assert "mixture" in one.difference(one.sources[0].plan)
    assert "mixture" in one.sources[0].plan.difference(one)
    changed = json.loads(one.to_json())
    changed["window"] = 99
    with pytest.raises(WorkError, match="changed"):
        Mixture.from_dict(changed)
    with pytest.raises(RequestError, match="no mixture"):
        Mixture.from_dict({})


# -- reading --------------------------------------------------------------------------------------------------------


def toy_mixture(subsets):
    parts = [ingredient(n, subsets[n], seed=i) for i, n in enumerate("abc")]
    mixture = by_tokens([(parts[0], 3 * 901), (parts[1], 2000), (parts[2], 700)], 12)
    tokens = np.concatenate([tokens_of(subsets[n]) for n in "abc"])
    return mixture, [subsets[n] for n in "abc"], tokens


def check(samples, mixture, tokens, start=0):
    ids = mixture.ids(range(start, mixture.positions))
    assert [s["position"] for s in samples] == list(range(start, mixture.positions))
    assert [s["sample_id"] for s in samples] == ids.tolist()
    assert [s["n_tokens"] for s in samples] == mixture.n_tokens(ids).tolist()
    np.testing.assert_array_equal(np.stack([s["tokens"] for s in samples]), tokens[ids.astype(int)])


def rank_work(rank, roots, mixture, state, workers):
    dataset = RepeatedDataset(roots, mixture, global_batch=8, batched=True)
    if state:
        dataset.load_state_dict(state)
    receipt = Receipt(mixture)
    samples = []
    for batch in dataset.loader(workers):
        samples += flat([batch])
        receipt.add(batch["position"].numpy(), batch["sample_id"].numpy())
    return samples, receipt.state.tolist()


@pytest.mark.processes
@pytest.mark.parametrize(("n_ranks", "workers"), [(2, 2), (4, 0)])
def test_the_same_samples_on_any_ranks_and_after_any_interruption(subsets, tmp_path, n_ranks, workers):
    mixture, roots, tokens = toy_mixture(subsets)
    start = 8 * 5 * n_ranks // 2
    state = RepeatedDataset(roots, mixture, global_batch=8).state_dict(start, True)
    ranks = run_ranks(n_ranks, rank_work, tmp_path, roots, mixture, json.loads(json.dumps(state)), workers)
    samples = sorted((s for r in ranks for s in r[0]), key=lambda s: s["position"])
    check(samples, mixture, tokens, start)
    receipt = Receipt(mixture, np.sum([r[1] for r in ranks], axis=0))
    before = Receipt(mixture)
    before.add(np.arange(start), mixture.ids(range(start)))
    receipt.merge(before)
    assert receipt.check() is None
    assert Receipt.from_json(receipt.to_json()).check() is None


def test_a_whole_run_and_states_of_other_mixtures(subsets, tmp_path):
    mixture, roots, tokens = toy_mixture(subsets)
    dataset = RepeatedDataset(roots, mixture, global_batch=8)
    check(flat(dataset.loader(0)), mixture, tokens)
    assert len(dataset) == mixture.positions
    assert dataset.get_item(mixture.samples - 1)["n_tokens"] == 333 % 16
    other = RepeatedDataset(roots[0], mixture.sources[0].plan, global_batch=8)
    with pytest.raises(RequestError, match="of another run: one is a mixture"):
        dataset.load_state_dict(other.state_dict(8, True))
    with pytest.raises(RequestError, match="the plan is not for"):
        RepeatedDataset(roots[::-1], mixture, global_batch=8)
    with pytest.raises(RequestError, match="reads 3 artifacts, 2 were named"):
        RepeatedDataset(roots[:2], mixture, global_batch=8)


@pytest.mark.slow
def test_a_mixture_through_a_cache(subsets, tmp_path):
    mixture, roots, tokens = toy_mixture(subsets)
    urls = [f"file://{root}" for root in roots]
    check(
        flat(RepeatedDataset(urls, mixture, global_batch=8, cache=str(tmp_path / "cache")).loader(0)), mixture, tokens
    )
    owners = {p.parent.name for p in (tmp_path / "cache").rglob("*.mds")}
    fingerprints = {open_artifact(r).manifest.fingerprint for r in roots}
    assert owners == fingerprints | {open_artifact(r).manifest.parent.fingerprint for r in roots}
    limit = 5 * max(s.bytes for r in roots for s in open_artifact(r).shards)
    again = RepeatedDataset(urls, mixture, global_batch=8, cache=str(tmp_path / "small"), cache_limit=limit)
    check(flat(again.loader(0)), mixture, tokens)


# -- YAML and commands ----------------------------------------------------------------------------------------------


def write_yaml(path: Path, subsets, text: str) -> str:
    for name, root in subsets.items():
        text = text.replace(f"<{name}>", root)
    path.write_text(text)
    return str(path)


def test_plan_order_and_audit_of_a_mixture(subsets, tmp_path, capsys):
    path = write_yaml(
        tmp_path / "mix.yaml",
        subsets,
        "window: 60\nsources:\n  a: {path: <a>, epochs: 40}\n  b: {path: <b>, epochs: 4, policy: fixed, seed: 9}\n",
    )
    assert main(["plan", path, "--batch-tokens", "128", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["tokens"] == 40 * 901 + 4 * 1500
    assert numbers["sources"]["a"]["exposures"] == {"40": 57}
    assert numbers["sources"]["b"]["exposures"] == {"4": 94}
    mixture = Mixture.from_dict(numbers["plan"])
    assert main(["plan", path, "--batch-tokens", "128"]) == 0
    text = capsys.readouterr().out
    assert "a: 901 unique tokens, 40 passes (reshuffle, seed 0)" in text
    assert "b: 1.5k unique tokens, 4 passes (fixed, seed 9)" in text
    assert main(["order", path, "--start", "10", "--count", "20", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ids"] == mixture.ids(range(10, 30)).tolist()
    assert shown["source_ids"] == [
        i - {"a": 0, "b": 57}[s] for i, s in zip(shown["ids"], shown["sources"], strict=True)
    ]
    assert main(["order", path, "--start", str(mixture.positions), "--count", "1"]) == 2
    receipt = Receipt(mixture)
    receipt.add(np.arange(mixture.positions), mixture.ids(range(mixture.positions)))
    (tmp_path / "receipt.json").write_text(receipt.to_json())
    assert main(["audit", str(tmp_path / "receipt.json")]) == 0
    wrong = Receipt(mixture)
    wrong.add(np.arange(mixture.positions), np.roll(mixture.ids(range(mixture.positions)), 1))
    (tmp_path / "receipt.json").write_text(wrong.to_json())
    assert main(["audit", str(tmp_path / "receipt.json")]) == 1


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("sources: {a: {path: <a>}}", [], "'a' needs one of epochs, tokens, weight"),
        ("sources: {a: {path: <a>, epochs: 2, weight: 1}}", [], "'a' needs one of"),
        ("sources: {a: {path: <a>, epochs: 2}, b: {path: <b>, weight: 1}}", [], "give all sources a weight"),
        ("sources: {a: {path: <a>, epochs: 2}}", ["--epochs", "2"], "leave --total-tokens out"),
        ("sources: {a: {path: <a>, weight: 2}}", [], "has no end of its own: give --total-tokens"),
        ("sources: {a: {path: <a>, epoch: 2}}", [], "did you mean"),
        ("sources: {a: {path: <a>, epochs: x}}", [], "epochs 'x' is no number"),
        ("sources: {a: {path: <a>}}\nstages: [{weights: {b: 1}}]", [], "names 'b', which is no source"),
        ("sources: {a: {path: <a>, weight: 1}}\nstages: [{weights: {a: 1}}]", [], "stages say how much"),
        (
            "sources: {a: {path: <a>}, b: {path: <b>}}\nstages: [{tokens: 1M, weights: {a: 1}}, {weights: {b: 1}}]",
            ["--total-tokens", "1M"],
            "the stages before the last take all",
        ),
        ("sources: {a: {path: <a>, weight: 1}}", ["--total-tokens", "15"], "pays for no sample"),
        ("sources: {a: {path: <a>, weight: 1}}", ["--total-tokens", "1M", "--policy", "fixed"], "--policy is for one"),
    ],
)
def test_wrong_requests_are_one_line(subsets, tmp_path, capsys, text, words, message):
    path = write_yaml(tmp_path / "mix.yaml", subsets, text)
    assert main(["plan", path, "--batch-tokens", "128", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_stages_in_yaml(subsets, tmp_path):
    text = (
        "sources: {a: {path: <a>}, b: {path: <b>}}\nwindow: 20\n"
        "stages: [{tokens: 5000, weights: {a: 1}}, {weights: {a: 0.5, b: 1.5}}]"
    )
    import yaml

    path = write_yaml(tmp_path / "mix.yaml", subsets, text)
    opened = open_mixture(validate(MixtureSettings, yaml.safe_load(Path(path).read_text()), path), 4, lambda n: 20_000)
    assert [s.shares for s in opened.mixture.stages] == [(1, 0), (1, 3)]
    assert 0 <= 20_000 - opened.mixture.tokens < 16
    assert opened.mixture.seed == 4


def test_a_leak_check_against_one_source_is_refused(subsets):
    from types import SimpleNamespace

    from epochal.train.eval.evaluate import training_manifest

    card = SimpleNamespace(training={"plan": toy_mixture(subsets)[0].to_dict()})
    with pytest.raises(RequestError, match=r"a mixture \(a, b, c\)"):
        training_manifest(subsets["a"], card)
