"""The two halves of a validation pool: what is chosen on one is measured on the other.

The half of a sample is a pure function of its index, so it is the same in every run on that pool, on any number of
ranks: samples 0, 2, 4, ... are `even`, the others `odd`. A loss of a half is the mean over its tokens, so that the
whole pool's loss is the mean of both, weighed by their tokens.
"""

from typing import TypeVar

from torch import Tensor

HALVES = ("even", "odd")
"""Their names; the index of a name is what its samples leave when divided by two."""

SELECTED_ON, MEASURED_ON = HALVES
"""The half that a checkpoint or a setting is chosen on, and the half that the chosen one is measured on."""

Index = TypeVar("Index", int, Tensor)


def half_of(sample: Index) -> Index:
    """Return the index in `HALVES` of a sample's half, of one or of integers (samples,)."""
    return sample % len(HALVES)


def of_half(kind: str, half: str) -> str:
    """Return the name of the metric `kind` on one half: nll_even."""
    return f"{kind}_{half}"


def is_half(name: str) -> bool:
    """Return whether a metric's name is that of a half."""
    return name.endswith(tuple(f"_{half}" for half in HALVES))
