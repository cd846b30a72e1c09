"""Best against best: of every budget the best arm and the best stop of each type, and what that is worth in data.

A **side** is one type of model on one number of unique tokens with one arm: the default, or the best, chosen among all
arms that were run there. Both are stopped at their best. Choices are made by the loss on one half of the validation
pool and figures are the loss on the other (`fits.best`). Grids that were run before halves were measured have neither:
their sides are chosen and measured on the same samples, which is said (`held_out`).

Ensembles are sides too (`ensembles.sides`), each set against that of as many members. What one is worth is told in
those and in single models, the seeds of a draw of data being one replicate then.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..objective.halves import MEASURED_ON, SELECTED_ON
from . import compare
from .curves import MetricsRow, known
from .fits import best, potential
from .fits.best import Arm, Stop
from .keys import DEFAULT

BEST = "best"


@dataclass(frozen=True)
class Side:
    """One type of model on one budget, stopped at its best.

    Attributes:
        which: `default` or `best`, the choice among the arms, or `ensemble of 3`.
        settings: overridden keys without the arm, JSON.
        stops: all evaluations, by unit.
        held_out: figures are of the half of the validation pool that took no part in the choice.
        error: standard error that the noise of a bound leaves in its figures.
        size: models that are one: 1, or an ensemble's members.
        members: of an ensemble, what it is made of, by unit.
    """

    metric: str
    unique_tokens: int
    objective: str
    settings: str
    which: str
    arm: str
    stops: Arm
    held_out: bool
    error: float
    size: int = 1
    members: Arm = field(default_factory=dict)

    @property
    def chosen(self) -> list[Stop]:
        """Return the best stop of each unit."""
        return [best.best_stop(stops) for _, stops in sorted(self.stops.items())]

    @property
    def arm_settings(self) -> str:
        """Return the overridden keys with the arm, JSON, as a run has them."""
        named = {} if self.arm == DEFAULT else {"arm": self.arm}
        return json.dumps(json.loads(self.settings) | named, sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the arm, its means over units, and where it, or the members of an ensemble, was stopped."""
        stops = self.chosen
        trained = [s for _, own in sorted(self.members.items()) for s in own] or stops
        tokens = float(np.mean([s.tokens for s in trained]))
        return {
            "arm": self.arm,
            "runs": [s.run for s in trained],
            "loss": float(np.mean([s.measured for s in stops])),
            "selecting_loss": float(np.mean([s.selecting for s in stops])),
            "tokens": tokens,
            "passes": tokens / self.unique_tokens,
            "decayed": sum(s.decayed for s in trained),
        }


def sides(curves: compare.Curves, metrics: Sequence[str]) -> list[Side]:
    """Return the sides of every budget, type and setting: the default arm, and the best where there are several.

    Args:
        curves: of finished runs, of both stages.
        metrics: losses, of which less is better.
    """
    return [side for metric in metrics for side in _sides(curves, metric)]


def _sides(curves: compare.Curves, metric: str) -> Iterator[Side]:
    held_out = has_halves(curves, metric)
    for (n, objective, settings), named in by_arm(curves, metric).items():
        error = _noise(curves, metric, objective) * (2**0.5 if held_out else 1)  # half the samples
        which = {DEFAULT: DEFAULT} if DEFAULT in named else {}
        which |= {BEST: best.best_arm(named)} if len(named) > 1 else {}
        for name, arm_name in which.items():
            yield Side(metric, n, objective, settings, name, arm_name, named[arm_name], held_out, error)


def by_arm(curves: compare.Curves, metric: str) -> dict[tuple[int, str, str], dict[str, Arm]]:
    """Return the stops of each arm by its name, for every (unique tokens, type, settings without the arm as JSON)."""
    arms: dict[tuple[int, str, str], dict[str, Arm]] = {}
    held_out = has_halves(curves, metric)
    for own in curves.values():
        stops = list(_stops(own, metric, held_out))
        if stops:
            first = own[0]
            base = {k: v for k, v in json.loads(first["settings"]).items() if k != "arm"}
            key = first["unique_tokens"], first["objective"], json.dumps(base, sort_keys=True)
            arm = arms.setdefault(key, {}).setdefault(first.get("arm", DEFAULT), {})
            arm.setdefault((first["replicate"], first["seed"]), []).extend(stops)
    return dict(sorted(arms.items()))


def _noise(curves: compare.Curves, metric: str, objective: str) -> float:
    """Return the standard error that noise leaves in a type's losses, the mean over all evaluations."""
    found = [r.get(f"{metric}_se") or 0.0 for own in curves.values() for r in own if r["objective"] == objective]
    return float(np.mean(found))


def has_halves(curves: compare.Curves, metric: str) -> bool:
    """Return whether every evaluation that measured `metric` did so on both halves."""
    rows = [r for own in curves.values() for r in own if known(r, metric)]
    return all(known(r, f"{half}/{metric}") for r in rows for half in (SELECTED_ON, MEASURED_ON))


def _stops(own: Sequence[MetricsRow], metric: str, held_out: bool) -> Iterator[Stop]:
    on, at = (f"{half}/{metric}" if held_out else metric for half in (SELECTED_ON, MEASURED_ON))
    for r in own:
        if known(r, on) and known(r, at):
            yield Stop(r["tokens"], r[on], r[at], bool(r.get("decayed")), r["run"])


def bests(chosen: Sequence[Side], long: compare.Curves, flops_per_token: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Yield AR's side against MDM's of every budget and choice of arms.

    Of each: both sides (`Side.to_dict`), the lead of MDM's best over AR's best, where MDM's best so far overtakes AR's
    best of all (`checkpoints`, in tokens and FLOPs of one run), and where the two arms' curves cross (`curves`, on the
    half of the pool that took no part in choosing the arms); neither of ensembles, which are measured once.
    """
    for ar in (s for s in chosen if s.objective == "ar"):
        for mdm in (s for s in chosen if s.objective == "mdm"):
            same = (ar.metric, ar.unique_tokens, ar.size) == (mdm.metric, mdm.unique_tokens, mdm.size)
            if not same or not compare.matched(ar.settings, mdm.settings):
                continue
            gap = best.gap(ar.stops, mdm.stops, mdm.error)
            if gap is not None:
                yield _against(ar, mdm, gap, long, flops_per_token)


def _against(
    ar: Side, mdm: Side, gap: best.Gap, long: compare.Curves, flops_per_token: dict[str, float]
) -> dict[str, Any]:
    n, half, single = ar.unique_tokens, f"{MEASURED_ON}/" if ar.held_out else "", ar.size == 1
    over, per_token = gap.overtakes if single else None, flops_per_token.get(mdm.chosen[0].run, math.nan)
    flops = None if over is None or over.tokens is None else over.tokens * per_token
    curve = compare.crossover(long, ar.metric, n, ar.arm_settings, mdm.arm_settings, half) if single else None
    return {
        "metric": ar.metric,
        "unique_tokens": n,
        "ar_settings": ar.settings,
        "mdm_settings": mdm.settings,
        "ar_side": ar.which,
        "mdm_side": mdm.which,
        "held_out": ar.held_out and mdm.held_out,
        "ar": ar.to_dict(),
        "mdm": mdm.to_dict(),
        "units": [list(u) for u in gap.units],
        "lead": gap.lead,
        "half_width": gap.half_width,
        "checkpoints": None if over is None else asdict(over) | compare.in_passes(over, n) | {"flops": flops},
        "curves": curve,
    }


def multiples(chosen: Sequence[Side]) -> Iterator[dict[str, Any]]:
    """Yield what each budget of each side is worth in unique tokens of each baseline: how many times as many the
    baseline, stopped at its best too, needs for the same loss."""
    kinds = list(dict.fromkeys((s.metric, s.objective, s.which, s.settings) for s in chosen))
    for metric, objective, which, settings in kinds:
        own = _of(chosen, metric, objective, which, settings)
        for _, base_objective, base_which, base_settings in (k for k in kinds if k[0] == metric):
            if (objective, which) == (base_objective, base_which) or not compare.matched(settings, base_settings):
                continue
            baseline = _of(chosen, metric, base_objective, base_which, base_settings)
            if baseline[0].size not in (1, own[0].size):
                continue
            # Sides of one type share their noise, which is gone from their difference.
            error = 0.0 if objective == base_objective else max(s.error for s in (*own, *baseline))
            for side in own:
                found = potential.potential(_values(baseline), _values(own), side.unique_tokens, error=error)
                yield {
                    "metric": metric,
                    "unique_tokens": side.unique_tokens,
                    "objective": objective,
                    "side": which,
                    "arm": side.arm,
                    "settings": settings,
                    "baseline": base_objective,
                    "baseline_side": base_which,
                    "baseline_settings": base_settings,
                    "held_out": side.held_out,
                    **asdict(found),
                }


def _of(chosen: Sequence[Side], metric: str, objective: str, which: str, settings: str) -> list[Side]:
    wanted = metric, objective, which, settings
    return [s for s in chosen if (s.metric, s.objective, s.which, s.settings) == wanted]


def _values(own: Sequence[Side]) -> potential.Values:
    return potential.by_draw(
        {
            side.unique_tokens: {unit: best.best_stop(stops).measured for unit, stops in side.stops.items()}
            for side in own
        }
    )
