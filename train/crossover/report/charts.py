"""Panels of curves as inline SVG: what Figure A shows, with a mark at every evaluation.

Colours are the page's own variables, so that a panel is light or dark with it. Every value is in the SVG as text that
appears on pointing at a mark; the page's script adds a line through all curves at one evaluation.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ....common.html import Html, text
from ....common.units import round_count

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 300, 52, 12, 56, 40

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
        name: for people.
        kind: a class (`ar`, `mdm`, `b0`...).
        points: (x, y), x increasing.
        faint: one of several replicates, drawn thin and without marks.
        dashed: a law instead of measurements.
        line: joined up.
    """

    name: str
    kind: str
    points: Sequence[Point]
    faint: bool = False
    dashed: bool = False
    line: bool = True


@dataclass(frozen=True)
class Mark:
    """A vertical line at x with a label, and a band from low to high where there is an interval."""

    x: float
    label: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Axes:
    """What a panel's axes say.

    Attributes:
        x_per: the lower axis in units of so many x (passes).
        upper_label: x itself, above.
        x_span: what the panel shows at least.
        y_span: what the panel shows at least.
        logarithmic: across.
        upright_logarithmic: upright.
        counts: numbers across are counts, written as 20k.
    """

    title: str
    x_label: str
    y_label: str
    x_per: float = 1.0
    upper_label: str = ""
    x_span: Point | None = None
    y_span: Point | None = None
    logarithmic: bool = False
    upright_logarithmic: bool = False
    counts: bool = False
    percent: bool = False


@dataclass(frozen=True)
class Frame:
    """Where the values of a chart stand on its picture.

    Attributes:
        x: lowest and highest value across.
        y: lowest and highest value upright.
        top: of the field that curves are drawn in.
        height: of the picture.
    """

    axes: Axes
    x: Point
    y: Point
    top: int = TOP
    height: int = HEIGHT

    @property
    def base(self) -> int:
        """Return the place of the lower axis."""
        return self.height - BOTTOM

    def across(self, x: float) -> float:
        """Return the place of a value across."""
        return round(LEFT + _share(x, self.x, self.axes.logarithmic) * (WIDTH - LEFT - RIGHT), 1)

    def down(self, y: float) -> float:
        """Return the place of a value upright."""
        return round(self.base - _share(y, self.y, self.axes.upright_logarithmic) * (self.base - self.top), 1)

    def parts(self) -> list[str]:
        """Return the grid, the axes and their labels."""
        axes, parts = self.axes, [label(LEFT, 15, self.axes.title, "start", "title")]
        for y in _upright_ticks(self.y, axes.upright_logarithmic):
            at = self.down(y)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
            parts.append(label(LEFT - 6, at + 4, _number(y, axes.percent), "end"))
        low, high = (x / axes.x_per for x in self.x)
        for x in _powers(low, high) if axes.logarithmic else ticks(low, high):
            words = _tick_count(x) if axes.counts else f"{x:g}"
            parts.append(label(self.across(x * axes.x_per), self.base + 16, words, "middle"))
        parts.append(label((LEFT + WIDTH - RIGHT) / 2, self.height - 6, axes.x_label, "middle"))
        if axes.upper_label:
            for x in ticks(*self.x)[1:]:
                parts.append(label(self.across(x), self.top - 8, _tick_count(x), "middle"))
            parts.append(label(LEFT, self.top - 8, axes.upper_label, "start"))
        parts.append(label(LEFT, 33, axes.y_label, "start"))
        return parts


def frame(axes: Axes, points: Sequence[Point], top: int = TOP, height: int = HEIGHT) -> Frame:
    """Return the frame that holds all `points`, and what the axes ask for."""
    x = _span([p[0] for p in points], axes.x_span, axes.logarithmic)
    y = _span([p[1] for p in points], axes.y_span, axes.upright_logarithmic)
    if not axes.upright_logarithmic:
        on = ticks(*y)
        y = min(y[0], on[0]), max(y[1], on[-1])
    return Frame(axes, x if axes.logarithmic else (min(0.0, x[0]), x[1]), y, top, height)


def _share(value: float, span: Point, logarithmic: bool) -> float:
    low, high = span
    return math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)


def _upright_ticks(span: Point, logarithmic: bool) -> list[float]:
    """Return round numbers; within a span of less than a decade they are evenly spread, on a logarithmic axis too."""
    if not logarithmic:
        return ticks(*span)
    even = ticks(*span, 8)
    powers = _powers(*span)
    return powers if len(powers) > 3 else [y for y in even if span[0] <= y <= span[1]]


def panel(axes: Axes, series: Sequence[Series], mark: Mark | None = None) -> Html:
    """Return one panel. Points out of reach (not finite) are left out of it."""
    series = [s for s in series if s.points]
    place = frame(axes, [p for s in series for p in s.points])
    across, down, parts = place.across, place.down, place.parts()
    if mark:
        parts += _mark(mark, across, *place.x)
    for s in sorted(series, key=lambda s: not s.faint):
        parts += _series(s, axes, [(across(x), down(y)) for x, y in s.points])
    shown = [s for s in series if not s.faint and not s.dashed and s.line]
    data = json.dumps(
        {
            "x": axes.x_label,
            "per": axes.x_per,
            "series": [[s.name, s.kind, [[across(x), down(y), x, y] for x, y in s.points]] for s in shown],
            "percent": axes.percent,
        },
        separators=(",", ":"),
    )
    hover = f' data-hover="{text(data, len(data))}"' if shown else ""
    return picture(place, parts, "panel", hover)


def picture(place: Frame, parts: Sequence[str], kind: str, attributes: str = "") -> Html:
    """Return an SVG of `parts` with a name for those who do not see it."""
    name = text(f"{place.axes.title}: {place.axes.y_label}")
    return Html(
        f'<svg class="{kind}" viewBox="0 0 {WIDTH} {place.height}" role="img" aria-label="{name}" '
        f'data-top="{place.top}" data-base="{place.base}"{attributes}>' + "".join(parts) + "</svg>"
    )


def _series(s: Series, axes: Axes, placed: Sequence[Point]) -> list[str]:
    kinds = " ".join([s.kind, *(["faint"] if s.faint else []), *(["dashed"] if s.dashed else [])])
    parts = []
    if s.line and len(placed) > 1:
        path = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(f'<polyline class="{kinds}" points="{path}"/>')
    if s.faint or s.dashed:
        return parts
    for (x, y), (px, py) in zip(s.points, placed, strict=True):
        tip = f"{s.name}, {x / axes.x_per:.3g} {axes.x_label}: {_value(y, axes.percent)}"
        parts.append(f'<circle class="{kinds}" cx="{px}" cy="{py}" r="2.4"><title>{text(tip)}</title></circle>')
    return parts


def _mark(mark: Mark, across: Callable[[float], float], x_low: float, x_high: float) -> list[str]:
    parts = []
    if mark.low is not None and mark.high is not None:
        low, high = across(max(mark.low, x_low)), across(min(mark.high, x_high))
        parts.append(
            f'<rect class="interval" x="{low}" y="{TOP}" width="{max(1.0, round(high - low, 1))}" '
            f'height="{HEIGHT - BOTTOM - TOP}"/>'
        )
    x = across(mark.x)
    parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    end = x > WIDTH * 0.62
    parts.append(label(x + (-5 if end else 5), TOP + 12, mark.label, "end" if end else "start", "marked"))
    return parts


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers, about so many, that span [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    inner = [round(i * step, 12) for i in range(first, last + 1)]
    return [x for x in inner if low - step * 0.51 <= x <= high + step * 0.51]


def _powers(low: float, high: float) -> list[float]:
    """Return 1, 2, 5 times powers of ten within [low, high], not more than six."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**e for e in decades for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    return found if len(found) <= 6 else [x for x in found if math.log10(x).is_integer()]


def _span(values: Sequence[float], least: Point | None, logarithmic: bool = False) -> Point:
    spread = [*values, *(least or ())]
    low, high = (min(spread), max(spread)) if spread else (0.0, 1.0)
    if high > low:
        return low, high
    return (low / 2, low * 2) if logarithmic else (low - 0.5, high + 0.5)


def _tick_count(x: float) -> str:
    short = round_count(x)
    head, tail = (short[:-1], short[-1]) if short[-1].isalpha() else (short, "")
    return f"{float(head):g}{tail}"


def _number(y: float, percent: bool) -> str:
    return f"{100 * y:.0f} %" if percent else f"{y:g}"


def _value(y: float, percent: bool) -> str:
    return f"{100 * y:.1f} %" if percent else f"{y:.3f}"


def label(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    """Return text on a picture."""
    css = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{css}>{text(words)}</text>'


def legend(entries: Sequence[tuple[str, str, str]]) -> Html:
    """Return a legend of (class, name, dash): what each colour and stroke is."""
    items = "".join(
        f'<span><svg viewBox="0 0 26 10" aria-hidden="true"><line class="{kind}" x1="0" x2="26" y1="5" y2="5"'
        f"{f' stroke-dasharray={chr(34)}{dash}{chr(34)}' if dash else ''}/></svg>{text(name)}</span>"
        for kind, name, dash in entries
    )
    return Html(f'<p class="legend">{items}</p>\n')


def figures(panels: Sequence[Html]) -> Html:
    """Return panels side by side, as many as fit."""
    return Html('<div class="panels">\n' + "".join(f"<figure>{p}</figure>\n" for p in panels) + "</div>\n")


def saved(name: str, chart: Html) -> Html:
    """Return a chart that the page's script lets people save, under `name`."""
    return Html(
        f'<figure class="overlay chart" data-name="{text(name)}">\n{chart}\n<div class="switches"></div></figure>\n'
    )


Polyline = list[tuple[float, float]]


_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 640, 400, 64, 40, 52


_COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce")


def line_plot(curves: dict[str, Polyline], title: str, x_label: str, y_label: str) -> str:
    """Return an SVG of `curves`: a line with a dot at every measured point, a title, axes and a legend."""
    points = [p for curve in curves.values() for p in curve]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    x_span, y_span = x_high - x_low or 1.0, y_high - y_low or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / x_span * (_WIDTH - _LEFT - 20)
        down = _HEIGHT - _BOTTOM - (y - y_low) / y_span * (_HEIGHT - _BOTTOM - _TOP - 16)
        return round(across, 1), round(down, 1)

    parts = [
        _plain_label(_WIDTH / 2, 22, title, "middle", 15),
        _plain_label(_WIDTH / 2, _HEIGHT - 12, x_label, "middle"),
    ]
    parts.append(f'<g transform="rotate(-90 16 {_HEIGHT / 2})">{_plain_label(16, _HEIGHT / 2, y_label, "middle")}</g>')
    for i in range(5):
        x, y = x_low + x_span * i / 4, y_low + y_span * i / 4
        across, down = place(x, y)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{down}" y2="{down}" stroke="#8884"/>')
        parts += [
            _plain_label(_LEFT - 8, down + 4, f"{y:.2f}", "end"),
            _plain_label(across, _HEIGHT - 32, f"{x:.1f}", "middle"),
        ]
    for i, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        placed = [place(x, y) for x, y in curve]
        line = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (px, py) in zip(curve, placed, strict=True):
            tip = f"<title>{escape(name)} at {x:.2f}: {y:.4f}</title>"
            parts.append(f'<circle cx="{px}" cy="{py}" r="3.5" fill="{colour}">{tip}</circle>')
        parts.append(f'<rect x="{_LEFT + 10}" y="{_TOP + 18 * i}" width="12" height="12" fill="{colour}"/>')
        parts.append(_plain_label(_LEFT + 28, _TOP + 11 + 18 * i, name, "start"))
    style = "<style>text{fill:#222}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">'
    return head + style + "".join(parts) + "</svg>\n"


def _plain_label(x: float, y: float, text: str, anchor: str, size: int = 12) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
