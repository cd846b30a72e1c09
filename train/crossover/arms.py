"""What each arm is worth on one budget: its best and its final loss, and how far both are from the default arm's."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from . import compare, fair
from .fits.best import Arm, Stop, best_stop
from .fits.intervals import Unit, half_width, over_draws
from .keys import DEFAULT


def arms(curves: compare.Curves, long: compare.Curves, metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a row for every arm of each budget and type that has several.

    Of each: `best`, at its best stop, of runs with their own decay too, and `final`, at the end of the runs of the
    whole length: the mean `loss` over units, in nats, and the `gain` over the default arm, the mean over the units that
    both have with the `half_width` of its 95 % interval. Best stops are chosen on one half of the validation pool, and
    all losses are of the other, where both were measured. Noise samples are the same for every arm, so that their error
    is no part of a gain.

    Args:
        curves: of finished runs, of both stages.
        long: those of the whole length.
        metrics: losses, of which less is better.
    """
    for metric in metrics:
        held_out = fair.has_halves(curves, metric)
        for (n, objective, settings), named in fair.by_arm(curves, metric).items():
            if DEFAULT in named and len(named) > 1:
                key = {"metric": metric, "unique_tokens": n, "objective": objective, "settings": settings}
                body: dict[str, Any] = key | {"held_out": held_out}
                rows = [body | _row(n, name, named, long) for name in named]
                yield from sorted(rows, key=lambda row: row["best"]["loss"])


def _row(n: int, name: str, named: Mapping[str, Arm], long: compare.Curves) -> dict[str, Any]:
    own, default = named[name], named[DEFAULT]
    best = _best(own)
    return {
        "arm": name,
        "units": [list(unit) for unit in sorted(own)],
        "passes": float(np.mean([stop.tokens for stop in best.values()])) / n,
        "best": _against(best, _best(default)),
        "final": _against(_final(own, long), _final(default, long)),
    }


def _best(arm: Arm) -> dict[Unit, Stop]:
    return {unit: best_stop(stops) for unit, stops in arm.items()}


def _final(arm: Arm, long: compare.Curves) -> dict[Unit, Stop]:
    whole = {unit: [stop for stop in stops if stop.run in long] for unit, stops in arm.items()}
    return {unit: max(stops, key=lambda stop: stop.tokens) for unit, stops in whole.items() if stops}


def _against(own: dict[Unit, Stop], default: dict[Unit, Stop]) -> dict[str, float]:
    """Return an arm's mean loss and its gain over the default; NaN where no unit, or too few, have both."""
    units = sorted(own.keys() & default.keys())
    gains = np.array([[default[unit].measured - own[unit].measured] for unit in units]).reshape(-1, 1)
    gains = over_draws(gains, units)
    return {
        "loss": float(np.mean([stop.measured for stop in own.values()])) if own else math.nan,
        "gain": float(gains.mean()) if units else math.nan,
        "half_width": float(half_width(gains)[0]),
    }
