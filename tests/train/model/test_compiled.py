"""The compiled model: as few graphs as there are kinds of micro-batches, and the same losses."""

from pathlib import Path
from typing import Any

import pytest
import torch

from epochal.tests.support.training import LENGTH, ROWS, losses, micro_batches, step
from epochal.tests.train.model.test_document_mask import flex_takes_gradients, sparse_always
from epochal.train.model import attention_reach
from epochal.train.model.compiled import compile_model, eager, meet_pad
from epochal.train.model.composer import build
from epochal.train.model.kernels import attention
from epochal.train.model.layers import NarrowWeights
from epochal.train.model.transformer import ModelConfig
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out
pytestmark = pytest.mark.slow


def shape(causal: bool, **keys: Any) -> ModelConfig:
    return ModelConfig(70, layers=3, hidden=32, heads=4, ffn=48, causal=causal, qk_norm=True, **keys)


@pytest.mark.parametrize("causal", [True, False])
def test_no_micro_batch_of_50_has_anything_compiled_again(graphs: list[int], causal: bool) -> None:
    compiled, plain = (build(shape(causal), "loss", 0) for _ in range(2))
    compile_model(compiled.transformer, {"backend": "counted"})
    if not causal:
        meet_pad(shape(causal), {"backend": "counted"}, ROWS, LENGTH, torch.device("cpu"))
    batches = list(micro_batches(causal, 50))
    assert causal or sum("attention_mask" in b for b in batches) == 16
    first = step(compiled, batches[0])
    expected = 3 if causal else 4  # a block, the last norm and the loss; the block with a mask
    assert len(graphs) == expected
    assert [first, *(step(compiled, b) for b in batches[1:])] == [step(plain, b) for b in batches]
    assert len(graphs) == expected
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("causal", [True, False])
def test_narrow_weights_are_arguments_of_the_same_graphs(graphs: list[int], causal: bool) -> None:
    compiled, plain = (build(shape(causal), "loss", 0) for _ in range(2))
    compiled.transformer.narrow = NarrowWeights(adds=True)
    compile_model(compiled.transformer, {"backend": "counted"})
    found = []
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        if not causal:
            meet_pad(shape(causal), {"backend": "counted"}, ROWS, LENGTH, torch.device("cpu"), narrow=True)
        for batch in micro_batches(causal, 6):
            assert step(compiled, batch) == step(plain, batch)
            found.append(len(graphs))
    assert found == [3 if causal else 4] * 6  # a block, the last norm and the loss; the block with a mask
    pairs = zip(compiled.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


@pytest.mark.parametrize("kernel", ["flash", "math"])
def test_a_kernel_that_was_chosen_for_attention_breaks_no_graph(graphs: list[int], kernel: str) -> None:
    compiled, plain = (build(shape(causal=False), "loss", 0) for _ in range(2))
    with attention.backend(kernel):
        compile_model(compiled.transformer, {"backend": "counted"})
        batches = list(micro_batches(causal=False, n=6))
        assert [step(compiled, b) for b in batches] == [step(plain, b) for b in batches]
    assert len(graphs) == 4
    assert not torch._dynamo.utils.counters["graph_break"]


def test_without_meeting_pad_it_is_compiled_when_it_comes(graphs: list[int]) -> None:
    model = build(shape(causal=False), "loss", 0)
    compile_model(model.transformer, {"backend": "counted"})
    found = []
    for batch in micro_batches(causal=False, n=4):
        step(model, batch)
        found.append(len(graphs))
    assert found == [3, 3, 4, 4]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("causal", [True, False])
def test_documents_and_pad_compile_nothing_again(
    graphs: list[int], monkeypatch: pytest.MonkeyPatch, causal: bool, sparse: bool
) -> None:
    """Sparse: the blocks that a GPU gets, whose function of places knows other documents in each micro-batch."""
    if sparse:
        monkeypatch.setattr(attention_reach, "mask_of_documents", sparse_always)
    told = shape(causal, document_mask=True, rope="restart")
    compiled, plain = (build(told, "loss", 0) for _ in range(2))
    compile_model(compiled.transformer, {"backend": "counted"})
    trained = not sparse or flex_takes_gradients()
    for batch in micro_batches(causal, 9, document_mask=True):
        assert step(compiled, batch, trained) == pytest.approx(step(plain, batch, trained), abs=1e-6)
        assert len(graphs) == 3  # a block, the last norm and the loss
    assert not torch._dynamo.utils.counters["graph_break"]


def test_layers_share_a_graph_with_dropout_by_site_too(graphs: list[int]) -> None:
    rates = {"dropout_residual": 0.1, "stochastic_depth": 0.2, "layers": 10}
    of = ModelConfig(70, hidden=32, heads=4, ffn=48, causal=False, **rates)
    compiled, plain = (build(of, "loss", 0) for _ in range(2))
    compile_model(compiled.transformer, {"backend": "counted"})
    meet_pad(of, {"backend": "counted"}, ROWS, LENGTH, torch.device("cpu"))
    batches = [b | {"words": torch.arange(ROWS) + i} for i, b in enumerate(micro_batches(causal=False, n=6))]
    found = []
    for batch in batches:
        assert step(compiled, batch) == step(plain, batch)
        found.append(len(graphs))
    assert found == [5] * 6  # with a mask twice: of layer 0, then of any; without one; the last norm; the loss


def test_texts_of_many_lengths_are_read_without_compiling(graphs: list[int]) -> None:
    model = build(shape(causal=True), "loss", 0).transformer
    compile_model(model, {"backend": "counted"})
    with eager():
        for length in range(1, 20):
            model.hidden_states(torch.zeros(1, length, dtype=torch.int64))
    assert not graphs


@pytest.mark.parametrize("name", ["ar", "mdm"])
def test_a_compiled_run_has_the_losses_of_a_plain_one(run_config, tmp_path: Path, graphs: list[int], name: str) -> None:
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    for folder, options in ((plain, None), (compiled, {"backend": "counted"})):
        train(run_config({"name": name}, save_folder=str(folder), max_duration="1168", compile_config=options))
    assert graphs
    assert losses(compiled) == losses(plain)


@pytest.mark.parametrize("what", ["norms", "products", "blocks"])
def test_what_is_computed_again_is_the_same(run_config, tmp_path: Path, graphs: list[int], what: str) -> None:
    kept, again, compiled = (tmp_path / name for name in ("kept", "again", "compiled"))
    train(run_config({"name": "mdm"}, save_folder=str(kept), max_duration="1168"))
    for folder, options in ((again, None), (compiled, {"backend": "counted"})):
        settings = {"activation_checkpointing": what, "compile_config": options, "max_duration": "1168"}
        train(run_config({"name": "mdm"}, save_folder=str(folder), **settings))
        assert losses(folder) == losses(kept)


def test_less_is_kept_for_the_backward_pass() -> None:
    kept = {what: _bytes_kept(what) for what in (None, "norms", "products", "blocks")}
    assert kept[None] > kept["norms"] > kept["blocks"]
    assert kept[None] > kept["products"] > kept["blocks"]


def _bytes_kept(what: Any) -> int:
    model = build(shape(causal=True), "loss", 0)
    model.transformer.recompute_activations(what)
    held: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(next(micro_batches(True, 1)))
    return sum(held.values())
