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


def test_the_losses_of_the_halves_are_of_even_and_of_odd_samples() -> None:
    nats = torch.tensor([[1.0], [10.0], [100.0], [1000.0], [1e4]], dtype=torch.float64)
    tokens, samples = torch.tensor([1, 2, 1, 2, 1]), torch.tensor([4, 7, 0, 1, 3])
    even, odd = MeanLoss(only=0), MeanLoss(only=1)
    for metric in (even, odd):
        metric.update(nats[:2], tokens[:2], samples[:2])  # however they are cut into batches
        metric.update(nats[2:], tokens[2:], samples[2:])
    assert float(even.compute()) == pytest.approx((1 + 100) / 2)
    assert float(odd.compute()) == pytest.approx((10 + 1000 + 1e4) / 5)
