import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.__main__ import main
from epochal.common.errors import RequestError, WorkError
from epochal.common.units import tokens_for_epochs
from epochal.shards.artifact import open_artifact
from epochal.shards.order.base import POLICIES, digest_text
from epochal.shards.order.plan import Plan

VECTORS = json.loads((Path(__file__).parent / "order_vectors.json").read_text())


def make_plan(tokens: int = 1001, total: int = 3370, seq_len: int = 16, **fields) -> Plan:
    return Plan("ab" * 16, -(-tokens // seq_len), tokens, seq_len, total, **fields)


plans = st.builds(
    make_plan,
    tokens=st.integers(20, 400),
    total=st.integers(16, 1200),
    seed=st.integers(0, 2**63 - 1),
    policy=st.sampled_from(POLICIES),
)


@settings(max_examples=60, deadline=None)
@given(plans)
def test_a_run_is_short_of_its_budget_by_less_than_one_sample(plan: Plan) -> None:
    tokens = int(plan.n_tokens(plan.ids(range(plan.positions))).sum())
    assert tokens == plan.tokens
    assert plan.total_tokens - plan.seq_len < tokens <= plan.total_tokens


@settings(max_examples=60, deadline=None)
@given(plans, st.integers(1, 5))
def test_whole_passes_are_paid_to_the_token(plan: Plan, passes: int) -> None:
    whole = replace(plan, total_tokens=passes * plan.unique_tokens)
    assert (whole.tokens, whole.positions) == (passes * whole.unique_tokens, passes * whole.samples)


@settings(max_examples=50, deadline=None)
@given(plans, st.data())
def test_exposures_count_what_ids_say(plan: Plan, data) -> None:
    position = data.draw(st.integers(0, plan.positions))
    counted = np.bincount(plan.ids(range(position)).astype(int), minlength=plan.samples)
    assert np.array_equal(plan.exposures(position), counted)
    assert plan.exposures(position, [plan.samples - 1]).tolist() == [counted[-1]]
    times, numbers = np.unique(counted, return_counts=True)
    assert plan.histogram(position) == dict(zip(times.tolist(), numbers.tolist(), strict=True))


@settings(max_examples=50, deadline=None)
@given(plans)
def test_position_of_is_where_ids_finds_it(plan: Plan) -> None:
    everything = np.arange(plan.samples)
    for pass_ in range(plan.copies):
        assert np.array_equal(plan.ids(plan.position_of(everything, pass_)), everything)


@pytest.mark.parametrize("policy", ["reshuffle", "fixed", "sequential"])
def test_every_sample_comes_once_before_any_comes_again(policy: str) -> None:
    plan = make_plan(policy=policy)
    passes = [plan.ids(range(e * 63, e * 63 + 63)).tolist() for e in range(3)]
    assert all(sorted(p) == list(range(63)) for p in passes)
    assert (passes[0] == passes[1]) == (policy != "reshuffle")
    assert (passes[0] == list(range(63))) == (policy == "sequential")


def test_global_shuffles_all_passes_together() -> None:
    plan = make_plan(tokens=16_000, total=16 * 16_000, policy="global")
    assert set(plan.exposures(plan.positions).tolist()) == {16}
    unseen = (plan.exposures(plan.samples) == 0).mean()
    assert abs(unseen - (15 / 16) ** 16) < 0.05  # tends to 1/e with the passes; 0 for the other policies


@pytest.mark.parametrize("policy", POLICIES)
def test_positions_in_any_order_give_the_same_ids(policy: str) -> None:
    plan = make_plan(policy=policy)
    shuffled = np.random.default_rng(0).permutation(plan.positions)
    assert np.array_equal(plan.ids(shuffled), plan.ids(range(plan.positions))[shuffled])


def test_the_order_does_not_depend_on_the_budget() -> None:
    assert np.array_equal(make_plan(total=9000).ids(range(150)), make_plan(total=3370).ids(range(150)))


def test_a_run_of_ten_trillion_samples_begins_anywhere_at_once() -> None:
    plan = make_plan(tokens=10**13 * 16, total=480 * 10**13 * 16, seed=2)
    position = int(plan.positions * 0.95)
    ids = plan.ids(range(position, position + 1000))
    assert np.array_equal(
        plan.position_of(ids, position // 10**13), np.arange(position, position + 1000, dtype=np.uint64)
    )
    assert plan.exposures(position, ids[:1]).tolist() == [456]


def test_the_papers_1b_run() -> None:
    plan = Plan("ab" * 16, 488_282, 10**9, 2048, 96 * 10**9)
    assert (plan.positions, plan.tokens, plan.steps(plan.batch_samples(524_288))) == (96 * 488_282, 96 * 10**9, 183_106)


@settings(max_examples=30, deadline=None)
@given(plans, st.data())
def test_digests_of_parts_add_up_in_any_order(plan: Plan, data) -> None:
    cut = data.draw(st.integers(0, plan.positions))
    order = np.random.default_rng(0).permutation(plan.positions)
    parts = [plan.fold(part, plan.ids(part)) for part in (order[:cut], order[cut:])]
    assert digest_text((parts[0][0] + parts[1][0], parts[0][1] + parts[1][1])) == plan.digest(0, plan.positions)


def test_digest_notices_lost_doubled_and_exchanged_samples() -> None:
    plan = make_plan()
    positions, ids = np.arange(plan.positions), plan.ids(range(plan.positions))
    exchanged = ids.copy()
    exchanged[[5, 6]] = exchanged[[6, 5]]
    wrong = [plan.fold(positions[1:], ids[1:]), plan.fold(positions, exchanged)]
    wrong.append(plan.fold(np.append(positions, 3), np.append(ids, ids[3])))
    assert plan.digest(0, plan.positions) not in [digest_text(lanes) for lanes in wrong]
    assert make_plan(seed=1).digest(0, 9) != make_plan(seed=1, policy="fixed").digest(0, 9)


def test_fingerprint_names_every_field() -> None:
    base = make_plan()
    others = [
        replace(base, subset="cd" * 16),
        replace(base, unique_tokens=1002),
        replace(base, total_tokens=3371),
        replace(base, seed=1),
        replace(base, replicate=1),
        replace(base, start_sample=8),
        *(make_plan(policy=policy) for policy in POLICIES[1:]),
    ]
    assert len({p.fingerprint for p in [base, *others]}) == len(others) + 1
    assert base.difference(replace(base, seed=4)) == "seed is 4, not 0"


def test_json_comes_back_and_changes_are_noticed() -> None:
    plan = make_plan(seed=2**63 - 1, policy="global")
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(WorkError, match="changed after it was written"):
        Plan.from_dict(plan.to_dict() | {"seed": 3})
    for text in ("", "[]", "{}", '{"plan_version": 99}', '{"plan_version": 1, "surprise": 2}'):
        with pytest.raises(RequestError):
            Plan.from_json(text)


@pytest.mark.parametrize("vector", VECTORS["plan"], ids=lambda v: v["plan"]["policy"])
def test_committed_vectors(vector: dict) -> None:
    plan = Plan.from_dict(vector["plan"])
    assert plan.ids(range(plan.positions)).tolist() == vector["ids"]
    assert (plan.tokens, plan.exposures(10).tolist()) == (vector["tokens"], vector["exposures"])
    assert (plan.digest(0, plan.positions), plan.digest(0, 10)) == (vector["digest"], vector["digest_0_10"])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"total_tokens": 0}, "at least 1"),
        ({"total_tokens": 15}, "does not pay for one sample"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**63}, "seed must be"),
        ({"seed": True}, "seed must be"),
        ({"policy": "py1e"}, "policy must be one of"),
        ({"samples": 64}, "make 63 samples"),
        ({"seq_len": 0}, "at least 1"),
    ],
)
def test_contradictions_are_refused(change: dict, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        replace(make_plan(), **change)


def test_positions_and_ids_outside_are_refused() -> None:
    plan = make_plan(policy="global")
    wrong: list[Callable] = [
        lambda: plan.ids([63 * 4]),
        lambda: plan.ids([-1]),
        lambda: plan.ids([0.5]),
        lambda: plan.ids(range(0, 9, 2)),
    ]
    wrong += [lambda: plan.position_of([63], 0), lambda: plan.position_of([0], 4), lambda: plan.exposures(-1)]
    for bad in wrong:
        with pytest.raises(RequestError):
            bad()
    with pytest.raises(RequestError):
        plan.digest(0, plan.positions + 1)


@pytest.mark.parametrize(("epochs", "tokens"), [("96", 96096), (3, 3003), ("3.37", 3373), ("0.1", 100)])
def test_epochs_are_exact_tokens(epochs, tokens: int) -> None:
    assert tokens_for_epochs(epochs, 1001) == tokens


@pytest.mark.parametrize("epochs", ["0", "-1", "many", "nan", "inf"])
def test_epochs_that_are_none_are_refused(epochs: str) -> None:
    with pytest.raises(RequestError):
        tokens_for_epochs(epochs, 1001)


# -- the command line ------------------------------------------------------------------------------------------------


def test_plan_command(make_pool, capsys) -> None:
    pool = str(make_pool(1001))
    assert main(["plan", pool, "--total-tokens", "5005", "--batch-tokens", "128", "--params", "1M", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {k: found[k] for k in ("passes", "partial", "steps", "tokens", "positions", "samples")} == {
        "passes": 5,
        "partial": 0.0,
        "steps": 40,
        "tokens": 5005,
        "positions": 315,
        "samples": 63,
    }
    assert found["training_flops"] == 6 * 10**6 * 5005
    assert main(["plan", pool, "--epochs", "3.5", "--batch-tokens", "128"]) == 0
    assert "3 + 0.4" in capsys.readouterr().out


def test_order_command_prints_the_plans_order(make_pool, capsys) -> None:
    pool = make_pool(1001)
    plan = Plan.for_artifact(open_artifact(str(pool)).manifest, 10**6, 7)
    assert main(["order", str(pool), "--seed", "7", "--start", "60", "--count", "9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"ids": plan.ids(range(60, 69)).tolist(), "positions": list(range(60, 69))}
    assert main(["order", str(pool), "--seed", "7", "--start", "60", "--count", "9"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [int(sample) for _, sample in lines] == found["ids"]


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "POOL", "--total-tokens", "0", "--batch-tokens", "128"],
        ["plan", "POOL", "--total-tokens", "1001", "--batch-tokens", "100"],
        ["plan", "POOL", "--total-tokens", "1001", "--batch-tokens", "1M"],
        ["plan", "POOL", "--epochs", "no", "--batch-tokens", "128"],
        ["plan", "POOL/nothing", "--epochs", "1", "--batch-tokens", "128"],
        ["order", "POOL", "--count", "3", "--policy", "global"],
        ["order", "POOL", "--count", "999", "--epochs", "1"],
        ["order", "POOL", "--count", "3", "--seed", "-1"],
    ],
)
def test_wrong_requests_are_one_line_and_status_2(make_pool, capsys, words: list[str]) -> None:
    pool = str(make_pool(1001))
    assert main([word.replace("POOL", pool) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_ten_trillion_tokens_are_known_at_any_position_without_a_table(policy: str) -> None:
    tokens = 10**13 // 4 // 2048 * 2048
    plan = Plan("0" * 32, tokens // 2048, tokens, 2048, 10**13, 1, policy)
    assert plan.positions == 10**13 // 2048
    for start in (0, plan.positions // 2, plan.positions - 256):
        ids = plan.ids(range(start, start + 256))
        found = {int(p) for pass_ in range(plan.copies) for p in plan.position_of(ids, pass_)}
        assert found >= set(range(start, start + 256))
        assert (np.abs(plan.exposures(start + 256, ids) - plan.exposures(start, ids)) >= 1).all()
    assert not [name for name, value in vars(plan).items() if getattr(value, "nbytes", 0) > 1000]
