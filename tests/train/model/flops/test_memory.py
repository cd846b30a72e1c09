"""Memory by formula, against what is counted on the graphs that inductor makes, and against the model itself."""

import json
from typing import Any

import pytest
import torch

from epochal.__main__ import main
from epochal.benchmarks.counted_step import count_step
from epochal.train.model.flops.memory import parameters, saved_of_layer, training_memory
from epochal.train.model.transformer import ModelConfig, Transformer

ROWS, LENGTH = 2, 128
GROUPED: dict[str, Any] = {"qk_norm": True, "kv_heads": 2}


def shape(**changes: Any) -> ModelConfig:
    sizes = {"vocab_size": 1003, "layers": 2, "hidden": 256, "heads": 4, "ffn": 640, "causal": True}
    return ModelConfig(**(sizes | changes))


@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is None, reason="torch without CUDA writes no kernels for it")
@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({}, None),
        (GROUPED, None),
        (GROUPED, "norms"),
        (GROUPED, "products"),
        ({"qk_norm": True, "causal": False}, None),
    ],
)
def test_what_a_layer_keeps_is_what_is_counted(changes: dict[str, Any], again: str | None) -> None:
    config = shape(**changes)
    counted = count_step(config, ROWS, LENGTH, recompute=again).saved_of_layer
    formula = ROWS * LENGTH * saved_of_layer(config, again or "none")
    # Rotary tables, which all layers share, are counted with each, and the formula leaves them out.
    assert formula <= counted <= 1.015 * formula


def test_weights_are_all_of_the_models() -> None:
    config = shape(qk_norm=True, tied_embeddings=False)
    assert parameters(config) == sum(p.numel() for p in Transformer(config).parameters())


def test_gpus_share_weights_gradients_and_optimizer_and_nothing_else() -> None:
    one, eight = (training_memory(shape(), LENGTH, ROWS, gpus) for gpus in (1, 8))
    shared = ("weights, float32", "gradients, float32", "optimizer (AdamW), float32")
    weights = parameters(shape())
    for name, size in zip(shared, (4, 4, 8), strict=True):
        assert one["bytes_per_gpu"][name] == size * weights
        assert eight["bytes_per_gpu"][name] == size * -(-weights // 8)
    same = "activations kept for the backward pass"
    assert one["bytes_per_gpu"][same] == eight["bytes_per_gpu"][same]
    assert one["total"] == sum(one["bytes_per_gpu"].values())


def test_what_is_computed_again_is_not_kept() -> None:
    what = ("none", "norms", "products", "blocks")
    none, norms, products, blocks = (training_memory(shape(), LENGTH, ROWS, 1, c) for c in what)
    assert none["total"] - norms["total"] == 2 * (2 * 2 * 256 + 2 * 4) * ROWS * LENGTH  # and what each divides by
    assert none["total"] - products["total"] == 2 * 2 * 640 * ROWS * LENGTH  # two layers' products in bfloat16
    assert blocks["total"] < products["total"]


def test_the_command_says_what_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "tiny", "--memory", "--gpus", "2", "--recompute", "products"]) == 0
    text = capsys.readouterr().out
    assert "memory of each of 2 GPUs" in text
    assert "activation_checkpointing: products" in text
    assert "left out:" in text
    assert main(["flops", "tiny", "--memory", "--json"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert memory["total"] == sum(memory["bytes_per_gpu"].values())


def test_options_of_memory_without_it_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "tiny", "--gpus", "8"]) == 2
    assert "--gpus is about memory: add --memory" in capsys.readouterr().err


def test_attention_of_a_document_masked_model_is_said_to_be_counted_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "tiny"]) == 0
    plain = capsys.readouterr().out
    assert main(["flops", "tiny", "model.document_mask=true"]) == 0
    told = capsys.readouterr().out
    assert "attention is counted over whole samples" in told
    assert [line for line in told.splitlines() if "document_mask" not in line] == plain.splitlines()
