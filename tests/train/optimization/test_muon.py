"""Muon against singular values, and its AdamW against torch's."""

import math

import pytest
import torch

from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.optimization.muon import COEFFICIENTS, STEPS, Muon, orthogonalised
from epochal.train.optimization.optimizer import build_optimizer
from epochal.train.settings.optimization import OptimizerSection


def polynomial(s: torch.Tensor) -> torch.Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        s = a * s + b * s**3 + c * s**5
    return s


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32), (1, 8)])
def test_newton_schulz_keeps_singular_vectors_and_moves_singular_values_by_its_polynomial(shape) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    found = orthogonalised(matrix)
    torch.testing.assert_close(found, u @ torch.diag(polynomial(s / s.norm())) @ vt, rtol=0, atol=1e-9)


def test_what_it_makes_is_near_the_orthogonal_factor_of_the_svd() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(48, 96, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    for dtype, slack in ((torch.float64, 0.0), (torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        inner = u.T @ orthogonalised(matrix.to(dtype)).double() @ vt.T  # the identity, were it exact
        values = inner.diagonal()
        assert 0.68 - slack < values.min() < values.max() < 1.21 + slack
        assert (inner - values.diag()).abs().max() < 1e-9 + slack


def test_a_matrix_of_zeros_stays_one() -> None:
    assert not orthogonalised(torch.zeros(4, 6)).any()


def model(tied: bool = False) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(50, 2, 32, 2, 48, True, kv_heads=1, qk_norm=True, tied_embeddings=tied))


def test_matrices_of_blocks_are_muons_and_each_map_is_one_matrix() -> None:
    net = model()
    optimizer = build_optimizer(net, OptimizerSection(name="muon", lr=1e-3))
    assert isinstance(optimizer, Muon)
    names = {id(p): name for name, p in net.named_parameters()}
    parts = {names[id(p)]: g["parts"] for g in optimizer.param_groups if "parts" in g for p in g["params"]}
    assert parts == {
        f"blocks.{i}.{name}": rows
        for i in range(2)
        for name, rows in {
            "attention.qkv.weight": [32, 16, 16],
            "attention.out.weight": [32],
            "mlp.gate_up.weight": [48, 48],
            "mlp.down.weight": [32],
        }.items()
    }
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(names)


def test_a_step_is_momentum_made_orthogonal_and_the_rest_is_adamw() -> None:
    section = OptimizerSection(name="muon", lr=1e-2, weight_decay=0.5)
    ours, theirs = model(), model()
    optimizer, adamw = (
        build_optimizer(ours, section),
        build_optimizer(theirs, section.model_copy(update={"name": "adamw"})),
    )
    before = {name: p.detach().clone() for name, p in ours.named_parameters()}
    torch.manual_seed(5)
    gradients = [{name: torch.randn_like(p) for name, p in before.items()} for _ in range(2)]
    for step in gradients:
        for net in (ours, theirs):
            for name, p in net.named_parameters():
                p.grad = step[name].clone()
        optimizer.step()
        adamw.step()
    expected = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        if name.startswith("blocks") and p.ndim == 2:
            continue
        torch.testing.assert_close(p, expected[name], rtol=0, atol=0)
    name = "blocks.1.attention.qkv.weight"
    weight, mean = before[name].clone(), torch.zeros_like(before[name])
    for step in gradients:
        mean = 0.95 * mean + step[name]
        update = step[name] + 0.95 * mean
        weight *= 1 - 1e-2 * 0.5
        for rows in (slice(0, 32), slice(32, 48), slice(48, 64)):
            weight[rows] -= 1e-2 * 0.2 * math.sqrt(32) * orthogonalised(update[rows])
    torch.testing.assert_close(dict(ours.named_parameters())[name].detach(), weight)
