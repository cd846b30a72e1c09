"""A line plot as SVG text: no package needed, readable in light and dark."""

from html import escape

Points = list[tuple[float, float]]

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 640, 400, 64, 40, 52
_COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce")


def line_plot(curves: dict[str, Points], title: str, x_label: str, y_label: str) -> str:
    """Return an SVG of `curves`: a line with a dot at every measured point, a title, axes and a legend."""
    points = [p for curve in curves.values() for p in curve]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    x_span, y_span = x_high - x_low or 1.0, y_high - y_low or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + (x - x_low) / x_span * (_WIDTH - _LEFT - 20)
        down = _HEIGHT - _BOTTOM - (y - y_low) / y_span * (_HEIGHT - _BOTTOM - _TOP - 16)
        return round(across, 1), round(down, 1)

    parts = [_text(_WIDTH / 2, 22, title, "middle", 15), _text(_WIDTH / 2, _HEIGHT - 12, x_label, "middle")]
    parts.append(f'<g transform="rotate(-90 16 {_HEIGHT / 2})">{_text(16, _HEIGHT / 2, y_label, "middle")}</g>')
    for i in range(5):
        x, y = x_low + x_span * i / 4, y_low + y_span * i / 4
        across, down = place(x, y)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{down}" y2="{down}" stroke="#8884"/>')
        parts += [_text(_LEFT - 8, down + 4, f"{y:.2f}", "end"), _text(across, _HEIGHT - 32, f"{x:.1f}", "middle")]
    for i, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        placed = [place(x, y) for x, y in curve]
        line = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (px, py) in zip(curve, placed, strict=True):
            tip = f"<title>{escape(name)} at {x:.2f}: {y:.4f}</title>"
            parts.append(f'<circle cx="{px}" cy="{py}" r="3.5" fill="{colour}">{tip}</circle>')
        parts.append(f'<rect x="{_LEFT + 10}" y="{_TOP + 18 * i}" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(_LEFT + 28, _TOP + 11 + 18 * i, name, "start"))
    style = "<style>text{fill:#222}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">'
    return head + style + "".join(parts) + "</svg>\n"


def _text(x: float, y: float, text: str, anchor: str, size: int = 12) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
