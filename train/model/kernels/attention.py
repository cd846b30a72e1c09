"""Which of torch's kernels computes attention: `attention_backend` of a run."""

import contextlib
import itertools
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn import attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from ....common.errors import one_line
from ..transformer import ModelConfig

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "flash3": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""torch's names of the kernels; flash3 takes the place of torch's own flash."""

FOR_OTHERS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""What computes what the chosen kernel cannot, such as a micro-batch with PAD, whose mask no flash kernel takes."""


@contextlib.contextmanager
def backend(name: str | None) -> Iterator[None]:
    """Have torch compute attention by kernel `name`, where it can, while the body runs; None leaves it the choice.

    The kernel is chosen around all that is compiled and not in it: there torch 2.7 overlooks the order of kernels. What
    was compiled before has another kernel in it, and is forgotten.
    """
    if name is None:
        yield
        return
    torch.compiler.reset()
    try:
        with _third(name == "flash3"), sdpa_kernel([BACKENDS[name], *FOR_OTHERS], set_priority=True):
            yield
    finally:
        torch.compiler.reset()


@contextlib.contextmanager
def _third(active: bool) -> Iterator[None]:
    """Put FlashAttention-3 in the place of torch's own flash. Raises RuntimeError or ImportError where it is not."""
    if not active:
        yield
        return
    known: Any = attention  # of newer torch
    if not hasattr(known, "activate_flash_attention_impl"):
        raise RuntimeError(f"torch {torch.__version__} cannot be given FlashAttention-3, newer ones can")
    known.activate_flash_attention_impl("FA3")
    try:
        yield
    finally:
        known.restore_flash_attention_impl()


def why_not(
    name: str, shape: ModelConfig, length: int, masked: bool, device: torch.device, dtype: torch.dtype
) -> str | None:
    """Return why kernel `name` cannot compute a run's attention, None where it can: a sample's is computed by it alone,
    with gradients, and torch says.

    Args:
        shape: of the model.
        length: tokens of a row.
        masked: every micro-batch has a mask of its own.
        device: where training computes.
        dtype: of its products.
    """
    size = (1, shape.heads, length, shape.head_size)
    q, k, v = (torch.zeros(*size, device=device, dtype=dtype, requires_grad=True) for _ in range(3))  # type: ignore[arg-type]
    mask = torch.ones(1, 1, length, length, device=device, dtype=torch.bool) if masked else None
    causal = shape.causal and not masked
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            with _third(name == "flash3"), sdpa_kernel(BACKENDS[name]):
                y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=shape.dropout, is_causal=causal)
                y.sum().backward()
        except (RuntimeError, ImportError) as error:
            return _reason([str(w.message) for w in said], error)
    return None


def _reason(said: list[str], error: Exception) -> str:
    """Return the first thing that is wrong, of what torch warned of before it raised `error`."""
    told = [text for text in said if not re.search("not used because|runtime disabled", text)]
    if told:
        return told[0].partition(" (Triggered")[0].rstrip(".")
    return "it has no such kernel" if "No viable backend" in str(error) else one_line(error)


def available(shape: ModelConfig, length: int, masked: bool, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Return the kernels that can compute a run's attention; arguments are those of `why_not`."""
    rest = itertools.repeat((shape, length, masked, device, dtype), len(BACKENDS))
    return [name for name, of in zip(BACKENDS, rest, strict=True) if why_not(name, *of) is None]
