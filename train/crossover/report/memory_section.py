"""The report's section on what runs know of documents, by how often they were fed them."""

from collections.abc import Sequence
from typing import Any

from ....common.html import Cell, Html, Number, count, paragraph
from ....common.units import format_count
from . import charts
from .charts import Axes, Series
from .panels import KINDS, NAMES, Results
from .parts import folded, keep, stack
from .wording import setting


def section(results: Results) -> str:
    """Return two charts over exposures, of both types, and the table behind them; nothing where no run was measured."""
    found = results.found["memorised"]
    if not found["groups"]:
        return _left_out(found)
    legend = charts.legend([(kind, name, "") for kind, name in NAMES.items()])
    return paragraph(NOTE) + legend + _charts(found) + _table(found) + _left_out(found)


NOTE = (
    "Documents by how often the run was fed them, from its plan; 0 are held out. Loss: nats per token of a document’s "
    "longest part in one sample (AR’s NLL, MDM’s bound). Reproduced: documents whose last k tokens the model writes "
    "by itself, its likeliest token at every step, given those before. Means over all documents of all draws and seeds."
)


def _charts(found: dict[str, Any]) -> Html:
    panels = []
    own = [f for f in found["groups"] if f["settings"] == "{}" and (f["held_out"] or f["exposures"])]
    for title, figure, label in (
        ("Loss over exposures", "per_token", "nats per token (AR: NLL, MDM: NELBO)"),
        ("Reproduced over exposures", "share", "documents reproduced"),
    ):
        axes = Axes(title, "times that a document was fed", label, percent=figure == "share")
        panels.append(charts.panel(axes, [s for s in (_series(own, kind, figure) for kind in NAMES) if s.points]))
    return charts.figures(panels) if own else Html("")


def _series(own: Sequence[dict[str, Any]], kind: str, figure: str) -> Series:
    """Return a type's mean at each number of exposures, over all budgets, weighed by documents."""
    at: dict[int, list[tuple[float, int]]] = {}
    for f in own:
        if f["objective"] == kind:
            at.setdefault(f["exposures"], []).append((f[figure], f["documents"]))
    means = [(float(x), sum(y * n for y, n in ys) / sum(n for _, n in ys)) for x, ys in sorted(at.items())]
    return Series(NAMES[kind], kind, means)


def _table(found: dict[str, Any]) -> str:
    heads = ["Type", "Setting", "Unique tokens", "Fed", "Documents", "Kind", "Loss", "k", "Reproduced"]
    rows: list[list[Cell]] = [
        [
            *(keep(NAMES[f["objective"]]), setting({"ar": f["settings"], "mdm": f["settings"]})),
            *(Number(format_count(f["unique_tokens"])), _fed(f), Number(f"{f['documents']:,}"), KINDS[f["kind"]]),
            *(Number(f"{f['per_token']:.3f}"), Number(str(f["k"])), Number(f"{100 * f['share']:.1f} %")),
        ]
        for f in found["groups"]
    ]
    return folded("group of documents", "", stack(heads, rows), len(rows))


def _fed(f: dict[str, Any]) -> Cell:
    return "held out" if f["held_out"] else Number(f"{f['exposures']:,} ×")


def _left_out(found: dict[str, Any]) -> str:
    parts = []
    if found["groups"] and found["missing"]:
        parts.append(f"{count(found['missing'], 'finished run')} not measured.")
    if found["stale"]:
        parts.append(f"Left out, trained on since they were measured: {', '.join(found['stale'])}.")
    return "".join(paragraph(words, "note") for words in parts)
