"""One model of both types: its losses are those of its halves, whatever the batch holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from epochal.tests.train.objective.test_objectives import IDS, VOCAB, corrupt, loss, tiny_model
from epochal.train.checkpoint import as_type
from epochal.train.data import Collate, Split
from epochal.train.model.composer import LanguageModel
from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.objective.dual import Dual, DualValidation
from epochal.train.objective.objectives import Autoregressive, Corrupted, MaskedDiffusion, Objective

torch.set_num_threads(1)

AR = Autoregressive(IDS, 7)
MDMS = [
    MaskedDiffusion(IDS, 7, "exact_count", sampling="stratified", group=16),
    MaskedDiffusion(IDS, 7, "inverse_t"),
]


def rows_of(rows: Corrupted, which: np.ndarray) -> Corrupted:
    return Corrupted(*(x[which] for x in rows[:5]))


@pytest.mark.parametrize("mdm", MDMS, ids=["exact_count", "inverse_t"])
def test_the_loss_is_the_sum_of_its_parts_by_the_two_objectives(mdm: MaskedDiffusion) -> None:
    """With PAD and a filler; the parts are read by a causal and by a bidirectional model of the same weights."""
    model = tiny_model(causal=False)
    tokens = np.random.default_rng(5).integers(0, 3, (16, 12))
    n_tokens = np.array([12] * 13 + [5, 1, 0])
    for start in (0, 16):
        objective = Dual(AR, mdm, 0.4, 7)
        is_ar = objective.is_autoregressive(np.arange(start, start + 16))
        assert 0 < is_ar.sum() < 16
        whole = loss(model, corrupt(objective, tokens, n_tokens, start)) * 16
        ar = rows_of(corrupt(AR, tokens, n_tokens, start), is_ar)
        masked = rows_of(corrupt(mdm, tokens, n_tokens, start), ~is_ar)
        parts = loss(as_type(model, "ar"), ar) * is_ar.sum() + loss(as_type(model, "mdm"), masked) * (~is_ar).sum()
        assert whole == pytest.approx(parts, abs=1e-9)
        assert loss(as_type(model, "mdm"), ar) != pytest.approx(loss(as_type(model, "ar"), ar), abs=1e-3)


def test_gradients_are_those_of_the_parts() -> None:
    model, objective = tiny_model(causal=False), Dual(AR, MDMS[0], 0.5, 7)
    tokens = np.random.default_rng(5).integers(0, 3, (8, 12))
    is_ar = objective.is_autoregressive(np.arange(8))
    from epochal.train.objective.objectives import pack

    model(*pack(corrupt(objective, tokens), torch.float64)).backward()
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for name, part, which in (("ar", AR, is_ar), ("mdm", MDMS[0], ~is_ar)):
        own = Transformer(replace(model.config, causal=name == "ar")).double().eval()
        own.load_state_dict(model.state_dict())
        own(*pack(rows_of(corrupt(part, tokens), which), torch.float64)).backward()
        for key, p in own.named_parameters():
            assert p.grad is not None
            expected[key] += p.grad
    for key, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[key], atol=1e-10, rtol=1e-10)


def test_types_are_a_pure_function_of_seed_and_position() -> None:
    """A golden vector: others must be able to reimplement which sample is of which type."""
    types = Dual(AR, MDMS[0], 0.3, 17).is_autoregressive(np.arange(16))
    assert np.flatnonzero(types).tolist() == GOLDEN
    many = Dual(AR, MDMS[0], 0.3, 17).is_autoregressive(np.arange(20_000))
    assert many.mean() == pytest.approx(0.3, abs=0.015)
    assert (many[5000:5016] == Dual(AR, MDMS[0], 0.3, 17).is_autoregressive(np.arange(5000, 5016))).all()
    assert (Dual(AR, MDMS[0], 0.3, 18).is_autoregressive(np.arange(20_000)) != many).any()


GOLDEN = [3, 4, 13, 14]


@pytest.mark.parametrize("micro", [1, 2, 5])
def test_validation_measures_what_runs_of_one_type_measure(micro: int) -> None:
    """The same likelihood, and the bound under the very same noise, to rounding; a cut batch changes nothing."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(VOCAB, 2, 16, 2, 24, False, init_std=0.4)).double().eval()
    bound = MaskedDiffusion(IDS, 3, "exact_count", sampling="stratified", group=4)
    batch = {"tokens": np.random.default_rng(1).integers(0, 3, (5, 9)), "n_tokens": np.array([9, 9, 9, 9, 4])}
    batch |= {"position": np.arange(20, 25), "sample_id": np.arange(20, 25)}

    def measured(objective: Objective, transformer: Transformer, draws: int, kinds: tuple[str, ...]) -> dict:
        language_model = LanguageModel(transformer, "x", measured=kinds)
        metrics = language_model.get_metrics(is_train=False)
        for part in Split(draws)(Collate(objective, draws)(batch), micro):
            part["weights"] = part["weights"].double()
            for metric in metrics.values():
                language_model.update_metric(part, language_model.eval_forward(part), metric)
        return {name: float(metric.compute()) for name, metric in metrics.items()}

    both = measured(DualValidation(AR, bound, 4), model, 5, ("nll", "nelbo"))
    expected = measured(AR, as_type(model, "ar"), 1, ("nll",)) | measured(bound, as_type(model, "mdm"), 4, ("nelbo",))
    assert set(both) == {f"{kind}{half}" for kind in ("nll", "nelbo") for half in ("", "_even", "_odd")} | {"nelbo_se"}
    assert both == pytest.approx(expected, abs=1e-9)
