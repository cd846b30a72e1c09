import json
from fractions import Fraction

import numpy as np
import pytest

from epochal.common.errors import RequestError, WorkError
from epochal.shards.order.base import POLICIES
from epochal.shards.order.mixing import Ingredient, by_tokens, by_weights
from epochal.shards.order.mixture import Mixture
from epochal.shards.order.plan import Plan
from epochal.shards.order.stored import order_from_dict
from epochal.tests.support.loading import ingredient


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
