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
from .. import analysis, compare, curves
from ..curves import MetricsRow
from ..ensembles.members import measured
from ..grid import GridPlan
from ..memorised import memorised
from . import ensemble_section, law_tables, memory_section, page, summary
from .fair_tables import best_section, multiple_section
from .panels import (
    KINDS,
    Results,
    metric_legend,
    metric_overlays,
    metric_panels,
    order_words,
    y_label,
)
from .parts import BOUND_NOTE, EXACT_NOTE, MOST_ROWS, PAIR_NOTE, WORDS, folded, keep, stack
from .wording import interval, ratio, ratio_interval, setting, waits, where


def render(plan: GridPlan, rows: Sequence[MetricsRow], runs: Sequence[MetricsRow], found: dict[str, Any]) -> Html:
    """Return the page.

    Args:
        rows: of `curves.curves`.
        runs: of `curves.summary`.
        found: see `analysis.analyse` and `memorised`.
    """
    results = Results(plan, rows, runs, found)
    finished = sum(r["state"] == "finished" for r in runs)
    valid = sum(r["receipt"] == "valid" for r in runs)
    budgets = [format_count(n) for n in sorted(plan.grid.unique_tokens)]
    lead = Html(
        f"Autoregressive (AR) against masked-diffusion (MDM) training on the same {text(', '.join(budgets))} unique "
        f"tokens, repeated to {text(format_count(plan.grid.total_tokens))} tokens each. "
        f"{finished} of {count(len(runs), 'run')} finished, {count(valid, 'receipt')} valid."
        + (f" {text(waits(plan.waiting).capitalize())}." if plan.waiting else "")
    )
    sections = [(key, title, body) for key, title, section in SECTIONS if (body := section(results))]
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
        _answers(results, compare.LOSS)
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
    more = fold(count(len(rows) - MOST_ROWS, "other comparison"), stack(head, rows[MOST_ROWS:]))
    return stack(head, rows[:MOST_ROWS]) + (more if len(rows) > MOST_ROWS else "")


def _final_gap(found: dict[str, Any]) -> str:
    half = found["final_half_width"]
    spread = "" if math.isnan(half) else f" ± {half:.3f}"
    return f"{-found['final_lead']:+.3f}".replace("-", "−") + spread + " <small>nats</small>"


def _loss(results: Results) -> str:
    return (
        paragraph("All numbers of unique tokens together; means over draws of data.")
        + metric_overlays(results, compare.LOSS)
        + fold("Each number of unique tokens by itself", _each(results, compare.LOSS, PANELS_NOTE))
        + "".join(
            f"<h3>Both sides exact: MDM in {order_words(metric)}</h3>\n{metric_overlays(results, metric)}"
            + fold("Each number of unique tokens by itself", _each(results, metric))
            for metric in results.exact
        )
    )


PANELS_NOTE = paragraph(
    "The upper scale is tokens trained on. Bold: the mean over draws of data; thin: each draw. The dashed line is "
    "where MDM overtakes for good, its band the 95 % interval. Hollow points were measured while the learning rate "
    "fell: the ends of curves, and off them the ends of runs with their own decay."
)


def _each(results: Results, metric: str, note: str = "") -> str:
    return note + metric_legend(results, metric) + metric_panels(results, metric)


def _tasks(results: Results) -> str:
    others = [m for m in results.metrics if not compare.is_loss(m)]
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
    return folded("crossover", ESTIMATE_NOTE, stack([*head, "Each pair’s own, passes"], rows), len(rows))


ESTIMATE_NOTE = paragraph(
    "The crossover is the last point at which MDM’s lead turns positive, if it is positive at every evaluation after "
    "it and at two or more; curves are straight between evaluations. The interval, of three pairs or more, holds "
    "every point at which Student’s t over the draws of data (over the seeds, where there is one draw) allows a mean "
    "lead of 0; the noise of the bound (or of the task’s items) is added. A pair that ends early, or of which too "
    "little was measured, has no part in the mean."
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
    return multiple_section(results) + folded("ratio", POTENTIAL_NOTE, stack(head, rows), len(rows))


POTENTIAL_NOTE = paragraph(
    "How many times MDM’s unique tokens AR needs to be as good, at the same total tokens: AR’s figure is straight "
    "between its budgets over the logarithm of unique tokens. “>” and “<”: the answer lies beyond the budgets that "
    "were run; nothing is extrapolated. In validation loss, MDM’s figure is a bound, so its ratio is at least this. "
    "The best of a run is chosen on one half of the validation pool and measured on the other, where both were "
    "measured. Intervals: Student’s t, replicates taken to spread alike at all budgets."
)


def _runs(results: Results) -> str:
    rows: list[list[Cell]] = []
    for r in results.runs:
        line: list[Cell] = [code(r["run"], uncut=True), keep(r["state"]), r["receipt"], KINDS[r["kind"]]]
        for which in ("best", "final"):
            line.append(_loss_at(r, which))
        line.append(_kept(r))
        rows.append(line)
    head = ["Run", "State", "Receipt", "Kind of loss", "Best, at pass", "Final", "Checkpoints kept"]
    return folded("run", RUN_NOTE, table(head, rows, "stack"), len(rows))


RUN_NOTE = paragraph(
    "u: unique tokens, d: tokens of a run with its own decay, r: draw of the data (draws share no document), s: seed, "
    "then the run’s fingerprint. A receipt is valid when the run trained on exactly the samples of its plan: “epochal "
    "audit” checks it."
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
    settings |= {
        f"{kind}, arm {name}": json.dumps(keys) for kind, named in grid.arms.items() for name, keys in named.items()
    }
    if grid.own_decay:
        settings["own decay"] = f"at {', '.join(f'{x:g}' for x in grid.own_decay)} times each run’s best length"
    if grid.members:
        settings["members"] = f"ensembles of the first {' and '.join(map(str, sorted(grid.members)))} seeds"
    settings |= {k: f"varied: {', '.join(json.dumps(v) for v in values)}" for k, values in grid.overrides.items()}
    rows = [(code(k), code(v, uncut=True)) for k, v in settings.items()]
    return definitions(pairs) + (
        "<h3>What replaces the base’s settings</h3>\n" + table(["Key", "Value"], rows) if rows else ""
    )


SECTIONS: tuple[tuple[str, str, Callable[[Results], str]], ...] = (
    ("answer", "Where diffusion overtakes", _summary),
    ("best", "Best against best", best_section),
    ("ensembles", "Ensembles", ensemble_section.section),
    ("loss", "Validation loss", _loss),
    ("tasks", "Accuracy", _tasks),
    ("crossovers", "All crossovers", _crossovers),
    ("potential", "Data potential", _potential),
    ("fits", "Scaling fits", law_tables.section),
    ("memorised", "Memorisation", memory_section.section),
    ("runs", "Runs", _runs),
    ("method", "What was run", _method),
)
"""(anchor, title, what returns its HTML, or nothing where there is nothing to say)"""

STYLE = """
.keep { white-space: nowrap; }
"""


REPORT_NAME = "report.html"


def publish(plan: GridPlan) -> dict[str, Any]:
    """Write tables, crossovers.json, report.html and its summaries; return what the command prints."""
    rows = curves.curves(plan.runs)
    own = curves.by_run(rows)
    runs = [curves.summary(run, own.get(run.name, [])) for run in plan.runs]
    found = analysis.analyse(rows, runs, measured(plan)) | {"memorised": memorised(plan.runs, runs)}
    out = plan.grid.out
    os.makedirs(out, exist_ok=True)
    curves.write(out, rows, runs)
    analysis.write(out, found)
    written = render(plan, rows, runs, found)
    storage.write_atomic(os.path.join(out, REPORT_NAME), written.encode())
    body = {
        "grid": plan.grid.name,
        "out": out,
        "runs": len(runs),
        "finished": sum(run["state"] == "finished" for run in runs),
        "receipts_valid": sum(run["receipt"] == "valid" for run in runs),
        "waiting": plan.waiting,
        "report": os.path.join(out, REPORT_NAME),
        "summary": os.path.join(out, summary.SUMMARY_NAME),
    } | found
    storage.write_atomic(os.path.join(out, summary.SUMMARY_NAME), summary.markdown(body).encode())
    storage.write_atomic(os.path.join(out, summary.CSV_NAME), summary.table_csv(body).encode())
    return body
