"""How training computes the products of the blocks: with narrow copies of weights, or in float8 (`precision: amp_fp8`).

In float8, which is torchao's, weights, their names and their gradients stay what they are; the output head and the
embedding are left alone. Both factors of a product are narrowed where it is computed, by a scale each: weights and
inputs to e4m3, gradients of what it returned to e5m2.
"""

from importlib.util import find_spec

import torch
from torch import nn

from ..layers import NarrowWeights
from ..transformer import ModelConfig, Transformer

FLOAT8 = "amp_fp8"
"""The `precision` that has products in float8, and all else as `amp_bf16`."""

EMULATED = False
"""Whether what was narrowed to float8 is multiplied in float32: for tests, on a machine without such a GPU."""

LEAST_CAPABILITY = (8, 9)
"""Of a GPU with products in float8: Ada and Hopper."""

MULTIPLE = 16
"""Sides of matrices are multiples of it."""


def autocast(precision: str) -> str:
    """Return Composer's name of the arithmetic that a `precision` has outside of products in float8."""
    return "amp_bf16" if precision == FLOAT8 else precision


def arrange(model: Transformer, precision: str, parallel: bool, ranks: int) -> None:
    """Choose how the products of `model` are computed in training, before it is compiled.

    Args:
        precision: of the run.
        parallel: under FSDP.
        ranks: that train.
    """
    model.narrow = None if parallel or precision == FLOAT8 else NarrowWeights(adds=ranks == 1)
    if precision == FLOAT8:
        convert(model.blocks)


def convert(blocks: nn.Module) -> None:
    """Have the products in one or more blocks computed in float8 from now on, without narrow copies of weights."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    convert_to_float8_training(blocks, config=Float8LinearConfig(emulate=EMULATED))


def why_not(shape: ModelConfig, length: int, device: torch.device) -> str | None:
    """Return why a run cannot have products in float8 and what to do then, None where it can.

    Args:
        shape: of its model.
        length: tokens of a row that the model reads.
        device: where it computes.
    """
    if find_spec("torchao") is None:
        return "needs torchao: pip install 'epochal[fp8]'"
    have = torch.cuda.get_device_capability(device)
    if have < LEAST_CAPABILITY:
        least, here = (".".join(map(str, capability)) for capability in (LEAST_CAPABILITY, have))
        return f"needs a GPU of compute capability {least} or more, this one has {here}: use precision=amp_bf16"
    uneven = next((f"{name} ({size})" for name, size in _sides(shape, length).items() if size % MULTIPLE), None)
    return f"needs {uneven} to be a multiple of {MULTIPLE}: use precision=amp_bf16" if uneven else None


def _sides(shape: ModelConfig, length: int) -> dict[str, int]:
    """Return the sides of all factors in the blocks, by what they follow from."""
    assert shape.head_size is not None, "filled in by ModelConfig"
    assert shape.kv_heads is not None, "filled in by ModelConfig"
    return {
        "model.hidden": shape.hidden,
        "model.ffn": shape.ffn,
        "heads * head_size": shape.attention_width,
        "kv_heads * head_size": shape.kv_heads * shape.head_size,
        "the tokens of a sample": length,
    }
