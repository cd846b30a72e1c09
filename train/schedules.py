"""Learning-rate schedules: multipliers of the peak rate as pure functions of the step."""

import math
from collections.abc import Callable


def warmup(step: int, warmup_steps: int) -> float:
    """Return the linear warm-up's factor: (step + 1) / warmup_steps until it is 1, so that no step has rate 0."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def warmup_stable_decay(
    step: int, total_steps: int, warmup_steps: int, decay_steps: int, final: float, shape: str = "exponential"
) -> float:
    """Return the multiplier at `step` (from 0): linear warm-up, constant 1, then down to `final` at the end.

    exponential: final ** x, x going from 0 to 1 over the last `decay_steps`: equal ratios in equal times (the
    paper's: 2e-4 to 2e-5 over the last 10 %). linear: 1 - x * (1 - final).
    """
    x = _progress(step, total_steps - decay_steps, total_steps)
    tail = final**x if shape == "exponential" else 1.0 - x * (1.0 - final)
    return warmup(step, warmup_steps) * tail


def cosine(step: int, total_steps: int, warmup_steps: int, final: float) -> float:
    """Return the multiplier at `step`: linear warm-up, then half a cosine down to `final` at the last step."""
    x = _progress(step, warmup_steps, total_steps)
    return warmup(step, warmup_steps) * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * x)))


def _progress(step: int, start: int, end: int) -> float:
    """Return how far `step` is from `start` to the last step before `end`, in [0, 1]."""
    span = end - 1 - start
    if span <= 0:
        return 1.0 if step >= max(start, end - 1) and end > start else 0.0
    return min(1.0, max(0.0, (step - start) / span))


Schedule = Callable[[int], float]
