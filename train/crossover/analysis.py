"""From a grid's curves to what they say, as one JSON value: crossovers, data potential, best against best, fits.

Only finished runs take part; the report shows the others' curves as what they are. Curves, crossovers over tokens and
laws are of runs of the whole length; those with their own decay take part where the best is sought (`fair`).
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...common import storage
from ..objective.halves import MEASURED_ON, SELECTED_ON
from . import fair
from .arms import arms
from .compare import LOSS, Curves, comparisons, crossover, is_loss, kind_of, left_out, metrics
from .curves import MetricsRow, by_run, known
from .ensembles.members import Measured
from .ensembles.sides import ensemble_sides, gains
from .fits import laws, potential, scaling
from .fits.intervals import Unit

ANALYSIS_NAME = "crossovers.json"

FIT_FIELDS = (
    *("points", "why_not", "unit", "size_unit", "constants", "intervals", "unidentified", "independent"),
    *("rms", "worst", "left_out", "late", "theta"),
)


def analyse(
    rows: Sequence[MetricsRow], runs: Sequence[MetricsRow], ensembles: Measured | None = None
) -> dict[str, Any]:
    """Return {"crossovers": [...], "potentials": [...], "best": [...], "arms": [...], "multiples": [...],
    "fits": [...], "left_out": [...]}; see `fits`, `fair` and `arms` for the fields. Of a grid with `members` also
    "ensembles": {"rows": [...], "missing": N}, see `ensembles.sides.gains`.

    Args:
        rows: of `curves.curves` and `curves.summary`.
        runs: of `curves.curves` and `curves.summary`.
        ensembles: of `ensembles.members.measured`.
    """
    done = [r for r in runs if r["state"] == "finished"]
    grouped, measured = by_run(rows), metrics(rows)
    curves = {r["run"]: grouped.get(r["run"], []) for r in done}
    long = {name: own for name, own in curves.items() if own and not own[0].get("decays_from")}
    compared = list(comparisons([r for r in done if not r.get("decays_from")]))
    losses = [m for m in measured if is_loss(m)]
    chosen, records = fair.sides(curves, losses), ensembles.records if ensembles else ()
    held_out = fair.has_halves(curves, LOSS)
    chosen += ensemble_sides(records, held_out)
    flops = {r["run"]: r["flops"] / r["total_tokens"] for r in done if "flops" in r}
    return {
        "crossovers": [
            found
            for metric in measured
            for n, ar, mdm in compared
            if (found := crossover(long, metric, n, ar, mdm)) is not None
        ],
        "potentials": [
            found
            for metric in measured
            for which in ("best", "final")
            for n, ar, mdm in compared
            if (found := _potential(long, metric, which, n, ar, mdm)) is not None
        ],
        "best": list(fair.bests(chosen, long, flops)),
        "arms": list(arms(curves, long, losses)),
        "multiples": list(fair.multiples(chosen)),
        "fits": list(_fits(long)),
        "left_out": list(left_out(rows, measured)),
    } | ({"ensembles": {"rows": list(gains(records, held_out)), "missing": ensembles.missing}} if ensembles else {})


def _figures(curves: Curves, metric: str, which: str, objective: str, settings: str) -> potential.Values:
    """Return every run's best or final figure by unique tokens.

    The best is chosen on one half of the validation pool and measured on the other, where halves were measured.
    """
    found: dict[int, dict[Unit, float]] = {}
    for own in curves.values():
        if kind_of(own)[1:] == (objective, settings) and (figure := _figure(own, metric, which)) is not None:
            found.setdefault(kind_of(own)[0], {})[own[0]["replicate"], own[0]["seed"]] = figure
    return potential.by_draw(found)


def _figure(own: Sequence[MetricsRow], metric: str, which: str) -> float | None:
    kept = [r for r in own if known(r, metric)]
    if not kept:
        return None
    if which == "final":
        return float(kept[-1][metric])
    on, at = f"{SELECTED_ON}/{metric}", f"{MEASURED_ON}/{metric}"
    if all(known(r, on) and known(r, at) for r in kept):
        return float(min(kept, key=lambda r: r[on])[at])
    return float((min if is_loss(metric) else max)(r[metric] for r in kept))


def _potential(curves: Curves, metric: str, which: str, n: int, ar: str, mdm: str) -> dict[str, Any] | None:
    of_ar, of_mdm = (_figures(curves, metric, which, o, s) for o, s in (("ar", ar), ("mdm", mdm)))
    if n not in of_mdm or not of_ar:
        return None
    found = potential.potential(of_ar, of_mdm, n, is_loss(metric))
    return {"metric": metric, "which": which, "unique_tokens": n, "ar": ar, "mdm": mdm} | asdict(found)


def _fits(curves: Curves) -> Iterator[dict[str, Any]]:
    """Yield the fits of each kind of run, then those over several sizes of model."""
    for objective, settings in dict.fromkeys(kind_of(own)[1:] for own in curves.values()):
        own = [rows for rows in curves.values() if kind_of(rows)[1:] == (objective, settings)]
        for form in laws.FORMS:
            yield _fit(own, form, objective, settings)
    sizeless = {name: _without_size(own[0]["settings"]) for name, own in curves.items()}
    for objective, settings in dict.fromkeys((own[0]["objective"], sizeless[name]) for name, own in curves.items()):
        several = [
            rows for name, rows in curves.items() if (rows[0]["objective"], sizeless[name]) == (objective, settings)
        ]
        if len({own[0]["parameters"] for own in several}) > 1:
            yield _fit(several, laws.SIZES, objective, settings)


def _without_size(settings: str) -> str:
    kept = {k: v for k, v in json.loads(settings).items() if not k.startswith("model.")}
    return json.dumps(kept, sort_keys=True)


def _fit(own: Sequence[list[MetricsRow]], form: laws.Form, objective: str, settings: str) -> dict[str, Any]:
    rows = [(r, i) for i, run in enumerate(own) for r in run if known(r, LOSS)]
    unique, tokens, loss, size = (
        np.array([float(r[k]) for r, _ in rows]) for k in ("unique_tokens", "tokens", LOSS, "parameters")
    )
    found = scaling.fit(form, scaling.Points(unique, tokens, loss, size, np.array([i for _, i in rows])))
    body = {"objective": objective, "kind": own[0][0]["kind"], "settings": settings, "form": form.name}
    return body | {"formula": form.formula} | {k: getattr(found, k) for k in FIT_FIELDS}


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
