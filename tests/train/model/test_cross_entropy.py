"""The loss over the vocabulary in bfloat16, compiled and not, against float64; with the weights of both objectives."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from epochal.train.model.cross_entropy import weighted_nll_sum
from epochal.train.model.penalties import Penalties, penalised_sums

torch.set_num_threads(1)  # these products are too small to share out
pytestmark = pytest.mark.slow
V, PADDED, HIDDEN, N = 1000, 1024, 64, 96
BACKENDS = [None, "aot_eager"]
"""Without and with what compiling changes in the program itself; inductor's own C++ would take minutes to build."""


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def inputs(weighting: str, scale: float = 1.0) -> tuple[Tensor, ...]:
    """Return x, head, labels and weights: 1 each, as for AR, or 1/t of each row, as for MDM."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(N, HIDDEN, generator=random).bfloat16()
    head = (torch.randn(PADDED, HIDDEN, generator=random) * scale).bfloat16()
    labels = torch.randint(0, V, (N,), generator=random)
    t = torch.rand(N // 8, generator=random).clamp_min(1e-3).repeat_interleave(8)
    return x, head, labels, torch.ones(N) if weighting == "ar" else 1 / t


def exact(x: Tensor, head: Tensor, labels: Tensor, weights: Tensor, z: float) -> list[Tensor]:
    """Return the loss and its gradients in float64, of logits as narrow as a product in bfloat16 leaves them."""
    x, head = (v.double().requires_grad_() for v in (x, head))
    logits = (x @ head.T)[:, :V]
    logits = logits + (logits.bfloat16().double() - logits).detach()
    nll = F.cross_entropy(logits, labels, reduction="none") + z * logits.logsumexp(1).square()
    loss = (nll * weights.double()).sum()
    return [loss, *torch.autograd.grad(loss, (x, head))]


def ours(x: Tensor, head: Tensor, labels: Tensor, weights: Tensor, z: float, backend: str | None) -> list[Tensor]:
    """Return the same from bfloat16 products, weights in float32 as a model has them."""
    x, head = x.clone().requires_grad_(), head.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        if z:
            loss = penalised_sums(x, head, labels, weights, V, Penalties(0.0, z), backend)[0]
        else:
            loss = weighted_nll_sum(x, head, labels, weights, V, backend)
    return [loss, *torch.autograd.grad(loss, (x, head))]


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighting", ["ar", "mdm"])
@pytest.mark.parametrize("z", [0.0, 1e-2])
def test_the_products_alone_are_in_bfloat16(weighting: str, z: float, backend: str | None) -> None:
    of = inputs(weighting)
    loss, of_x, of_head = (error(a, b) for a, b in zip(ours(*of, z, backend), exact(*of, z), strict=True))
    assert loss < 1e-6
    assert of_x < 3e-3  # a number of bfloat16 is off by up to 1/512 of it
    assert of_head < 3e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_label_the_model_is_sure_of_still_has_its_gradient(backend: str | None) -> None:
    """Near 1 bfloat16 has steps of 1/256: a probability of 0.9995 less 1 would be 0."""
    x, head = torch.ones(4, 8).bfloat16(), torch.zeros(PADDED, 8).bfloat16()
    head[5] = 2.0
    of = x, head, torch.full((4,), 5), torch.ones(4)
    probability = float((x[0].double() @ head.double().T)[:V].softmax(0)[5])
    assert 0.999 < probability < 0.99999
    for found, wanted in zip(ours(*of, 0.0, backend), exact(*of, 0.0), strict=True):
        assert error(found, wanted) < 1e-2


def test_no_number_of_targets_compiles_it_again() -> None:
    frames = torch._dynamo.utils.counters["stats"]
    frames.clear()
    for n in (64, 1, 96, 0, 2, 37, 1):
        x, head, labels, weights = inputs("mdm")
        of = x[:n], head, labels[:n], weights[:n]
        found, wanted = ours(*of, 0.0, "aot_eager"), ours(*of, 0.0, None)
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-3)
        assert frames["unique_graphs"] == 1, n
