"""Two kinds of runs against each other: which are compared, in what, and where their curves cross."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ..exact.writing_order import EXACT
from .curves import MetricsRow, by_run, exact, known, tasks
from .fits import estimate
from .fits.estimate import Pair

LOSS = "loss"

Curves = dict[str, list[MetricsRow]]
"""Rows by run."""


def is_loss(metric: str) -> bool:
    """Return whether `metric` is the loss (AR's NLL, MDM's bound) or exact on both sides: less of it is better, which
    is not so of accuracy and ΔNLL."""
    return metric == LOSS or metric.startswith(EXACT)


def metrics(rows: Sequence[MetricsRow]) -> list[str]:
    """Return the metrics that curves are compared by: the loss, exact likelihoods, accuracy and ΔNLL of each task."""
    return [LOSS, *exact(rows), *(f"{task}/{figure}" for task in tasks(rows) for figure in ("accuracy", "delta_nll"))]


def matched(ar: str, mdm: str) -> bool:
    """Return whether two runs' settings (JSON) agree but for keys that only one objective has; each may have an arm."""
    a, b = json.loads(ar), json.loads(mdm)
    return all(a[k] == b[k] for k in (a.keys() & b.keys()) - {"arm"})


def comparisons(runs: Sequence[MetricsRow]) -> Iterator[tuple[int, str, str]]:
    """Yield (unique tokens, AR's settings, MDM's settings) of all curves that are to be compared.

    Arms other than the default are compared with the other type's default.
    """
    kinds = list(dict.fromkeys((r["unique_tokens"], r["objective"], r["settings"]) for r in runs))
    for n in sorted({kind[0] for kind in kinds}):
        for ar in (s for m, o, s in kinds if (m, o) == (n, "ar")):
            for mdm in (s for m, o, s in kinds if (m, o) == (n, "mdm")):
                if matched(ar, mdm) and not ("arm" in json.loads(ar) and "arm" in json.loads(mdm)):
                    yield n, ar, mdm


def left_out(rows: Sequence[MetricsRow], metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the evaluations that take no part because what they measured is no number: by run and metric, counted."""
    for name, own in by_run(rows).items():
        for metric in metrics:
            n = sum(r.get(metric) is not None and not known(r, metric) for r in own)
            if n:
                yield {"run": name, "metric": metric, "evaluations": n}


def kind_of(own: Sequence[MetricsRow]) -> tuple[int, str, str]:
    """Return the unique tokens, type and settings of a run, by its rows."""
    return own[0]["unique_tokens"], own[0]["objective"], own[0]["settings"]


def _unit(own: Sequence[MetricsRow]) -> tuple[int, int]:
    return own[0]["replicate"], own[0]["seed"]


def _curve(own: Sequence[MetricsRow], metric: str, half: str) -> estimate.Curve:
    kept = [r for r in own if known(r, half + metric)]
    errors = [r.get(f"{metric}_se") or 0.0 for r in kept]
    return estimate.curve([r["tokens"] for r in kept], [r[half + metric] for r in kept], float(np.mean(errors)))


def crossover(curves: Curves, metric: str, n: int, ar: str, mdm: str, half: str = "") -> dict[str, Any] | None:
    """Return the crossover of two kinds of runs, None where no pair of them is finished.

    Args:
        curves: of runs of the whole length.
        half: `odd/` for the loss on that half of the validation pool.
    """
    measured = [own for own in curves.values() if any(known(r, half + metric) for r in own)]
    sides = [
        {_unit(own): _curve(own, metric, half) for own in measured if kind_of(own) == (n, objective, settings)}
        for objective, settings in (("ar", ar), ("mdm", mdm))
    ]
    units = sorted(sides[0].keys() & sides[1].keys())
    if not units:
        return None
    found = estimate.crossover([Pair(sides[0][u], sides[1][u]) for u in units], is_loss(metric), units)
    if found is None:
        return None
    body = {"metric": metric, "unique_tokens": n, "ar": ar, "mdm": mdm, "units": [list(u) for u in units]}
    return body | asdict(found) | in_passes(found, n)


def in_passes(found: estimate.Crossover, n: int) -> dict[str, float | None]:
    """Return a crossover's place and interval in passes over `n` unique tokens."""
    passes = {"tokens_passes": None if found.tokens is None else found.tokens / n}
    return passes | {"low_passes": found.low / n, "high_passes": found.high / n}
