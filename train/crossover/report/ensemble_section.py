"""The report's section on ensembles: what the models of several seeds are worth together."""

from ....common.html import Cell, Number, paragraph
from .panels import Results
from .parts import MOST_ROWS, folded, keep, stack
from .wording import ENSEMBLE_HEAD, ENSEMBLE_NOTE, ensemble_row, unmeasured


def section(results: Results) -> str:
    """Return the table of ensembles; nothing for a grid without `members`."""
    found = results.found.get("ensembles")
    if found is None:
        return ""
    missing = paragraph(f"{unmeasured(found['missing']).capitalize()}.") if found["missing"] else ""
    rows: list[list[Cell]] = [
        [Number(n), keep(kind), keep(arm), Number(models), loss, of, Number(alone), *rest, Number(draws)]
        for n, kind, arm, models, loss, of, alone, *rest, draws in map(ensemble_row, found["rows"])
    ]
    if not rows:
        return missing
    shown = stack([head.capitalize() for head in ENSEMBLE_HEAD], rows)
    note = paragraph(ENSEMBLE_NOTE)
    return (note + shown if len(rows) <= MOST_ROWS else folded("ensemble", note, shown, len(rows))) + missing
