"""The model compiled a block at a time.

All blocks share one compiled graph, which takes seconds where the whole model takes minutes. What changes from one
micro-batch to the next (where the targets are, how many) stays outside of it. A mask is the one thing that a block
is compiled for anew, see `meet_pad`.
"""

import contextlib
from typing import Any

import torch
from composer.core import Precision, get_precision_context
from packaging.version import Version

from .cross_entropy import compute_dtype
from .dropout import Draws
from .kernels import products
from .layers import WIDE, NarrowWeights
from .rotary import rotations
from .transformer import Block, ModelConfig, Transformer


def compile_model(model: Transformer, options: dict[str, Any]) -> None:
    """Have each block of `model`, its last norm and its loss compiled when each is first called; the weights keep their
    names. Of `options` the loss takes the backend alone: of the others, many ask for shapes that never change.

    Args:
        model: before it is wrapped for DDP or FSDP.
        options: keywords of `torch.compile`.
    """
    # What tells layers apart is an int (dropout's site). Without this, torch 2.15 compiles each layer by itself, and
    # after eight none at all; 2.7 does not.
    if Version(torch.__version__) >= Version("2.8"):
        torch._dynamo.config.allow_unspec_int_on_nn_module = True
    for block in model.blocks:
        block.compile(**options)
    model.norm.compile(**options)
    model.loss_backend = options.get("backend", "inductor")


def meet_pad(
    shape: ModelConfig,
    options: dict[str, Any],
    rows: int,
    length: int,
    device: torch.device,
    narrow: bool = False,
    float8: bool = False,
) -> None:
    """Compile a block for a micro-batch that has PAD, in a model that attends to both sides.

    PAD is rare: the last sample of a pass has it, and fillers. Its micro-batch alone is computed with a mask, which no
    flash kernel takes; compiled when it comes, it would hold up a run somewhere in its middle. The block that is
    compiled here is thrown away: others that are called in the same way, under the same autocast, find what was made.

    Args:
        rows: of a micro-batch.
        length: tokens of a row.
        device: where training computes.
        narrow: training keeps copies of weights, `NarrowWeights`.
        float8: products are in float8.
    """
    draws = Draws()
    draws.words = torch.zeros(rows, dtype=torch.int64, device=device)
    x = torch.zeros(rows, length, shape.hidden, device=device)
    x = x.to(compute_dtype(x)).requires_grad_()
    mask = torch.ones(rows, 1, 1, length, dtype=torch.bool, device=device)
    assert shape.head_size is not None, "filled in by ModelConfig"
    rotation = rotations(None, 0, length, shape.head_size, shape.rope_base, device)
    for layer in range(shape.layers if any(shape.rates) else 1):  # where it matters, the second makes one for any
        with torch.device("meta"):
            block = Block(shape, layer, draws)
        block.to_empty(device=device)
        if float8:
            products.convert(block)
        block.compile(**options)
        weights = NarrowWeights(adds=False)(block) if narrow else WIDE
        torch.autograd.grad(block(x, rotation, mask, None, weights).sum(), x)


def compile_for_training(
    model: Transformer, options: dict[str, Any], micro_batch: tuple[int | str, int], device: str, precision: str
) -> None:
    """Have `model` compiled for a run.

    Args:
        options: as for `compile_model`.
        micro_batch: samples (or `auto`: they are found later, and so is what PAD needs) and tokens of each.
        device: `gpu` or `cpu`, as Composer names it.
        precision: of the run.
    """
    compile_model(model, options)
    rows, length = micro_batch
    if model.config.causal or model.config.document_mask or isinstance(rows, str):
        return  # PAD changes nothing of how these are called
    with get_precision_context(Precision(products.autocast(precision))):
        here, narrow = torch.device("cuda" if device == "gpu" else "cpu"), model.narrow is not None
        meet_pad(model.config, options, rows, length, here, narrow, precision == products.FLOAT8)


def eager() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which nothing is compiled: for texts of many lengths, each read once."""
    return torch.compiler.set_stance("force_eager")
