"""The report of a grid: one self-contained HTML page with its curves, crossovers, ratios, fits and runs.

Equal runs give equal bytes: no time, no path of this machine, every order is explicit. A loss is never shown without
its kind.
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...common.html import Cell, Html, Number, code, count, definitions, document, paragraph, table, text
from ...common.units import format_count, round_count
from . import analysis, charts, scaling
from .charts import Axes, Mark, Series
from .curves import MetricsRow, by_run
from .grid import GridPlan
from .wording import interval, setting, where

KINDS = {"nll": "NLL", "nelbo": "NELBO, upper bound"}
NAMES = {"ar": "AR", "mdm": "MDM"}


class Results:
    """What the sections are made of. rows, runs: both tables; found: of `analysis.analyse`."""

    def __init__(
        self, plan: GridPlan, rows: Sequence[MetricsRow], runs: Sequence[MetricsRow], found: dict[str, Any]
    ) -> None:
        self.plan, self.rows, self.runs, self.found = plan, rows, runs, found
        self.curves = by_run(rows)
        self.metrics = analysis.metrics(rows)
        self.compared = list(analysis.comparisons(runs))

    def crossover(self, metric: str, n: int, ar: str, mdm: str) -> dict[str, Any] | None:
        """Return the crossover of one comparison."""
        wanted = {"metric": metric, "unique_tokens": n, "ar": ar, "mdm": mdm}
        return next((c for c in self.found["crossovers"] if wanted.items() <= c.items()), None)

    def of(self, n: int, objective: str, settings: str) -> list[list[MetricsRow]]:
        """Return the curves of all draws and seeds of one kind of run."""
        keys = ("unique_tokens", "objective", "settings")
        return [own for own in self.curves.values() if tuple(own[0][k] for k in keys) == (n, objective, settings)]


def render(plan: GridPlan, rows: Sequence[MetricsRow], runs: Sequence[MetricsRow], found: dict[str, Any]) -> Html:
    """Return the page. rows, runs, found: see `curves` and `analysis.analyse`."""
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
    return document(title, "epochal crossover", name, lead, sections, charts.STYLE + STYLE, charts.SCRIPT)


def _summary(results: Results) -> str:
    if not results.compared:
        return paragraph("The grid has no AR and MDM runs on the same data: there is nothing to compare.")
    rows: list[list[Cell]] = []
    for n, ar, mdm in results.compared:
        found = results.crossover(analysis.LOSS, n, ar, mdm)
        row: list[Cell] = [Number(format_count(n)), setting({"ar": ar, "mdm": mdm})]
        row.append(Number(f"{results.plan.grid.total_tokens / n:.4g}"))
        if found is None:
            rows.append([*row, "not known yet: no pair of finished runs", "", Number("0"), Number("")])
        else:
            pairs = Number(str(len(found["units"])))
            rows.append([*row, where(found), interval(found), pairs, Number(_final_gap(found))])
    head = ["Unique tokens", "Setting", "Passes", "MDM overtakes for good at", "95 % interval, passes", "Pairs"]
    return _stack([*head, "MDM − AR at the end, nats"], rows) + BOUND_NOTE


def _final_gap(found: dict[str, Any]) -> str:
    error = found["final_lead_se"]
    spread = "" if math.isnan(error) else f" ± {error:.3f}"
    return f"{-found['final_lead']:+.3f}".replace("-", "−") + spread


def _stack(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Html:
    """Return a table without the columns that say nothing in any row."""
    kept = [i for i in range(len(heads)) if any(row[i] != "" for row in rows)]
    return table([heads[i] for i in kept], [[row[i] for i in kept] for row in rows], "stack")


def _keep(words: str) -> Html:
    """Return words that stay on one line."""
    return Html(f'<span class="keep">{text(words)}</span>')


BOUND_NOTE = (
    paragraph(
        "The comparison is of MDM’s NELBO, an upper bound, with AR’s exact NLL. Where the bound lies below, MDM is "
        "better for certain: its overtaking is sufficient, not necessary, so MDM may be ahead earlier than it is "
        "seen to be."
    )
    + paragraph("A pair is an AR and an MDM run on the same draw of data with the same seed.", "note")
)  # fmt: skip


def _panels(results: Results, metric: str) -> Html:
    own = [(n, ar, mdm, [*results.of(n, "ar", ar), *results.of(n, "mdm", mdm)]) for n, ar, mdm in results.compared]
    values = [r[metric] for *_, curves in own for rows in curves for r in rows if r.get(metric) is not None]
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
        words = setting({"ar": ar, "mdm": mdm})
        axes = Axes(
            title=f"{format_count(n)} unique tokens" + (f", {words}" if words else ""),
            x_label="passes over the data",
            y_label=_y_label(metric),
            x_per=n,
            upper_label="tokens",
            x_span=(0, results.plan.grid.total_tokens),
            y_span=y_span,
            percent=metric.endswith("accuracy"),
        )
        panels.append(charts.panel(axes, series, _mark(results.crossover(metric, n, ar, mdm))))
    return charts.figures(panels)


def _series(results: Results, metric: str, n: int, objective: str, settings: str) -> list[Series]:
    """Return the mean curve over draws and seeds, and each draw's own beneath it."""
    kept = [
        [(r["tokens"], r[metric]) for r in own if r.get(metric) is not None]
        for own in results.of(n, objective, settings)
    ]
    curves = [points for points in kept if points]
    if not curves:
        return []
    kind = f", {KINDS['nelbo' if objective == 'mdm' else 'nll']}" if metric == analysis.LOSS else ""
    name = f"{NAMES[objective]}{kind}"
    faint = [Series(name, objective, points, faint=True) for points in curves] if len(curves) > 1 else []
    # Evaluations that not all draws have yet (a grid at work) have no mean.
    common = sorted(set.intersection(*({x for x, _ in points} for points in curves)))
    mean = [(x, float(np.mean([dict(points)[x] for points in curves]))) for x in common]
    return [*faint, Series(name if len(curves) == 1 else f"{name}, mean of {len(curves)}", objective, mean)]


def _mark(found: dict[str, Any] | None) -> Mark | None:
    if found is None or found["status"] != "crosses":
        return None
    label = f"pass {found['tokens_passes']:.1f}"
    low, high = found["low"], found["high"]
    return Mark(found["tokens"], label) if math.isnan(low) else Mark(found["tokens"], label, low, high)


def _y_label(metric: str) -> str:
    if metric == analysis.LOSS:
        return "validation loss, nats per token"
    task, _, figure = metric.rpartition("/")
    return f"{task}: accuracy" if figure == "accuracy" else f"{task}: ΔNLL, wrong minus right answers"


def _legend(loss: bool) -> Html:
    kinds = {"ar": ", NLL", "mdm": ", NELBO (upper bound)"} if loss else {"ar": "", "mdm": ""}
    return charts.legend([(k, f"{NAMES[k]}{kinds[k]}", "") for k in NAMES])


def _loss(results: Results) -> str:
    return (
        paragraph(
            "One panel for each number of unique tokens; the upper scale is tokens trained on. Bold: the mean over "
            "draws of data; thin: each draw. The dashed line is where MDM overtakes for good, its band the 95 % "
            "interval."
        )
        + _legend(loss=True)
        + _panels(results, analysis.LOSS)
    )


def _tasks(results: Results) -> str:
    others = [m for m in results.metrics if m != analysis.LOSS]
    if not others:
        return paragraph("No task was scored: add eval_tasks to the grid’s settings.")
    parts: list[str] = [TASK_NOTE, _legend(loss=False)]
    for metric in others:
        parts += [f"<h3>{text(_y_label(metric))}</h3>\n", _panels(results, metric)]
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
                _y_label(c["metric"]),
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
    return ESTIMATE_NOTE + _stack([*head, "Each pair’s own, passes"], rows)


ESTIMATE_NOTE = paragraph(
    "The crossover is the last point at which MDM’s lead turns positive, if it is positive at every evaluation after"
    " it and at two or more; curves are straight between evaluations. The interval is a bootstrap over pairs, 2,000 "
    "resamples, each moved by one normal error of the bound’s noise (or of the task’s items). With two or three "
    "pairs it can hardly be wider than what the pairs themselves span."
)


def _potential(results: Results) -> str:
    rows = [
        [
            *(_y_label(p["metric"]), Number(format_count(p["unique_tokens"])), setting(p)),
            *(p["which"], Number(ratio(p)), _ratio_interval(p)),
        ]
        for p in results.found["potentials"]
        if not p["metric"].endswith("delta_nll")
    ]
    if not rows:
        return paragraph("No pair of an AR and an MDM run is finished yet.")
    head = ["Metric", "Unique tokens of MDM", "Setting", "Checkpoint", "AR needs", "95 % interval"]
    return POTENTIAL_NOTE + _stack(head, rows)


POTENTIAL_NOTE = paragraph(
    "How many times MDM’s unique tokens AR needs to be as good, at the same total tokens: AR’s figure is straight "
    "between its budgets over the logarithm of unique tokens. “>” and “<”: the answer lies beyond the budgets that "
    "were run; nothing is extrapolated. In loss, MDM’s figure is a bound, so its ratio is at least this. A budget with "
    "one draw adds nothing to the interval."
)


def ratio(found: dict[str, Any]) -> str:
    """Return a data-potential ratio in words."""
    sign = "" if found["sign"] == "=" else found["sign"] + " "
    return f"{sign}{found['ratio']:.2f} ×"


def _ratio_interval(found: dict[str, Any]) -> str:
    low, high = found["low"], found["high"]
    if low == high == found["ratio"]:
        return "none from one draw"
    ends = ["below the budgets" if x == 0 else "beyond them" if math.isinf(x) else f"{x:.2f}" for x in (low, high)]
    return ends[0] if low == high else " to ".join(ends)


def _fits(results: Results) -> str:
    if not results.found["fits"]:
        return paragraph("No run is finished yet.")
    rows = []
    for f in results.found["fits"]:
        many = json.loads(f["settings"])
        who = f"{NAMES[f['objective']]}, {KINDS[f['kind']]}" + (f", {_words(many)}" if many else "")
        if f["why_not"]:
            rows.append([who, _keep(f["form"]), str(f["points"]), f["why_not"], "", "", ""])
            continue
        errors = [_keep(f"{format_count(int(n))}: {100 * e:.1f} %") for n, e in f["left_out"].items()]
        left = Html(", ".join(errors)) or "too few budgets"
        late = "too few points" if f["late"] is None else _keep(f"{100 * f['late']:.1f} %")
        rms = Html(", ".join(_keep(f"{100 * f[k]:.1f} %") for k in ("rms", "worst")))
        rows.append([who, _keep(f["form"]), str(f["points"]), _constants(f), rms, left, late])
    head = ["Runs", "Form", "Evaluations", "Constants", "Residuals: RMS, largest", "RMS on a budget left out"]
    panels = _fit_panels(results)
    return FIT_NOTE + _stack([*head, "RMS on the last third"], rows) + panels


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


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in settings.items())


def _constants(f: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.3g}{'*' if k in f['at_bound'] else ''}" for k, v in f["constants"].items())


def _fit_panels(results: Results) -> str:
    """Return, for every fit, the laws through the measured losses of each budget."""
    panels = []
    fitted = [f for f in results.found["fits"] if not f["why_not"]]
    budgets = sorted({r["unique_tokens"] for r in results.rows})
    for f in fitted:
        form = next(form for form in scaling.FORMS if form.name == f["form"])
        law = scaling.Fit(form, f["points"], unit=f["unit"], theta=tuple(f["theta"]))
        series = []
        for i, n in enumerate(budgets):
            own = [r for rows in results.of(n, f["objective"], f["settings"]) for r in rows]
            if not own:
                continue
            name, kind = f"{format_count(n)} unique", f"b{i % 5}"
            series.append(Series(name, kind, sorted((r["tokens"], r["loss"]) for r in own), line=False))
            at = np.linspace(min(r["tokens"] for r in own), max(r["tokens"] for r in own), 80)
            drawn = law.predict(np.full(len(at), float(n)), at)
            series.append(
                Series(f"{name}, law", kind, list(zip(at.tolist(), drawn.tolist(), strict=True)), dashed=True)
            )
        title = f"{NAMES[f['objective']]} ({KINDS[f['kind']]}), {f['form']}"
        y_label = "validation loss, nats per token" + (
            f", {_words(json.loads(f['settings']))}" if f["settings"] != "{}" else ""
        )
        axes = Axes(title=title, x_label="million tokens trained on", y_label=y_label, x_per=1e6)
        panels.append(charts.panel(axes, series))
    entries = [(f"b{i % 5}", f"{format_count(n)} unique", "") for i, n in enumerate(budgets)]
    return f"<h3>Laws and measurements</h3>\n{charts.legend(entries)}{charts.figures(panels)}" if panels else ""


def _runs(results: Results) -> str:
    rows: list[list[Cell]] = []
    for r in results.runs:
        line: list[Cell] = [code(r["run"], uncut=True), _keep(r["state"]), r["receipt"], KINDS[r["kind"]]]
        for which in ("best", "final"):
            line.append(_loss_at(r, which))
        line.append(_kept(r))
        rows.append(line)
    head = ["Run", "State", "Receipt", "Kind of loss", "Best, at pass", "Final", "Checkpoints kept"]
    return (
        paragraph(
            "u: unique tokens, r: draw of the data (draws share no document), s: seed, then the run’s fingerprint."
        )
        + table(head, rows, "stack")
        + paragraph(
            "A receipt is valid when the run trained on exactly the samples of its plan: “epochal audit” checks it.",
            "note",
        )
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
