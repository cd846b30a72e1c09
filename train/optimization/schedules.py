"""Schedules of the learning rate and of weight decay: multipliers as pure functions of the step."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""A step, from 0, to what the peak rate is multiplied by at it."""


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


def cosine_cycles(step: int, total_steps: int, warmup_steps: int, cycles: int, final: float) -> float:
    """Return the multiplier at `step`: linear warm-up, then `cycles` half cosines, each from 1 down to `final` (warm
    restarts; Loshchilov & Hutter 2017)."""
    ends = cycle_ends(total_steps, warmup_steps, cycles)
    start = max([warmup_steps, *(end for end in ends if end <= step)])
    end = next((end for end in ends if end > step), total_steps)
    x = _progress(step, start, end)
    return warmup(step, warmup_steps) * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * x)))


def cycle_ends(total_steps: int, warmup_steps: int, cycles: int) -> list[int]:
    """Return after how many steps each cycle ends, the last with the run; cycles are as long as each other, within a
    step."""
    span = total_steps - warmup_steps
    return sorted({warmup_steps + round(span * k / cycles) for k in range(1, cycles)} | {total_steps})


def cooled(schedule: Schedule, start: int, end: int, final: float) -> Schedule:
    """Return `schedule` until `start`, then its value there times final ** x, x going from 0 to 1 at the last step
    before `end`."""
    held = schedule(start)
    return lambda step: schedule(step) if step < start else held * final ** _progress(step, start, end)


def decay_over_time(step: int, total_steps: int, shape: str, final: float) -> float:
    """Return what weight decay is multiplied by at `step`: from 1 at the first step to `final` at the last.

    linear: a straight line. cosine: half a cosine. constant: 1.
    """
    if shape == "constant":
        return 1.0
    x = _progress(step, 0, total_steps)
    fallen = x if shape == "linear" else 0.5 * (1.0 - math.cos(math.pi * x))
    return 1.0 + (final - 1.0) * fallen
