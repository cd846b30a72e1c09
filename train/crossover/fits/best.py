"""Best against best: the best stop and the best arm of each type, chosen on one half of the validation pool and
measured on the other.

The lowest of many measured losses is lower than what it estimates, by more the more there are to choose from. So a
checkpoint and an arm are chosen by their loss on one half of the pool (`selecting`) and their figure is the loss on the
other half (`measured`), which took no part in the choice.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .estimate import Crossover, Pair, crossover, curve
from .intervals import Unit, half_width, over_draws


class Stop(NamedTuple):
    """One evaluation at which a run may be stopped.

    Attributes:
        tokens: trained on by then.
        selecting: loss on the half that choices are made on.
        measured: loss on the other half.
        decayed: the learning rate had begun to fall.
        run: its name.
    """

    tokens: int
    selecting: float
    measured: float
    decayed: bool
    run: str


Arm = dict[Unit, list[Stop]]
"""All stops of an arm, of its runs of the whole length and of those with their own decay, by unit."""


def best_stop(stops: Iterable[Stop]) -> Stop:
    """Return the stop with the lowest loss on the selecting half, the earliest of equal ones."""
    return min(stops, key=lambda stop: (stop.selecting, stop.tokens))


def best_arm(arms: Mapping[str, Arm]) -> str:
    """Return the name of the arm whose best stops have the lowest mean loss on the selecting half, over the units that
    all arms have; the first of equal ones."""
    units = set.intersection(*(set(arm) for arm in arms.values()))
    means = {name: _mean_selecting(arm, units or set(arm)) for name, arm in arms.items()}
    return min(means, key=lambda name: means[name])


def _mean_selecting(arm: Arm, units: Iterable[Unit]) -> float:
    chosen = [best_stop(arm[unit]).selecting for unit in units]
    return math.fsum(chosen) / len(chosen) if chosen else math.inf


def so_far(stops: Sequence[Stop]) -> list[Stop]:
    """Return, at each number of tokens in order, the best stop up to there."""
    found: list[Stop] = []
    for stop in sorted(stops, key=lambda stop: (stop.tokens, stop.selecting)):
        if not found or stop.tokens > found[-1].tokens:
            best = stop if not found or stop.selecting < found[-1].selecting else found[-1]
            found.append(best._replace(tokens=stop.tokens))
    return found


@dataclass(frozen=True)
class Gap:
    """AR's best against MDM's best, over the pairs of units that both have.

    Attributes:
        units: pairs.
        lead: AR's loss minus MDM's, the mean; positive where MDM is better.
        half_width: of its interval, NaN for too few pairs.
        overtakes: where MDM's best so far falls below AR's best of all, and stays there; None without a curve.
    """

    units: tuple[Unit, ...]
    lead: float
    half_width: float
    overtakes: Crossover | None


def gap(ar: Arm, mdm: Arm, error: float = 0.0) -> Gap | None:
    """Return AR's best against MDM's; None where they share no unit.

    Args:
        error: standard error of MDM's losses, which all pairs share.
    """
    units = tuple(sorted(ar.keys() & mdm.keys()))
    if not units:
        return None
    targets = {unit: best_stop(ar[unit]).measured for unit in units}
    leads = over_draws(np.array([[targets[unit] - best_stop(mdm[unit]).measured] for unit in units]), units)
    pairs = [_pair(targets[unit], so_far(mdm[unit]), error) for unit in units]
    return Gap(units, float(leads.mean()), float(half_width(leads, error)[0]), crossover(pairs, units=units))


def _pair(target: float, path: Sequence[Stop], error: float) -> Pair:
    tokens = [stop.tokens for stop in path]
    return Pair(curve(tokens, [target] * len(path)), curve(tokens, [stop.measured for stop in path], error))
