"""Label smoothing and the z-loss against torch's own, in float64."""

import pytest
import torch
import torch.nn.functional as F

from epochal.train.model import cross_entropy
from epochal.train.model.cross_entropy import weighted_nll_sum
from epochal.train.model.penalties import Penalties, penalised_sums

V, PADDED = 11, 16


@pytest.mark.parametrize("added", [Penalties(0.1), Penalties(0.0, 0.3), Penalties(0.2, 0.05)])
@pytest.mark.parametrize("rows", [3, 100])  # logits in several chunks, and in one
def test_sums_and_gradients_are_those_of_the_formula(added: Penalties, rows: int, monkeypatch) -> None:
    monkeypatch.setattr(cross_entropy, "chunk_rows", lambda *_: rows)
    torch.manual_seed(0)
    x, head = (torch.randn(n, 8, dtype=torch.float64, requires_grad=True) for n in (10, PADDED))
    y, weights = torch.randint(0, V, (10,)), torch.rand(10, dtype=torch.float64)
    logits = (x @ head.T)[:, :V]
    smoothed = F.cross_entropy(logits, y, reduction="none", label_smoothing=added.label_smoothing)
    z = added.z_loss * logits.logsumexp(1).square()
    expected = ((smoothed + z) * weights).sum()
    gradients = torch.autograd.grad(expected, (x, head))

    sums = penalised_sums(x, head, y, weights, V, added)
    torch.testing.assert_close(sums[0], expected)
    torch.testing.assert_close(sums[1], weighted_nll_sum(x, head, y, weights, V))
    torch.testing.assert_close(sums[3], (z * weights).sum())
    torch.testing.assert_close(sums[1:].sum(), sums[0])
    for found, wanted in zip(torch.autograd.grad(sums[0], (x, head)), gradients, strict=True):
        torch.testing.assert_close(found, wanted)


def test_no_targets_have_no_loss_and_no_gradient() -> None:
    x, head = torch.zeros(0, 8, requires_grad=True), torch.randn(PADDED, 8, requires_grad=True)
    sums = penalised_sums(x, head, torch.zeros(0, dtype=torch.int64), torch.zeros(0), V, Penalties(0.1, 0.1))
    sums[0].backward()
    assert sums.tolist() == [0.0] * 4
    assert head.grad is not None
    assert not head.grad.any()
