"""Rotary positions (Su et al. 2021): which angle each pair of channels is turned by.

The angles are worked out in float64 on the CPU, once for each length and device, and kept there as float32. They are
no buffers of the model: nothing then casts them with the weights (FSDP does so with buffers), sends them to other ranks
before each step (DDP does), or has to fill them for a model that was built on the meta device.
"""

import functools

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""cos, float32 (..., length, 1, 1, head_size / 2), and the sines of both halves of the channels, of which the first is
negative, (..., length, 1, 2, head_size / 2)."""

SHORTEST = 2048
"""Positions that a table has at least: generation, where each token makes the text longer, then finds it again."""


@functools.lru_cache(maxsize=16)
def rotary_tables(length: int, head_size: int, base: float, device: torch.device) -> Rotation:
    """Return cos and sin of the first `length` positions, each float32 (length, head_size / 2), the same on any device.

    The tensors are shared: do not write to them.
    """
    with torch.inference_mode(False):  # what is made inside it could not be used in training later
        frequency = base ** -(torch.arange(0, head_size, 2, device="cpu", dtype=torch.float64) / head_size)
        angle = torch.arange(length, device="cpu", dtype=torch.float64)[:, None] * frequency
        return angle.cos().float().to(device), angle.sin().float().to(device)


def rotations(
    positions: Tensor | None, past: int, length: int, head_size: int, base: float, device: torch.device
) -> Rotation:
    """Return the rotation of the tokens at `positions`, or at past to past + length - 1.

    Args:
        positions: int64 (batch, length) or (length,); on a GPU, where their largest would be waited for, all are less
            than past + length.
        past: tokens before these, where `positions` is None.
        length: of these tokens.
        head_size: channels of a head.
        base: of the frequencies.
        device: where the rotation is used.
    """
    end = past + length if positions is None or positions.is_cuda else int(positions.max()) + 1
    tables = rotary_tables(max(SHORTEST, 1 << (end - 1).bit_length()), head_size, base, device)
    if positions is None:
        cos, sin = (table[past:end] for table in tables)
    else:
        at = positions.to(device)
        cos, sin = (table[at] for table in tables)
    return cos[..., None, None, :], torch.stack((-sin, sin), -2).unsqueeze(-3)  # the same for all heads


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Return `x` (batch, length, heads, head_size) with channel pairs (i, i + head_size / 2) turned by their position.

    cos and sin are cast to the dtype of `x` first, so that nothing twice as wide is written where each operation is a
    kernel of its own; compiled into one kernel, all of it is computed in float32 anyway. No halves are put together:
    from a concatenation a compiler makes masked loads, and keeps the gradient instead of working it out where it is
    read.
    """
    cos, sin = (table.to(x.dtype) for table in rotation)
    halves = x.unflatten(-1, (2, -1))
    return (halves * cos + halves.flip(-2) * sin).flatten(-2)
