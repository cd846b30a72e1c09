"""Panels of curves as inline SVG: what Figure A shows, with a mark at every evaluation.

Colours are the page's own variables, so that a panel is light or dark with it. Every value is in the SVG as text that
appears on pointing at a mark; the page's script adds a line through all curves at one evaluation.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ...common.html import Html, text
from ...common.units import round_count

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
    """

    title: str
    x_label: str
    y_label: str
    x_per: float = 1.0
    upper_label: str = ""
    x_span: Point | None = None
    y_span: Point | None = None
    logarithmic: bool = False
    percent: bool = False


def panel(axes: Axes, series: Sequence[Series], mark: Mark | None = None) -> Html:
    """Return one panel. Points out of reach (not finite) are left out of it."""
    series = [s for s in series if s.points]
    x_low, x_high = _span([p[0] for s in series for p in s.points], axes.x_span)
    y_low, y_high = _span([p[1] for s in series for p in s.points], axes.y_span)
    y_ticks = ticks(y_low, y_high)
    y_low, y_high = min(y_low, y_ticks[0]), max(y_high, y_ticks[-1])
    if not axes.logarithmic:
        x_low = min(0.0, x_low)

    def across(x: float) -> float:
        share = math.log(x / x_low) / math.log(x_high / x_low) if axes.logarithmic else (x - x_low) / (x_high - x_low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - BOTTOM - TOP), 1)

    parts = [_label(LEFT, 15, axes.title, "start", "title")]
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y)}" y2="{down(y)}"/>')
        parts.append(_label(LEFT - 6, down(y) + 4, _number(y, axes.percent), "end"))
    lower = _powers(x_low, x_high) if axes.logarithmic else ticks(x_low / axes.x_per, x_high / axes.x_per)
    for x in lower:
        parts.append(_label(across(x * axes.x_per), HEIGHT - BOTTOM + 16, f"{x:g}", "middle"))
    parts.append(_label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, axes.x_label, "middle"))
    if axes.upper_label:
        for x in ticks(x_low, x_high)[1:]:
            parts.append(_label(across(x), TOP - 8, _tick_count(x), "middle"))
        parts.append(_label(LEFT, TOP - 8, axes.upper_label, "start"))
    parts.append(_label(LEFT, 33, axes.y_label, "start"))
    if mark:
        parts += _mark(mark, across, x_low, x_high)
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
    label = text(f"{axes.title}: {axes.y_label}")
    return Html(
        f'<svg class="panel" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}"{hover}>'
        + "".join(parts)
        + "</svg>"
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
    parts.append(_label(x + (-5 if end else 5), TOP + 12, mark.label, "end" if end else "start", "marked"))
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


def _span(values: Sequence[float], least: Point | None) -> Point:
    spread = [*values, *(least or ())]
    low, high = (min(spread), max(spread)) if spread else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _tick_count(x: float) -> str:
    short = round_count(x)
    head, tail = (short[:-1], short[-1]) if short[-1].isalpha() else (short, "")
    return f"{float(head):g}{tail}"


def _number(y: float, percent: bool) -> str:
    return f"{100 * y:.0f} %" if percent else f"{y:g}"


def _value(y: float, percent: bool) -> str:
    return f"{100 * y:.1f} %" if percent else f"{y:.3f}"


def _label(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{css}>{text(words)}</text>'


STYLE = """
:root { --ar: #b5622a; --mdm: #2f6299; --b0: #8c510a; --b1: #35978f; --b2: #7b4fa3; --b3: #4d7d2a; --b4: #a03050; }
@media (prefers-color-scheme: dark) {
  :root { --ar: #e0955c; --mdm: #7fb2e5; --b0: #d8a35a; --b1: #6cc4bb; --b2: #b896dc; --b3: #98c872; --b4: #e08098; }
}
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1.2rem 1.5rem; }
.panels figure { margin: 0; break-inside: avoid; }
svg.panel { display: block; width: 100%; height: auto; overflow: visible; touch-action: pan-y; }
.panel text { fill: var(--quiet); font-size: 12px; font-variant-numeric: tabular-nums; }
.panel text.title { fill: var(--ink); font-size: 14px; font-weight: 650; }
.panel text.marked { fill: var(--ink); }
.panel .grid { stroke: var(--line); }
.panel .mark { stroke: var(--ink); stroke-dasharray: 3 3; }
.panel .interval { fill: var(--ink); opacity: .1; }
.panel polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.panel polyline.faint { stroke-width: 1; opacity: .45; }
.panel polyline.dashed { stroke-width: 1.5; stroke-dasharray: 5 3; }
.panel .cursor { stroke: var(--quiet); stroke-width: 1; }
.ar { stroke: var(--ar); } .mdm { stroke: var(--mdm); }
circle.ar { fill: var(--ar); } circle.mdm { fill: var(--mdm); }
.b0 { stroke: var(--b0); } .b1 { stroke: var(--b1); } .b2 { stroke: var(--b2); } .b3 { stroke: var(--b3); }
.b4 { stroke: var(--b4); }
circle.b0 { fill: var(--b0); } circle.b1 { fill: var(--b1); } circle.b2 { fill: var(--b2); }
circle.b3 { fill: var(--b3); } circle.b4 { fill: var(--b4); }
.panel circle { stroke: none; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .4rem 0 .8rem; font-size: .9rem; }
.legend svg { width: 1.6rem; height: .7rem; vertical-align: -.05rem; margin-right: .35rem; }
.legend line { stroke-width: 2.5; }
#tip {
  position: absolute; display: none; padding: .3rem .6rem; background: var(--paper); border: 1px solid var(--line);
  border-radius: 4px; font-size: .85rem; font-variant-numeric: tabular-nums; pointer-events: none; white-space: nowrap;
}
@media print {
  :root { --ar: #b5622a; --mdm: #2f6299; --b0: #8c510a; --b1: #35978f; --b2: #7b4fa3; --b3: #4d7d2a; --b4: #a03050; }
  .panels { grid-template-columns: 1fr 1fr; }
  .panel * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

SCRIPT = """
(() => {
  const tip = document.body.appendChild(Object.assign(document.createElement('div'), {id: 'tip'}));
  const show = (y, percent) => percent ? (100 * y).toFixed(1) + ' %' : y.toFixed(3);
  for (const svg of document.querySelectorAll('svg[data-hover]')) {
    const data = JSON.parse(svg.dataset.hover);
    const line = svg.appendChild(document.createElementNS(svg.namespaceURI, 'line'));
    line.setAttribute('class', 'cursor');
    const hide = () => { tip.style.display = 'none'; line.setAttribute('visibility', 'hidden'); };
    hide();
    svg.addEventListener('pointerleave', hide);
    const move = (event) => {
      const box = svg.getBoundingClientRect();
      const at = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
      const near = (points) => points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
      const hits = data.series.map(([name, kind, points]) => [name, kind, near(points)]);
      const x = hits.reduce((a, b) => Math.abs(b[2][0] - at) < Math.abs(a[2][0] - at) ? b : a)[2];
      for (const [k, v] of Object.entries({x1: x[0], x2: x[0], y1: TOP, y2: BASE})) line.setAttribute(k, v);
      line.setAttribute('visibility', 'visible');
      const rows = [`${Number((x[2] / data.per).toPrecision(3))} ${data.x}`];
      for (const [name, , p] of hits) if (Math.abs(p[0] - x[0]) < 4) rows.push(`${name}: ${show(p[3], data.percent)}`);
      tip.replaceChildren(...rows.map((row) => Object.assign(document.createElement('div'), {textContent: row})));
      tip.style.display = 'block';
      const room = document.documentElement.clientWidth - tip.offsetWidth - 4;
      tip.style.left = `${window.scrollX + Math.max(0, Math.min(event.clientX + 14, room))}px`;
      tip.style.top = `${window.scrollY + event.clientY - tip.offsetHeight - 12}px`;
    };
    svg.addEventListener('pointermove', move);
    svg.addEventListener('pointerdown', move);
  }
})();
""".replace("TOP", str(TOP)).replace("BASE", str(HEIGHT - BOTTOM))


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
