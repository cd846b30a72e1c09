"""Layers with narrow copies of their weights: the same sums bit for bit, and copies that follow what writes weights."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed, nn

from epochal.tests.support.training import interrupt, losses, weights
from epochal.train.model.composer import LanguageModel
from epochal.train.model.layers import WIDE, NarrowWeights
from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.optimization.ema import AverageWeights
from epochal.train.optimization.optimizer import build_optimizer
from epochal.train.settings.optimization import OptimizerSection
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out
SHAPE = ModelConfig(70, layers=2, hidden=32, heads=4, ffn=48, causal=True, qk_norm=True, kv_heads=2)
ADAMW, MUON = OptimizerSection(lr=0.01), OptimizerSection(name="muon", lr=0.01)


def narrowly(**how: Any) -> Any:
    """Return autocast as training has it; weights that it narrows are not kept from one forward pass to the next."""
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False, **how)


def built(narrow: NarrowWeights | None, recompute: Any = None) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    model.narrow = narrow
    model.recompute_activations(recompute)
    return model


def backward(model: Callable[..., Any], part: int) -> float:
    tokens = torch.randint(0, 70, (2, 8), generator=torch.Generator().manual_seed(part))
    with narrowly():
        loss = model(tokens, labels=tokens.flatten(), weights=torch.ones(16))
    loss.backward()
    return float(loss.detach())


def trained(model: Transformer, section: OptimizerSection, fused: bool, whole: Any = None) -> list[float]:
    """Return the loss of each of three micro-batches in each of three steps."""
    optimizer, found = build_optimizer(model, section, fused), []
    for step in range(3):
        found += [backward(whole or model, 3 * step + i) for i in range(3)]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return found


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize(("section", "fused"), [(ADAMW, False), (ADAMW, True), (MUON, False)])
def test_training_is_the_same_bit_for_bit(adds: bool, section: OptimizerSection, fused: bool) -> None:
    wide, narrow = built(None), built(NarrowWeights(adds))
    assert trained(wide, section, fused) == trained(narrow, section, fused)
    assert same(wide, narrow)


@pytest.mark.parametrize("what", ["norms", "products", "blocks"])
def test_it_is_when_activations_are_computed_again(what: Any) -> None:
    wide, narrow = built(None), built(NarrowWeights(adds=True), what)
    assert trained(wide, ADAMW, fused=False) == trained(narrow, ADAMW, fused=False)
    assert same(wide, narrow)


def test_ddp_is_told_of_gradients(tmp_path: Path) -> None:
    wide, narrow = built(None), built(NarrowWeights(adds=False))
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        whole = nn.parallel.DistributedDataParallel(narrow)
        assert trained(wide, ADAMW, fused=False) == trained(narrow, ADAMW, fused=False, whole=whole)
    finally:
        distributed.destroy_process_group()
    assert same(wide, narrow)


def of(model: Transformer) -> list[torch.Tensor]:
    with narrowly():
        return [w for block in model.blocks for w in model.narrow(block)]


def check(model: Transformer) -> None:
    layers = [m for b in model.blocks for m in (b.attention.qkv, b.attention.out, b.mlp.gate_up, b.mlp.down)]
    assert all(torch.equal(w, m.weight.bfloat16()) for w, m in zip(of(model), layers, strict=True))


def test_copies_follow_what_writes_the_weights() -> None:
    model = built(NarrowWeights(adds=True))
    check(model)
    other = copy.deepcopy(built(None).state_dict())
    model.load_state_dict({name: w + 1 for name, w in other.items()})
    check(model)
    average = AverageWeights(2)
    state: Any = SimpleNamespace(model=model, timestamp=SimpleNamespace(batch=1))
    average.batch_end(state, None)
    model.load_state_dict(other)
    check(model)
    with average.in_place(model):
        check(model)
        assert of(model)[0].mean() > 0.5
    check(model)
    assert of(model)[0].mean() < 0.5
    model.load_state_dict(other, assign=True)
    check(model)


def test_a_copy_is_made_once_a_step() -> None:
    model = built(NarrowWeights(adds=True))
    backward(model, 0)
    before = [w._version for w in of(model)]
    backward(model, 1)
    assert [w._version for w in of(model)] == before
    with torch.no_grad():
        model.blocks[0].mlp.down.weight.mul_(2)
    assert [w._version for w in of(model)] == [v + (i == 3) for i, v in enumerate(before)]


def test_nothing_is_narrowed_where_products_do_not() -> None:
    model, narrow = built(None), NarrowWeights(adds=True)
    assert narrow(model.blocks[0]) == WIDE
    with narrowly():
        assert None not in narrow(model.blocks[0])
        with torch.no_grad():
            assert narrow(model.blocks[0]) == WIDE
        assert narrow(model.eval().blocks[0]) == WIDE


@pytest.mark.slow
def test_a_run_and_one_that_was_resumed_have_the_losses_of_one_without(
    run_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under autocast, which a run on a CPU has not by itself."""
    folders = {name: tmp_path / name for name in ("wide", "narrow", "resumed")}
    forward = LanguageModel.forward

    def config(name: str) -> Any:
        how = {
            "max_duration": "1168",
            "save_interval": "2ba",
            "autoresume": True,
            "algorithms": {"ema": {"half_life": "3ba"}},
        }
        return run_config({"name": "ar"}, save_folder=str(folders[name]), **how)

    def narrowed(model: LanguageModel, batch: dict[str, Any]) -> torch.Tensor:
        if model.training:
            with narrowly():
                return forward(model, batch)
        return forward(model, batch)

    monkeypatch.setattr(LanguageModel, "forward", narrowed)
    interrupt(config("resumed"), 5)
    train(config("resumed"))
    train(config("narrow"))
    monkeypatch.setattr(NarrowWeights, "__call__", lambda *_: WIDE)
    train(config("wide"))
    assert losses(folders["narrow"]) == losses(folders["wide"]) == losses(folders["resumed"])
    first, *others = (weights(folder) for folder in folders.values())
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
