"""The sections of best against best, and of what a budget is worth."""

from collections.abc import Sequence
from typing import Any

from ....common.html import Cell, Html, Number, count, fold, paragraph
from ....common.units import format_count
from . import charts
from .charts import Axes, Series
from .panels import NAMES, Results, order_words
from .parts import MOST_ROWS, folded, keep, stack
from .wording import (
    ARM_HEAD,
    ARM_NOTE,
    BEST_HEAD,
    BEST_NOTE,
    SAME_NOTE,
    arm_row,
    best_row,
    interval,
    ratio,
    ratio_interval,
    setting,
    side_words,
    where,
)

LOSS = "loss"


def best_section(results: Results) -> str:
    """Return both types stopped at their best, for each budget and choice of arms, and where their curves cross."""
    found = results.found["best"]
    if not found:
        return paragraph("No pair of an AR and an MDM run is finished yet.")
    note = paragraph(BEST_NOTE if found[0]["held_out"] else SAME_NOTE) + (WAITING if results.plan.waiting else "")
    parts = [note, _chart(results, LOSS), _best_table(found, LOSS)]
    for metric in results.exact:
        parts += [f"<h3>Both sides exact: MDM in {order_words(metric)}</h3>\n", _best_table(found, metric)]
    if results.found["arms"]:
        parts.append(_arms(results.found["arms"]))
    curves = [f for f in found if f["curves"] and (f["ar_side"], f["mdm_side"]) != ("default", "default")]
    if curves:
        parts.append(fold("Where the curves of the best arms cross", CURVES_NOTE + _curve_table(curves)))
    return "".join(parts)


WAITING = paragraph(
    "Some runs with their own decay are not trained yet: their lengths follow from runs that are not finished."
)

CURVES_NOTE = paragraph(
    "Runs of the whole length, arms chosen on one half of the validation pool, curves of the other half. The same as "
    "“All crossovers” says of the default arms on the whole pool."
)


def _best_table(found: Sequence[dict[str, Any]], metric: str) -> Html:
    """Return the rows of both defaults, of both best and of ensembles; one default against the other's best is folded
    away."""
    own = [f for f in found if f["metric"] == metric]
    best = {kind: "best" if any(f[f"{kind}_side"] == "best" for f in own) else "default" for kind in NAMES}
    shown, others = list[list[Cell]](), list[list[Cell]]()
    for f in own:
        cells = best_row(f)[1:]
        row: list[Cell] = [Number(cells[0]), cells[1], Number(cells[2]), *cells[3:5], Number(cells[5]), *cells[6:]]
        sides = {kind: f[f"{kind}_side"] for kind in NAMES}
        (shown if sides == best or sides["ar"] == sides["mdm"] else others).append(row)
    heads = [head.capitalize() if head[0].islower() else head for head in BEST_HEAD[1:]]
    more = fold("One type’s default arm against the other’s best", stack(heads, others)) if others else ""
    return Html(stack(heads, shown[:MOST_ROWS]) + _rest(heads, shown[MOST_ROWS:]) + more)


def _arms(found: Sequence[dict[str, Any]]) -> str:
    """Return every arm of both types by its best loss."""
    heads = [head.capitalize() for head in ARM_HEAD]
    rows: list[list[Cell]] = [
        [metric, Number(n), keep(kind), keep(arm), *(Number(cell) for cell in figures)]
        for metric, n, kind, arm, *figures in map(arm_row, found)
    ]
    return "<h3>Every arm</h3>\n" + folded("arm", paragraph(ARM_NOTE), stack(heads, rows), len(rows))


def _rest(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    return fold(count(len(rows), "other comparison"), stack(heads, rows)) if rows else ""


def _curve_table(found: Sequence[dict[str, Any]]) -> Html:
    head = ["Metric", "Unique tokens", "Setting", "MDM overtakes at", "95 % interval, passes"]
    rows: list[list[Cell]] = [
        [
            f["metric"],
            Number(format_count(f["unique_tokens"])),
            setting(f["curves"]),
            where(f["curves"]),
            interval(f["curves"]),
        ]
        for f in found
    ]
    return stack(head, rows)


def _chart(results: Results, metric: str) -> Html:
    """Return the best loss of every type and choice of arm over unique tokens."""
    points: dict[tuple[str, str], dict[int, float]] = {}
    for f in results.found["best"]:
        if f["metric"] == metric and not setting({"ar": f["ar_settings"], "mdm": f["mdm_settings"]}):
            for kind in NAMES:
                points.setdefault((kind, f[f"{kind}_side"]), {})[f["unique_tokens"]] = f[kind]["loss"]
    series = [
        Series(f"{NAMES[kind]}, {side_words(which)}", f"{kind} {_dash(which)}".strip(), sorted(own.items()))
        for (kind, which), own in sorted(points.items())
    ]
    if not any(len(s.points) > 1 for s in series):
        return Html("")
    axes = Axes(
        title="Stopped at its best",
        x_label="unique tokens",
        y_label="validation loss (AR: NLL, MDM: NELBO), nats per token",
        logarithmic=True,
        counts=True,
    )
    entries = [(s.kind, s.name, DASHES[s.kind.partition(" ")[2]]) for s in series]
    name = f"{results.plan.grid.name} best {metric}"
    return Html(charts.legend(entries) + charts.saved(name, charts.panel(axes, series)))


DASHES = {"": "", "best": "7 3", "ensemble": "2 3"}
"""How lines are drawn, as page.STYLE does: of the default arm, the best one, and ensembles."""


def _dash(side: str) -> str:
    return next((name for name in DASHES if name and side.startswith(name)), "")


def multiple_section(results: Results) -> str:
    """Return what each budget is worth: the unique tokens that each baseline needs for the same loss."""
    found = results.found["multiples"]
    if not found:
        return ""
    parts = [fold("What a multiple is", MULTIPLE_NOTE)]
    for kind, which in sorted({(f["baseline"], f["baseline_side"]) for f in found}, key=_default_first):
        own = [f for f in found if (f["baseline"], f["baseline_side"]) == (kind, which)]
        title = f"In unique tokens of {NAMES.get(kind, kind)}, {side_words(which)}"
        parts.append(fold(title, _multiples(own)))
    return "<h3>Each budget at its best</h3>\n" + "".join(parts)


def _default_first(baseline: tuple[str, str]) -> tuple[str, bool, str]:
    return baseline[0], baseline[1] != "default", baseline[1]


MULTIPLE_NOTE = paragraph(
    "How many times as many unique tokens the baseline, stopped at its best too, needs for the same loss. Below 1 the "
    "baseline is better. “>” and “<”: beyond the budgets that it was run at; nothing is extrapolated. Where MDM’s "
    "loss is a bound, MDM is worth at least this, and as a baseline it needs at most this. Intervals are 95 %, by "
    "Student’s t, replicates taken to spread alike at all budgets of a type."
)


def _multiples(found: Sequence[dict[str, Any]]) -> Html:
    head = ["Metric", "Unique tokens", "Whose", "Setting", "Worth", "95 % interval"]
    rows: list[list[Cell]] = [
        [
            *(f["metric"], Number(format_count(f["unique_tokens"])), multiple_owner(f)),
            *(setting({"ar": f["settings"], "mdm": f["settings"]}), Number(ratio(f)), ratio_interval(f)),
        ]
        for f in found
    ]
    return stack(head, rows)


def multiple_owner(f: dict[str, Any]) -> str:
    """Return whose budget is measured: the type, and which of its arms."""
    arm = {"best": f"best arm: {f['arm']}", "default": f"arm {f['arm']}"}.get(f["side"], f"{f['side']}, arm {f['arm']}")
    return f"{NAMES.get(f['objective'], f['objective'])}, {arm}"
