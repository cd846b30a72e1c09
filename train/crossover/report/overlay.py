"""All budgets in one chart, as in the paper's Figure A: a line for each number of unique tokens and type of model.

Four pictures of the same lines lie in the page, over tokens or passes, evenly or logarithmically; switches that need no
script choose which is seen.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....common.html import Html, text
from ....common.units import format_count
from . import charts
from .charts import LEFT, WIDTH, Axes, Frame, Point, label, picture

BUDGET_COLOURS = 8
"""Classes `b0`, `b1`, ... of the page's style."""

KEYS_PER_LINE = 5
KEY_LINE = 15
KEYS_TOP = 50
MOST_DOTS = 30
"""Evaluations of a line up to which each has a mark; more of them would run into one another."""

FIELD = 250
"""Height of what lies below the keys."""


@dataclass(frozen=True)
class Line:
    """The mean curve of one type of model on one number of unique tokens.

    Attributes:
        name: for people, with the kind of its loss.
        objective: `ar` or `mdm`.
        budget: its place among the budgets of the chart.
        points: (tokens, value), tokens increasing.
    """

    name: str
    objective: str
    budget: int
    unique_tokens: int
    points: Sequence[Point]

    @property
    def kind(self) -> str:
        """Return the class that its colour follows from."""
        return f"b{self.budget % BUDGET_COLOURS}"


@dataclass(frozen=True)
class Overlay:
    """A chart of all budgets.

    Attributes:
        name: of the files that it is saved as.
        types: what the strokes stand for: (objective, words).
        crossings: (place among the budgets, tokens) at which MDM overtakes for good.
    """

    name: str
    title: str
    y_label: str
    lines: Sequence[Line]
    types: Sequence[tuple[str, str]]
    crossings: Sequence[tuple[int, float]] = ()
    percent: bool = False


def figure(overlay: Overlay, number: int) -> Html:
    """Return the chart with its switches.

    Args:
        number: of the chart on its page.
    """
    data = {
        "percent": overlay.percent,
        "lines": [
            [line.name, line.kind, line.unique_tokens, [[x, _short(y)] for x, y in line.points]]
            for line in overlay.lines
        ],
    }
    written = json.dumps(data, separators=(",", ":"))
    pictures = "".join(_picture(overlay, passes, log) for passes in (False, True) for log in (False, True))
    return Html(
        f'<figure class="overlay" data-name="{text(overlay.name)}" data-lines="{text(written, len(written))}">\n'
        f"{pictures}\n"
        f'<div class="switches">{_switch(number, "Across:", ("tokens", "passes"))}'
        f"{_switch(number, 'Scale:', ('linear', 'log'))}</div>\n</figure>\n"
    )


def _short(y: float) -> float:
    return float(f"{y:.6g}")


def _switch(number: int, what: str, values: Sequence[str]) -> str:
    name = f"o{number}-{values[0]}"
    choices = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{"" if i else " checked"}>{value}</label>'
        for i, value in enumerate(values)
    )
    return f"<span>{what}{choices}</span>"


def _picture(overlay: Overlay, passes: bool, log: bool) -> Html:
    """Return the lines over tokens or passes."""
    placed = [[(x / (line.unique_tokens if passes else 1), y) for x, y in line.points] for line in overlay.lines]
    points = [p for own in placed for p in own]
    axes = Axes(
        title=overlay.title,
        x_label="passes over the data" if passes else "tokens trained on",
        y_label=overlay.y_label,
        logarithmic=log,
        upright_logarithmic=log and not overlay.percent and min(y for _, y in points) > 0,
        percent=overlay.percent,
        counts=not passes,
    )
    keys = _keys(overlay)
    top = KEYS_TOP + KEY_LINE * len(keys)
    place = charts.frame(axes, points, top, top + FIELD)
    parts = [*place.parts(), *(part for row in keys for part in row)]
    for line, own in zip(overlay.lines, placed, strict=True):
        parts += _drawn(line, [(place.across(x), place.down(y)) for x, y in own])
    parts += _crossings(overlay, place, passes)
    return picture(place, parts, f"panel {'by-passes' if passes else 'by-tokens'} {'logarithmic' if log else 'linear'}")


def _drawn(line: Line, placed: Sequence[Point]) -> list[str]:
    kind = f"{line.kind} {line.objective}"
    points = " ".join(f"{x:g},{y:g}" for x, y in placed)
    dots = "".join(f"M{x:g},{y:g}h0" for x, y in placed) if len(placed) <= MOST_DOTS else ""
    marks = [f'<path class="{kind}" d="{dots}"/>'] if dots else []
    return [f'<polyline class="{kind}" points="{points}"/>', *marks]


def _crossings(overlay: Overlay, place: Frame, passes: bool) -> list[str]:
    rings = []
    for budget, tokens in overlay.crossings:
        line = next(own for own in overlay.lines if (own.budget, own.objective) == (budget, "mdm"))
        y = float(np.interp(tokens, [p[0] for p in line.points], [p[1] for p in line.points]))
        x = tokens / line.unique_tokens if passes else tokens
        rings.append(f'<circle cx="{place.across(x):g}" cy="{place.down(y):g}" r="5.5"/>')
    return rings


def _keys(overlay: Overlay) -> list[list[str]]:
    """Return the rows of keys: colours of budgets, then strokes of types and the ring of a crossover."""
    budgets = sorted({(line.budget, line.unique_tokens, line.kind) for line in overlay.lines})
    rows: list[list[str]] = []
    for start in range(0, len(budgets), KEYS_PER_LINE):
        y = KEYS_TOP + KEY_LINE * len(rows)
        room = (WIDTH - LEFT) / KEYS_PER_LINE
        row = [
            part
            for i, (_, n, kind) in enumerate(budgets[start : start + KEYS_PER_LINE])
            for part in _key(LEFT + i * room, y, kind, format_count(n))
        ]
        rows.append(row)
    for objective, words in overlay.types:
        rows.append(_key(LEFT, KEYS_TOP + KEY_LINE * len(rows), objective, words))
    if overlay.crossings:
        y = KEYS_TOP + KEY_LINE * len(rows)
        ring = f'<circle cx="{LEFT + 9}" cy="{y - 4}" r="4.5"/>'
        rows.append([ring, label(LEFT + 24, y, "where MDM overtakes for good", "start", "key")])
    return rows


def _key(x: float, y: float, kind: str, words: str) -> list[str]:
    stroke = f'<line class="key {kind}" x1="{x:g}" x2="{x + 18:g}" y1="{y - 4:g}" y2="{y - 4:g}"/>'
    return [stroke, label(x + 24, y, words, "start", "key")]
