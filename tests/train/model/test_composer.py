import pytest
import torch

from epochal.train.model.composer import MeanLoss


def test_mean_loss_and_its_error() -> None:
    nats = torch.tensor([[1.0, 3.0], [5.0, 5.0]], dtype=torch.float64)
    loss, error = MeanLoss(), MeanLoss(error=True)
    for metric in (loss, error):
        metric.update(nats[:1], torch.tensor([2]))
        metric.update(nats[1:], torch.tensor([2]))
    assert float(loss.compute()) == pytest.approx((2 + 5) / 4)
    assert float(error.compute()) == pytest.approx((2 / 2) ** 0.5 / 4)
