"""Accuracy during training: the continuation task, and how its figures reach the log."""

import numpy as np
import pytest

from epochal.common.config import validate
from epochal.common.errors import RequestError
from epochal.shards.artifact import open_artifact
from epochal.tests.support.pools import letters, tiny_run
from epochal.train.config import TrainConfig
from epochal.train.eval.callback import _items
from epochal.train.eval.continuation import ANSWER, CHOICES, CONTEXT, continuation
from epochal.train.eval.scoring import Scorer
from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.settings.data import EvalTasksSection


@pytest.fixture
def pool(make_pool):
    return open_artifact(str(make_pool(letters(3, 2000), 64)))


def test_items_are_held_out_text_and_what_really_follows_it(pool, make_pool):
    stream = letters(3, 2000)
    items = continuation(pool, 40)
    for item in items:
        (group,) = item.groups
        right = group.answers[item.item.gold]
        text = np.concatenate([group.context[1:], right])
        assert any(np.array_equal(stream[i : i + CONTEXT + ANSWER], text) for i in range(2000 - CONTEXT - ANSWER + 1))
        assert group.context[0] == 256
        assert len(group.answers) == CHOICES
        assert all(len(a) == ANSWER and 256 not in a for a in group.answers)
    assert len({item.item.gold for item in items}) == CHOICES
    again = continuation(pool, 40)
    assert all(np.array_equal(a.groups[0].context, b.groups[0].context) for a, b in zip(items, again, strict=True))


def test_guessing_scores_one_in_four(pool):
    golds = [item.item.gold for item in continuation(pool, 400)]
    assert np.bincount(golds) / 400 == pytest.approx(np.full(4, 0.25), abs=0.08)


@pytest.mark.parametrize("causal", [True, False])
def test_both_types_score_every_answer_of_every_item(pool, causal):
    model = Transformer(ModelConfig(vocab_size=259, layers=1, hidden=16, heads=2, ffn=24, causal=causal)).eval()
    items = continuation(pool, 6)
    scores = Scorer(model, 256, 258, 64, draws=15).score([item.groups[0] for item in items])
    assert [len(s) for s in scores] == [CHOICES] * 6
    assert all(s.se == 0 for own in scores for s in own)  # 15 sets of four tokens: exact for masked diffusion too


def test_short_samples_and_tasks_without_a_choice_are_refused(make_pool, pool, tmp_path):
    short = open_artifact(str(make_pool(letters(4, 300), 16, name="short")))
    with pytest.raises(RequestError, match="no sample of 28 tokens"):
        continuation(short, 3)
    (tmp_path / "lambada_openai.jsonl").write_text('{"context": "a b", "continuation": " c"}\n')
    section = {"tasks": ["lambada_openai"], "data": str(tmp_path)}
    with pytest.raises(RequestError, match="nothing to choose from"):
        _items("lambada_openai", EvalTasksSection.model_validate(section), pool)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_loader": None}, "give an eval_loader"),
        ({"parallelism_config": {"fsdp": {}}}, "leave parallelism_config out"),
        ({"eval_tasks": {"tasks": []}}, "eval_tasks.tasks"),
        ({"eval_tasks": {"task": ["x"]}}, "unknown key 'eval_tasks.task': did you mean 'eval_tasks.tasks'?"),
    ],
)
def test_a_wrong_section_is_one_line(changes, message):
    body = tiny_run("x", "x", eval_tasks={"tasks": ["continuation"]})
    with pytest.raises(RequestError) as error:
        validate(TrainConfig, body | changes, "run.yaml")
    assert message in str(error.value)
