"""The mean of several models' probabilities: a distribution for both types, measured as a model is."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from epochal.__main__ import main
from epochal.tests.support.training import BYTES, save
from epochal.train.exact.writing import Text, write
from epochal.train.exact.writing_order import WritingOrder
from epochal.train.model.ensemble import Ensemble
from epochal.train.model.transformer import ModelConfig, Transformer

torch.set_num_threads(1)
VOCAB, LENGTH, EOD, MASK = 4, 3, 2, 3


def members(causal: bool) -> list[Transformer]:
    made = []
    for seed, hidden in ((0, 8), (1, 12), (2, 8)):
        torch.manual_seed(seed)
        made.append(Transformer(ModelConfig(VOCAB, 1, hidden, 2, 16, causal, init_std=0.8)).double().eval())
    return made


@torch.no_grad()
def test_each_answer_is_the_mean_of_probabilities() -> None:
    models = members(causal=False)
    tokens = torch.tensor([[0, MASK, 1], [MASK, MASK, 2]])
    mean = torch.stack([m(tokens).softmax(-1) for m in models]).mean(0)
    torch.testing.assert_close(Ensemble(models)(tokens).exp(), mean, rtol=0, atol=1e-12)
    places, labels = torch.tensor([1, 3, 4]), torch.tensor([2, 0, 1])
    nats = Ensemble(models)(tokens, target_positions=places, labels=labels)
    torch.testing.assert_close(nats, -mean[places, labels].log(), rtol=0, atol=1e-6)


@torch.no_grad()
def test_probabilities_of_all_texts_sum_to_1_for_both_types() -> None:
    texts = np.array(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    inputs = np.concatenate([np.full((len(texts), 1), EOD), texts[:, :-1]], axis=1)
    nats = Ensemble(members(causal=True))(torch.from_numpy(inputs), labels=torch.from_numpy(texts.ravel()))
    assert float((-nats.double().view(-1, LENGTH).sum(1)).exp().sum()) == pytest.approx(1.0, abs=1e-6)
    written = [Text(np.zeros(0, np.int64), text) for text in texts]
    model: Transformer = Ensemble(members(causal=False)).eval()  # type: ignore[assignment]
    for order in ("confidence", "left_to_right"):
        exact = write(model, MASK, written, WritingOrder(order, 1)).nats
        assert float(np.exp(-exact).sum()) == pytest.approx(1.0, abs=1e-9)


def evaluated(capsys: pytest.CaptureFixture, *words: str) -> list[dict]:
    assert main(["evaluate", *words, "--loss-noise-samples", "4", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["likelihoods"]


@pytest.mark.parametrize("causal", [True, False])
def test_evaluate_measures_the_ensemble_in_place_of_its_members(
    causal: bool, make_pool: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pool = str(make_pool(200, 16))
    paths = [save(tmp_path / name, causal, BYTES, 16, init_std=std) for name, std in (("a", 0.3), ("b", 0.5))]
    common = ["--loss", pool, "--out", str(tmp_path / "out")]
    apart = evaluated(capsys, *paths, *common)
    (both,) = evaluated(capsys, *paths, "--ensemble", *common)
    assert (both["kind"], both["name"]) == ("nll" if causal else "nelbo", "mean of a, b")
    assert both["members"] == [{"model": path, "receipt": None} for path in paths]
    assert both["model"] not in {r["model"] for r in apart}
    # -log of a mean is at most the mean of -log: the same texts and masks
    assert both["per_token"] <= sum(r["per_token"] for r in apart) / 2 + 1e-9
    (same,) = evaluated(capsys, paths[0], paths[0], "--ensemble", *common)
    assert same["per_token"] == pytest.approx(apart[0]["per_token"], abs=1e-6)
    assert not math.isclose(both["per_token"], same["per_token"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a", "--ensemble", "--loss", "POOL"], "--ensemble takes two models or more"),
        (["a", "b", "--ensemble", "--loss", "POOL", "--tasks", "hellaswag"], "measures their likelihood alone"),
        (["a", "b", "--ensemble"], "give --loss POOL"),
        (["a", "mdm", "--ensemble", "--loss", "POOL"], "an ensemble is of models of one type"),
        (["a", "short", "--ensemble", "--loss", "POOL"], "was trained on 8 tokens a sample, a on 16"),
    ],
)
def test_what_has_no_mean_is_refused_in_a_line(
    words: list[str], line: str, make_pool: Callable[..., Path], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    pool = str(make_pool(200, 16))
    for name, causal, seq_len in (("a", True, 16), ("b", True, 16), ("mdm", False, 16), ("short", True, 8)):
        save(tmp_path / name, causal, BYTES, seq_len)
    assert main(["evaluate", *(pool if word == "POOL" else word for word in words)]) == 2
    assert line in capsys.readouterr().err
