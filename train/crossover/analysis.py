"""From a grid's curves to what they say: crossovers, data-potential ratios and fits, as one JSON value.

Only finished runs take part; the report shows the others' curves as what they are.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...common import storage
from ..exact.writing_order import EXACT
from .curves import MetricsRow, by_run, exact, tasks
from .fits import estimate, scaling
from .fits.estimate import Pair

ANALYSIS_NAME = "crossovers.json"

LOSS = "loss"


def is_loss(metric: str) -> bool:
    """Return whether `metric` is the loss (AR's NLL, MDM's bound) or exact on both sides: less of it is better, which
    is not so of accuracy and ΔNLL."""
    return metric == LOSS or metric.startswith(EXACT)


def metrics(rows: Sequence[MetricsRow]) -> list[str]:
    """Return the metrics that curves are compared by: the loss, exact likelihoods, accuracy and ΔNLL of each task."""
    return [LOSS, *exact(rows), *(f"{task}/{figure}" for task in tasks(rows) for figure in ("accuracy", "delta_nll"))]


def matched(ar: str, mdm: str) -> bool:
    """Return whether two runs' settings (JSON) agree but for keys that only one objective has."""
    a, b = json.loads(ar), json.loads(mdm)
    return all(a[k] == b[k] for k in a.keys() & b.keys())


def comparisons(runs: Sequence[MetricsRow]) -> Iterator[tuple[int, str, str]]:
    """Yield (unique tokens, AR's settings, MDM's settings) of all curves that are to be compared."""
    kinds = list(dict.fromkeys((r["unique_tokens"], r["objective"], r["settings"]) for r in runs))
    for n in sorted({kind[0] for kind in kinds}):
        for ar in (s for m, o, s in kinds if (m, o) == (n, "ar")):
            yield from ((n, ar, mdm) for m, o, mdm in kinds if (m, o) == (n, "mdm") and matched(ar, mdm))


def analyse(rows: Sequence[MetricsRow], runs: Sequence[MetricsRow]) -> dict[str, Any]:
    """Return {"crossovers": [...], "potentials": [...], "fits": [...]}; see `estimate` and `scaling` for the fields.

    Args:
        rows: of `curves.curves` and `curves.summary`.
        runs: of `curves.curves` and `curves.summary`.
    """
    finished = {r["run"] for r in runs if r["state"] == "finished"}
    curves = {name: own for name, own in by_run(rows).items() if name in finished}
    compared = list(comparisons([r for r in runs if r["run"] in finished]))
    return {
        "crossovers": [
            found
            for metric in metrics(rows)
            for n, ar, mdm in compared
            if (found := _crossover(curves, metric, n, ar, mdm)) is not None
        ],
        "potentials": [
            found
            for metric in metrics(rows)
            for which in ("best", "final")
            for n, ar, mdm in compared
            if (found := _potential(curves, metric, which, n, ar, mdm)) is not None
        ],
        "fits": list(_fits(curves)),
    }


def _kind(own: Sequence[MetricsRow]) -> tuple[int, str, str]:
    return own[0]["unique_tokens"], own[0]["objective"], own[0]["settings"]


def _unit(own: Sequence[MetricsRow]) -> tuple[int, int]:
    return own[0]["replicate"], own[0]["seed"]


def _curve(own: Sequence[MetricsRow], metric: str) -> estimate.Curve:
    kept = [r for r in own if r.get(metric) is not None]
    errors = [r.get(f"{metric}_se") or 0.0 for r in kept]
    return estimate.curve([r["tokens"] for r in kept], [r[metric] for r in kept], float(np.mean(errors)))


def _crossover(curves: dict[str, list[MetricsRow]], metric: str, n: int, ar: str, mdm: str) -> dict[str, Any] | None:
    measured = [own for own in curves.values() if any(r.get(metric) is not None for r in own)]
    sides = [
        {_unit(own): _curve(own, metric) for own in measured if _kind(own) == (n, objective, settings)}
        for objective, settings in (("ar", ar), ("mdm", mdm))
    ]
    units = sorted(sides[0].keys() & sides[1].keys())
    if not units:
        return None
    found = estimate.crossover([Pair(sides[0][u], sides[1][u]) for u in units], is_loss(metric))
    if found is None:
        return None
    body = {"metric": metric, "unique_tokens": n, "ar": ar, "mdm": mdm, "units": [list(u) for u in units]}
    passes = {"tokens_passes": None if found.tokens is None else found.tokens / n}
    return body | asdict(found) | passes | {"low_passes": found.low / n, "high_passes": found.high / n}


def _figures(
    curves: dict[str, list[MetricsRow]], metric: str, which: str, objective: str, settings: str
) -> estimate.Values:
    """Return every run's best or final figure by unique tokens."""
    best = min if is_loss(metric) else max
    found: estimate.Values = {}
    for own in curves.values():
        values = [r[metric] for r in own if r.get(metric) is not None]
        if _kind(own)[1:] == (objective, settings) and values:
            found.setdefault(_kind(own)[0], []).append(best(values) if which == "best" else values[-1])
    return found


def _potential(
    curves: dict[str, list[MetricsRow]], metric: str, which: str, n: int, ar: str, mdm: str
) -> dict[str, Any] | None:
    of_ar, of_mdm = (_figures(curves, metric, which, o, s) for o, s in (("ar", ar), ("mdm", mdm)))
    if n not in of_mdm or not of_ar:
        return None
    found = estimate.potential(of_ar, of_mdm, n, is_loss(metric))
    return {"metric": metric, "which": which, "unique_tokens": n, "ar": ar, "mdm": mdm} | asdict(found)


def _fits(curves: dict[str, list[MetricsRow]]) -> Iterator[dict[str, Any]]:
    kinds = list(dict.fromkeys(_kind(own)[1:] for own in curves.values()))
    for objective, settings in kinds:
        own = [r for rows in curves.values() if _kind(rows)[1:] == (objective, settings) for r in rows]
        columns = ([float(r[k]) for r in own] for k in ("unique_tokens", "tokens", LOSS))
        points = scaling.Points(*(np.array(column) for column in columns))
        for form in scaling.FORMS:
            found = scaling.fit(form, points)
            keys = ("points", "why_not", "unit", "constants", "at_bound", "rms", "worst", "left_out", "late", "theta")
            body = {"objective": objective, "kind": own[0]["kind"], "settings": settings, "form": form.name}
            yield body | {"formula": form.formula} | {k: getattr(found, k) for k in keys}


def write(out: str, analysis: dict[str, Any]) -> None:
    """Write crossovers.json to the folder `out`; infinite and unknown numbers are written as text and null."""
    text = json.dumps(plain(analysis), indent=1) + "\n"
    storage.write_atomic(os.path.join(out, ANALYSIS_NAME), text.encode())


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: infinities as text, what is not known as None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, float) and math.isinf(value):
        return "beyond the budgets" if value > 0 else "before the first evaluation"
    return value
