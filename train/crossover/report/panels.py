"""The figures of a grid's report: curves of a metric, and fitted laws through measured losses."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ....common.html import Html, count, fold, paragraph
from ....common.units import format_count
from ...exact.writing_order import EXACT, of_key
from .. import compare
from ..curves import MetricsRow, by_run, known
from ..fits import laws, scaling
from ..grid import GridPlan
from . import charts, overlay
from .charts import Axes, Mark, Series
from .overlay import BUDGET_COLOURS, Line, Overlay
from .wording import KINDS, setting

NAMES = {"ar": "AR", "mdm": "MDM"}


class Results:
    """What the sections are made of.

    Attributes:
        rows: both tables.
        runs: both tables.
        found: of `analysis.analyse`.
        curves: by run, of those of the whole length.
        decayed: by run, of those with their own decay.
        exact: those of the metrics that are exact on both sides, one per order of writing.
    """

    def __init__(
        self, plan: GridPlan, rows: Sequence[MetricsRow], runs: Sequence[MetricsRow], found: dict[str, Any]
    ) -> None:
        self.plan, self.rows, self.runs, self.found = plan, rows, runs, found
        self.curves = by_run([r for r in rows if not r.get("decays_from")])
        self.decayed = by_run([r for r in rows if r.get("decays_from")])
        self.metrics = compare.metrics(rows)
        self.exact = [metric for metric in self.metrics if compare.is_loss(metric) and metric != compare.LOSS]
        self.compared = list(compare.comparisons([r for r in runs if not r.get("decays_from")]))

    def crossover(self, metric: str, n: int, ar: str, mdm: str) -> dict[str, Any] | None:
        """Return the crossover of one comparison."""
        wanted = {"metric": metric, "unique_tokens": n, "ar": ar, "mdm": mdm}
        return next((c for c in self.found["crossovers"] if wanted.items() <= c.items()), None)

    def of(self, n: int, objective: str, settings: str) -> list[list[MetricsRow]]:
        """Return the curves of all draws and seeds of one kind of run."""
        return [own for own in self.curves.values() if compare.kind_of(own) == (n, objective, settings)]

    def decayed_of(self, n: int, objective: str, settings: str) -> list[list[MetricsRow]]:
        """Return the curves of the runs with their own decay of one kind."""
        return [own for own in self.decayed.values() if compare.kind_of(own) == (n, objective, settings)]


def metric_overlays(results: Results, metric: str) -> Html:
    """Return a chart of all budgets for each pair of settings that is compared; all but the first are folded."""
    number = 100 * results.metrics.index(metric)
    budgets = sorted({n for n, *_ in results.compared})
    pairs = list(dict.fromkeys((ar, mdm) for _, ar, mdm in results.compared))
    drawn: list[Html] = []
    for ar, mdm in pairs:
        lines = list(_lines(results, metric, budgets, ar, mdm))
        if not lines:
            continue
        words = setting({"ar": ar, "mdm": mdm})
        found = [results.crossover(metric, n, ar, mdm) for n in budgets]
        chart = Overlay(
            name=f"{results.plan.grid.name} {metric}" + (f" {words}" if words else ""),
            title=words or "All budgets",
            y_label=y_label(metric),
            lines=lines,
            types=[(k, f"{NAMES[k]}{loss_kind(metric, k)}") for k in ("mdm", "ar")],
            crossings=[(i, c["tokens"]) for i, c in enumerate(found) if c and c["status"] == "crosses"],
            percent=metric.endswith("accuracy"),
        )
        drawn.append(overlay.figure(chart, number + len(drawn)))
    others = fold(f"{count(len(drawn) - 1, 'other pair')} of settings", "".join(drawn[1:])) if drawn[1:] else ""
    return Html((drawn[0] if drawn else paragraph("Nothing is measured yet.")) + others)


def _lines(results: Results, metric: str, budgets: Sequence[int], ar: str, mdm: str) -> Iterator[Line]:
    for i, n in enumerate(budgets):
        for objective, settings in (("ar", ar), ("mdm", mdm)):
            mean = next((s for s in _series(results, metric, n, objective, settings) if not s.faint), None)
            points = [p for p in mean.points if p[0] > 0] if mean else []  # a logarithmic axis has no place for 0
            if points:
                yield Line(f"{NAMES[objective]}, {format_count(n)} unique", objective, i, n, points)


def loss_kind(metric: str, objective: str) -> str:
    """Return the kind of a type's loss, with a comma before it; nothing for what is no loss."""
    if metric == compare.LOSS:
        return f", {KINDS['nelbo' if objective == 'mdm' else 'nll']}"
    return (f", NLL, {order_words(metric)}" if objective == "mdm" else ", NLL") if compare.is_loss(metric) else ""


def order_words(metric: str) -> str:
    """Return the order of writing of an exact likelihood, in words."""
    return of_key(metric.removeprefix(EXACT)).words


def metric_panels(results: Results, metric: str) -> Html:
    """Return a panel for each budget and pair of settings: the curves of both types in one metric."""
    own = [(n, ar, mdm, [*results.of(n, "ar", ar), *results.of(n, "mdm", mdm)]) for n, ar, mdm in results.compared]
    shown = [metric, *(results.exact if metric == compare.LOSS else [])]
    measured = [r for *_, curves in own for rows in curves for r in rows]
    values = [r[name] for r in measured for name in shown if known(r, name)]
    if not values:
        return paragraph("Nothing is measured yet.")
    y_span = min(values), max(values)
    panels = []
    for n, ar, mdm, _ in own:
        series = [
            s
            for objective, settings in (("ar", ar), ("mdm", mdm))
            for s in _series(results, metric, n, objective, settings)
        ]
        series += _third(results, n, mdm) if metric == compare.LOSS else []
        series += [s for kind, of in (("ar", ar), ("mdm", mdm)) for s in _falling(results, metric, n, kind, of)]
        words = setting({"ar": ar, "mdm": mdm})
        axes = Axes(
            title=f"{format_count(n)} unique tokens" + (f", {words}" if words else ""),
            x_label="passes over the data",
            y_label=y_label(metric),
            x_per=n,
            upper_label="tokens",
            x_span=(0, results.plan.grid.total_tokens),
            y_span=y_span,
            percent=metric.endswith("accuracy"),
        )
        panels.append(charts.panel(axes, series, _mark(results.crossover(metric, n, ar, mdm))))
    return charts.figures(panels)


def _third(results: Results, n: int, settings: str) -> list[Series]:
    """Return MDM's exact curves, means over draws and seeds, for the panel that has its bound."""
    found = [s for metric in results.exact for s in _series(results, metric, n, "mdm", settings) if not s.faint]
    return [replace(series, kind="mdm exact") for series in found]


def _falling(results: Results, metric: str, n: int, objective: str, settings: str) -> list[Series]:
    """Return what was measured while the learning rate fell: hollow points, on the curves and at the ends of runs with
    their own decay."""
    long = [r for own in results.of(n, objective, settings) for r in own if r.get("decayed")]
    ends = [own[-1] for own in results.decayed_of(n, objective, settings)]
    found = []
    for rows, words in ((long, "as the rate falls"), (ends, "own decay")):
        points = sorted((r["tokens"], r[metric]) for r in rows if known(r, metric))
        found.append(Series(f"{NAMES[objective]}, {words}", f"{objective} falling", points, line=False))
    return [series for series in found if series.points]


def _series(results: Results, metric: str, n: int, objective: str, settings: str) -> list[Series]:
    """Return the mean curve over draws and seeds, and each draw's own beneath it."""
    kept = [[(r["tokens"], r[metric]) for r in own if known(r, metric)] for own in results.of(n, objective, settings)]
    curves = [points for points in kept if points]
    if not curves:
        return []
    name = f"{NAMES[objective]}{loss_kind(metric, objective)}"
    faint = [Series(name, objective, points, faint=True) for points in curves] if len(curves) > 1 else []
    # A place that fewer than half of the draws have yet (a grid at work, a run that stopped) has no mean; one draw
    # that ends early, or was no number somewhere, takes the mean from nobody else.
    values: dict[float, list[float]] = {}
    for points in curves:
        for x, y in points:
            values.setdefault(x, []).append(y)
    mean = [(x, float(np.mean(own))) for x, own in sorted(values.items()) if 2 * len(own) > len(curves)]
    return [*faint, Series(name if len(curves) == 1 else f"{name}, mean of {len(curves)}", objective, mean)]


def _mark(found: dict[str, Any] | None) -> Mark | None:
    if found is None or found["status"] != "crosses":
        return None
    label = f"pass {found['tokens_passes']:.1f}"
    low, high = found["low"], found["high"]
    return Mark(found["tokens"], label) if math.isnan(low) else Mark(found["tokens"], label, low, high)


def y_label(metric: str) -> str:
    """Return what the upright axis of a metric's panels is called."""
    if metric == compare.LOSS:
        return "validation loss, nats per token"
    if compare.is_loss(metric):
        return f"exact NLL ({order_words(metric)}), nats per token"
    task, _, figure = metric.rpartition("/")
    return f"{task}: accuracy" if figure == "accuracy" else f"{task}: ΔNLL, wrong minus right answers"


def metric_legend(results: Results, metric: str) -> Html:
    """Return the legend of both types of models, with the kinds of their losses for a panel of losses."""
    entries = [(k, f"{NAMES[k]}{loss_kind(metric, k)}", "") for k in NAMES]
    if metric == compare.LOSS:
        entries += [("mdm", f"{NAMES['mdm']}{loss_kind(m, 'mdm')}", "7 3") for m in results.exact]
    return charts.legend(entries)


def settings_words(settings: dict[str, Any]) -> str:
    """Return settings as `key=value, ...`."""
    return ", ".join(f"{k}={v}" for k, v in settings.items())


def fit_panels(results: Results) -> str:
    """Return, for every fit, the laws through the measured losses of each budget."""
    panels = []
    fitted = [f for f in results.found["fits"] if not f["why_not"] and f["form"] != laws.SIZES.name]
    budgets = sorted({r["unique_tokens"] for r in results.rows})
    for f in fitted:
        form = next(form for form in laws.FORMS if form.name == f["form"])
        law = scaling.Fit(form, f["points"], unit=f["unit"], theta=tuple(f["theta"]))
        series = []
        for i, n in enumerate(budgets):
            own = [r for rows in results.of(n, f["objective"], f["settings"]) for r in rows if known(r, compare.LOSS)]
            if not own:
                continue
            name, kind = f"{format_count(n)} unique", f"b{i % BUDGET_COLOURS}"
            series.append(Series(name, kind, sorted((r["tokens"], r["loss"]) for r in own), line=False))
            at = np.linspace(min(r["tokens"] for r in own), max(r["tokens"] for r in own), 80)
            drawn = law.predict(np.full(len(at), float(n)), at)
            series.append(
                Series(f"{name}, law", kind, list(zip(at.tolist(), drawn.tolist(), strict=True)), dashed=True)
            )
        title = f"{NAMES[f['objective']]} ({KINDS[f['kind']]}), {f['form']}"
        y_label = "validation loss, nats per token" + (
            f", {settings_words(json.loads(f['settings']))}" if f["settings"] != "{}" else ""
        )
        axes = Axes(title=title, x_label="million tokens trained on", y_label=y_label, x_per=1e6)
        panels.append(charts.panel(axes, series))
    entries = [(f"b{i % BUDGET_COLOURS}", f"{format_count(n)} unique", "") for i, n in enumerate(budgets)]
    return charts.legend(entries) + charts.figures(panels) if panels else ""
