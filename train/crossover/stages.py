"""The second stage of a grid: runs that end, with their own decay, where a run of the whole length was best.

A run of the whole length has its decay at its end, so a best checkpoint in its middle was measured at the full rate.
The second stage trains it again with the same schedule made so short that it ends there. Each length follows from the
curve of one run alone, by the half of the validation pool that choices are made on: it is the same however often and
in whichever order the runs were trained, and the runs of the second stage are named and resumed like all others.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..objective.halves import SELECTED_ON
from .curves import MetricsRow, curve
from .grid import GridPlan, RunSpec, shortened
from .launch import result_of


def whole(plan: GridPlan) -> GridPlan:
    """Return `plan` with the runs of the second stage whose lengths are known by now, after those of the first."""
    if not plan.grid.own_decay:
        return plan
    first = [run for run in plan.runs if not run.decays_from]
    finished = [run for run in first if result_of(run) is not None]
    second = [run for of in finished for run in decayed(plan, of)]
    return replace(plan, runs=(*first, *second), waiting=len(first) - len(finished))


def decayed(plan: GridPlan, run: RunSpec) -> Iterator[RunSpec]:
    """Yield the runs that end where the finished `run` was best, and at the grid's multiples of that."""
    rows = curve(run)
    best = best_tokens(rows)
    lengths = sorted({round(best * factor) for factor in plan.grid.own_decay}) if best else []
    # The run's own end has its decay already.
    return (shortened(plan, run, tokens) for tokens in lengths if 0 < tokens < rows[-1]["tokens"])


def best_tokens(rows: Sequence[MetricsRow]) -> int:
    """Return at how many tokens the loss that choices are made by was lowest; 0 where nothing finite was measured.

    Rows of runs that were made before halves were measured are compared by the whole pool's loss.
    """
    on = f"{SELECTED_ON}/loss"
    losses = [(row["loss"] if row.get(on) is None else row[on], row["tokens"]) for row in rows]
    finite = [(loss, tokens) for loss, tokens in losses if loss is not None and math.isfinite(loss)]
    return min(finite)[1] if finite else 0
