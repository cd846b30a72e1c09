"""The report of a grid: one self-contained HTML page with its curves, crossovers, ratios, fits and runs.

Equal runs give equal bytes: no time, no path of this machine, every order is explicit. A loss is never shown without
its kind.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from ....common import storage
from ....common.html import Cell, Html, Number, code, count, definitions, document, fold, paragraph, table, text
from ....common.units import format_count, round_count
from .. import analysis, curves
from ..curves import MetricsRow
from ..grid import GridPlan
from . import page
from .panels import (
    KINDS,
    NAMES,
    Results,
    fit_panels,
    metric_legend,
    metric_overlays,
    metric_panels,
    order_words,
    settings_words,
    y_label,
)
from .wording import interval, ratio_interval, setting, where


def render(plan: GridPlan, rows: Sequence[MetricsRow], runs: Sequence[MetricsRow], found: dict[str, Any]) -> Html:
    """Return the page.

    Args:
        rows: see `curves` and `analysis.analyse`.
        runs: see `curves` and `analysis.analyse`.
        found: see `curves` and `analysis.analyse`.
    """
    results = Results(plan, rows, runs, found)
    finished = sum(r["state"] == "finished" for r in runs)
    valid = sum(r["receipt"] == "valid" for r in runs)
    budgets = [format_count(n) for n in sorted(plan.grid.unique_tokens)]
    lead = Html(
        f"Autoregressive (AR) against masked-diffusion (MDM) training on the same {text(', '.join(budgets))} unique "
        f"tokens, repeated to {text(format_count(plan.grid.total_tokens))} tokens each. "
        f"{finished} of {count(len(runs), 'run')} finished, {count(valid, 'receipt')} valid."
    )
    sections = [(key, title, section(results)) for key, title, section in SECTIONS]
    name = text(plan.grid.name)
    title = f"Crossover {name}"
    return document(title, "epochal crossover", name, lead, sections, page.STYLE + STYLE, page.SCRIPT)


def _summary(results: Results) -> str:
    if not results.compared:
        return paragraph("The grid has no AR and MDM runs on the same data: there is nothing to compare.")
    exact = [
        f"<h3>Both sides exact: MDM in {order_words(metric)}</h3>\n{_answers(results, metric)}"
        for metric in results.exact
    ]
    return (
        _answers(results, analysis.LOSS)
        + BOUND_NOTE
        + "".join([*exact, EXACT_NOTE] if exact else [])
        + PAIR_NOTE
        + fold("What the words mean", WORDS)
    )


def _answers(results: Results, metric: str) -> str:
    rows: list[list[Cell]] = []
    for n, ar, mdm in results.compared:
        found = results.crossover(metric, n, ar, mdm)
        row: list[Cell] = [Number(format_count(n)), setting({"ar": ar, "mdm": mdm})]
        row.append(Number(f"{results.plan.grid.total_tokens / n:.4g}"))
        if found is None:
            rows.append([*row, "not known yet: no pair of finished runs", "", Number("0"), Number("")])
        else:
            pairs = Number(str(len(found["units"])))
            rows.append([*row, where(found), interval(found), pairs, Number(_final_gap(found))])
    head = ["Unique tokens", "Setting", "Passes", "MDM overtakes at", "Interval, passes", "Pairs", "Final MDM − AR"]
    more = fold(count(len(rows) - MOST_ROWS, "other comparison"), _stack(head, rows[MOST_ROWS:]))
    return _stack(head, rows[:MOST_ROWS]) + (more if len(rows) > MOST_ROWS else "")


def _final_gap(found: dict[str, Any]) -> str:
    error = found["final_lead_se"]
    spread = "" if math.isnan(error) else f" ± {error:.3f}"
    return f"{-found['final_lead']:+.3f}".replace("-", "−") + spread + " <small>nats</small>"


def _stack(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Html:
    """Return a table without the columns that say nothing in any row."""
    kept = [i for i in range(len(heads)) if any(row[i] != "" for row in rows)]
    return table([heads[i] for i in kept], [[row[i] for i in kept] for row in rows], "stack")


def _folded(noun: str, note: str, inner: str, rows: int) -> str:
    """Return a long table under one line, which says how much there is."""
    return fold(f"{count(rows, noun)}, and what they mean" if note else count(rows, noun), note + inner)


def _keep(words: str) -> Html:
    """Return words that stay on one line."""
    return Html(f'<span class="keep">{text(words)}</span>')


MOST_ROWS = 8
"""Comparisons of the answer that are not folded away."""

WORDS = table(
    ["Word", "Meaning"],
    [
        (
            "overtakes for good",
            "MDM’s lead turns positive there and stays so at every evaluation after it, two or more",
        ),
        (
            "not within the budget, none",
            "no such place: MDM is behind at the end, or only the last evaluation shows it ahead",
        ),
        ("the first evaluation, ahead", "MDM leads from the first evaluation on: it overtook there, or before"),
        (
            "none from one pair",
            "an interval needs two pairs or more: one says nothing of how far draws and seeds differ",
        ),
        ("beyond", "the interval reaches past the budget: in some resamples MDM does not overtake within it"),
        ("% of resamples cross", "in how many of 2,000 random choices among the pairs MDM overtakes"),
        ("> and <", "the answer lies above or below all budgets that were run"),
        (
            "final MDM − AR",
            "MDM’s loss minus AR’s at the end, nats per token, with its standard error: below 0, MDM is better",
        ),
        ("interval", "95 %, a bootstrap over pairs; see “All crossovers”"),
        (
            "NLL, NELBO",
            "AR’s loss is exact; MDM’s is an upper bound, so the truth is as good or better. An MDM’s NLL says under "
            "which order of writing it is exact",
        ),
    ],
)

BOUND_NOTE = paragraph(
    "The comparison is of MDM’s NELBO, an upper bound, with AR’s exact NLL. Where the bound lies below, MDM is "
    "better for certain: its overtaking is sufficient, not necessary, so MDM may be ahead earlier than it is "
    "seen to be."
)

EXACT_NOTE = paragraph(
    "Here both sides are exact likelihoods of the same texts: AR’s, and MDM’s when it writes in the stated order. With "
    "the order MDM is another distribution than the one that its NELBO bounds (all orders together), so either figure "
    "may be the lower one. Best checkpoints are chosen by the NELBO."
)

PAIR_NOTE = paragraph("A pair is an AR and an MDM run on the same draw of data with the same seed.", "note")


def _loss(results: Results) -> str:
    return (
        paragraph("All numbers of unique tokens together; means over draws of data.")
        + metric_overlays(results, analysis.LOSS)
        + fold("Each number of unique tokens by itself", _each(results, analysis.LOSS, PANELS_NOTE))
        + "".join(
            f"<h3>Both sides exact: MDM in {order_words(metric)}</h3>\n{metric_overlays(results, metric)}"
            + fold("Each number of unique tokens by itself", _each(results, metric))
            for metric in results.exact
        )
    )


PANELS_NOTE = paragraph(
    "The upper scale is tokens trained on. Bold: the mean over draws of data; thin: each draw. The dashed line is "
    "where MDM overtakes for good, its band the 95 % interval."
)


def _each(results: Results, metric: str, note: str = "") -> str:
    return note + metric_legend(results, metric) + metric_panels(results, metric)


def _tasks(results: Results) -> str:
    others = [m for m in results.metrics if not analysis.is_loss(m)]
    if not others:
        return paragraph("No task was scored: add eval_tasks to the grid’s settings.")
    parts: list[str] = [TASK_NOTE]
    for metric in others:
        panels = fold("Each number of unique tokens by itself", _each(results, metric))
        parts += [f"<h3>{text(y_label(metric))}</h3>\n", metric_overlays(results, metric), panels]
    return "".join(parts)


TASK_NOTE = paragraph(
    "Accuracy is the share of items whose right answer the model finds likeliest; ΔNLL is how many nats likelier "
    "than the wrong ones (more is better). They can rise while the loss rises too. The task “continuation” asks "
    "which of four pieces of held-out text follows a context; guessing scores 25 %."
)


def _crossovers(results: Results) -> str:
    rows = [
        [
            *(
                y_label(c["metric"]),
                Number(format_count(c["unique_tokens"])),
                setting(c),
                where(c),
                interval(c),
            ),
            ", ".join(
                "none" if x is None else "ahead" if x == -math.inf else f"{x / c['unique_tokens']:.1f}"
                for x in c["pairs"]
            ),
        ]
        for c in results.found["crossovers"]
    ]
    if not rows:
        return paragraph("No pair of an AR and an MDM run is finished yet.")
    head = ["Metric", "Unique tokens", "Setting", "MDM overtakes for good at", "95 % interval, passes"]
    return _folded("crossover", ESTIMATE_NOTE, _stack([*head, "Each pair’s own, passes"], rows), len(rows))


ESTIMATE_NOTE = paragraph(
    "The crossover is the last point at which MDM’s lead turns positive, if it is positive at every evaluation after"
    " it and at two or more; curves are straight between evaluations. The interval is a bootstrap over pairs, 2,000 "
    "resamples, each moved by one normal error of the bound’s noise (or of the task’s items). With two or three "
    "pairs it can hardly be wider than what the pairs themselves span."
)


def _potential(results: Results) -> str:
    rows = [
        [
            *(y_label(p["metric"]), Number(format_count(p["unique_tokens"])), setting(p)),
            *(p["which"], Number(ratio(p)), ratio_interval(p)),
        ]
        for p in results.found["potentials"]
        if not p["metric"].endswith("delta_nll")
    ]
    if not rows:
        return paragraph("No pair of an AR and an MDM run is finished yet.")
    head = ["Metric", "Unique tokens of MDM", "Setting", "Checkpoint", "AR needs", "95 % interval"]
    return _folded("ratio", POTENTIAL_NOTE, _stack(head, rows), len(rows))


POTENTIAL_NOTE = paragraph(
    "How many times MDM’s unique tokens AR needs to be as good, at the same total tokens: AR’s figure is straight "
    "between its budgets over the logarithm of unique tokens. “>” and “<”: the answer lies beyond the budgets that "
    "were run; nothing is extrapolated. In validation loss, MDM’s figure is a bound, so its ratio is at least this. A "
    "budget with one draw adds nothing to the interval."
)


def ratio(found: dict[str, Any]) -> str:
    """Return a data-potential ratio in words."""
    sign = "" if found["sign"] == "=" else found["sign"] + " "
    return f"{sign}{found['ratio']:.2f} ×"


def _fits(results: Results) -> str:
    if not results.found["fits"]:
        return paragraph("No run is finished yet.")
    rows = []
    for f in results.found["fits"]:
        many = json.loads(f["settings"])
        who = f"{NAMES[f['objective']]}, {KINDS[f['kind']]}" + (f", {settings_words(many)}" if many else "")
        if f["why_not"]:
            rows.append([who, _keep(f["form"]), str(f["points"]), f["why_not"], "", "", ""])
            continue
        errors = [_keep(f"{format_count(int(n))}: {100 * e:.1f} %") for n, e in f["left_out"].items()]
        left = Html(", ".join(errors)) or "too few budgets"
        late = "too few points" if f["late"] is None else _keep(f"{100 * f['late']:.1f} %")
        rms = Html(", ".join(_keep(f"{100 * f[k]:.1f} %") for k in ("rms", "worst")))
        rows.append([who, _keep(f["form"]), str(f["points"]), _constants(f), rms, left, late])
    head = ["Runs", "Form", "Evaluations", "Constants", "Residuals: RMS, largest", "RMS on a budget left out"]
    panels = fit_panels(results)
    return _folded("fit", FIT_NOTE, _stack([*head, "RMS on the last third"], rows) + panels, len(rows))


FIT_NOTE = (
    paragraph(
        "Saturating: L = E + B / D′^b, D′ = U′ + U′ r (1 − exp(−R / r)), where repeated tokens are worth ever less "
        "(Muennighoff et al. 2023). U-shaped: the same + C R^c / U^d, which rises with repeated passes R and less so"
        " with more unique tokens U."
    )
    + paragraph(
        "Every evaluation of every finished run is in the fit. Errors are relative (of log L). Tokens are in units "
        "of the geometric mean of the unique tokens. Constants that ended at their bounds are marked *: the data do "
        "not settle them.",
        "note",
    )
)  # fmt: skip


def _constants(f: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3g}{'*' if k in f['at_bound'] else ''}" for k, v in f["constants"].items())


def _runs(results: Results) -> str:
    rows: list[list[Cell]] = []
    for r in results.runs:
        line: list[Cell] = [code(r["run"], uncut=True), _keep(r["state"]), r["receipt"], KINDS[r["kind"]]]
        for which in ("best", "final"):
            line.append(_loss_at(r, which))
        line.append(_kept(r))
        rows.append(line)
    head = ["Run", "State", "Receipt", "Kind of loss", "Best, at pass", "Final", "Checkpoints kept"]
    return _folded("run", RUN_NOTE, table(head, rows, "stack"), len(rows))


RUN_NOTE = paragraph(
    "u: unique tokens, r: draw of the data (draws share no document), s: seed, then the run’s fingerprint. A receipt "
    "is valid when the run trained on exactly the samples of its plan: “epochal audit” checks it."
)


def _loss_at(run: MetricsRow, which: str) -> Cell:
    if run.get(f"{which}_loss") is None:
        return "–"
    error = f" ± {run[f'{which}_loss_se']:.3f}" if run[f"{which}_loss_se"] else ""
    at = f" <small>at {run[f'{which}_passes']:.1f}</small>" if which == "best" else ""
    return Number(f"{run[f'{which}_loss']:.3f}{error}{at}")


def _kept(run: MetricsRow) -> str:
    kept = [which for which in ("best", "final") if run.get(f"{which}_checkpoint")]
    return " and ".join(kept) or "none yet"


def _method(results: Results) -> str:
    grid, plan = results.plan.grid, results.plan
    shape = plan.runs[0].shape
    pairs: list[tuple[str, Cell]] = [
        ("Tokens per run", grid.total_tokens),
        ("Tokens in all", sum(r.total_tokens for r in plan.runs)),
        ("Training FLOPs in all", Number(f"{sum(r.flops for r in plan.runs):.3g}")),
        ("Weights in blocks", Number(round_count(shape.block_parameters))),
        (
            "Weights in the head",
            Number(f"{round_count(shape.head_parameters)} <small>{shape.vocab_size:,} ids</small>"),
        ),
        ("Seeds", ", ".join(map(str, grid.seeds))),
        ("Base", code(grid.base)),
        ("Pool’s fingerprint", code(plan.pool.fingerprint if plan.pool else "not there")),
    ]
    settings = {k: json.dumps(v) for k, v in grid.settings.items()}
    settings |= {k: f"varied: {', '.join(json.dumps(v) for v in values)}" for k, values in grid.overrides.items()}
    rows = [(code(k), code(v, uncut=True)) for k, v in settings.items()]
    return definitions(pairs) + (
        "<h3>What replaces the base’s settings</h3>\n" + table(["Key", "Value"], rows) if rows else ""
    )


SECTIONS: tuple[tuple[str, str, Callable[[Results], str]], ...] = (
    ("answer", "Where diffusion overtakes", _summary),
    ("loss", "Validation loss", _loss),
    ("tasks", "Accuracy", _tasks),
    ("crossovers", "All crossovers", _crossovers),
    ("potential", "Data potential", _potential),
    ("fits", "Scaling fits", _fits),
    ("runs", "Runs", _runs),
    ("method", "What was run", _method),
)
"""(anchor, title, what returns its HTML)"""

STYLE = """
.keep { white-space: nowrap; }
"""


REPORT_NAME = "report.html"


def publish(plan: GridPlan) -> dict[str, Any]:
    """Write curves.parquet, runs.parquet, crossovers.json and report.html; return what the command prints."""
    rows = curves.curves(plan.runs)
    own = curves.by_run(rows)
    runs = [curves.summary(run, own.get(run.name, [])) for run in plan.runs]
    found = analysis.analyse(rows, runs)
    out = plan.grid.out
    os.makedirs(out, exist_ok=True)
    curves.write(out, rows, runs)
    analysis.write(out, found)
    written = render(plan, rows, runs, found)
    storage.write_atomic(os.path.join(out, REPORT_NAME), written.encode())
    return {
        "grid": plan.grid.name,
        "out": out,
        "runs": len(runs),
        "finished": sum(run["state"] == "finished" for run in runs),
        "receipts_valid": sum(run["receipt"] == "valid" for run in runs),
        "report": os.path.join(out, REPORT_NAME),
    } | found
