"""How reports look: escaped text, tables, and the document around them, so that all pages look alike.

Whatever comes from data passes through `text`: a cell is escaped unless it is `Html`. A page is one file that loads
nothing from elsewhere. It is light or dark as the reader's system is, and readable on a phone and on paper.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class Html(str):
    """Text that is HTML already."""


class Number(Html):
    """HTML that is aligned to the right, as numbers are."""


@dataclass(frozen=True)
class Bar:
    """A cell with a number and a bar from `start` to `start + length`, both as shares of the track."""

    text: str
    start: float
    length: float
    title: str
    kind: str = "stays"


Cell = str | int | Bar
"""Html is shown as it is, other text escaped, integers with separators."""


LONGEST_TEXT = 160
"""Characters of a cell that are shown."""


def table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], kind: str = "") -> Html:
    """Return a table whose first column heads the rows.

    Args:
        kind: its CSS class; on phones `stack` has a line a cell, and `slim` one line a row, for bars of small numbers.
    """
    rows = list(rows)
    numeric = [_is_numeric(cell) for cell in rows[0]] if rows else [False] * len(heads)
    head = "".join(
        f'<th scope="col"{_class("n" if right else "")}>{text(h)}</th>' for h, right in zip(heads, numeric, strict=True)
    )
    body = "".join(f"<tr>{_row(row, heads if kind == 'stack' else None)}</tr>\n" for row in rows)
    return Html(f"<table{_class(kind)}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n")


def _row(row: Sequence[Cell], heads: Sequence[str] | None) -> str:
    """Return the cells of a row; with `heads` each one names its column, for layouts where it stands alone."""
    html_cells = []
    for i, cell in enumerate(row):
        kinds = " ".join(k for k, on in (("n", _is_numeric(cell)), ("b", isinstance(cell, Bar))) if on)
        label = f' data-head="{text(heads[i])}"' if heads and i else ""
        opening, closing = ("td", "td") if i else ('th scope="row"', "th")
        content = _content(cell)
        # Beside its column's name a cell must be one thing: a number and the small words after it would part.
        content = f"<span>{content}</span>" if label and not isinstance(cell, Bar) else content
        html_cells.append(f"<{opening}{_class(kinds)}{label}>{content}</{closing}>")
    return "".join(html_cells)


def _is_numeric(cell: Cell) -> bool:
    return isinstance(cell, int | Bar | Number)


def _content(cell: Cell) -> str:
    if isinstance(cell, Html):
        return cell
    if isinstance(cell, Bar):
        return _bar(cell)
    return f"{cell:,}" if isinstance(cell, int) else text(cell)


def _bar(bar: Bar) -> str:
    # The style sheet gives every bar at least two pixels: one at the very end must stay on its track.
    place = f"left:min({bar.start:.2%},100% - 2px);width:{bar.length:.2%}"
    fill = f'<i style="{place}"></i>' if bar.length else ""
    track = f'<span class="track" aria-hidden="true">{fill}</span>'
    return f'<div class="bar {bar.kind}" title="{text(bar.title)}">{track}<span>{text(bar.text)}</span></div>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def code(words: str, uncut: bool = False) -> Html:
    """Return text set as code."""
    return Html(f"<code>{text(words, len(words) if uncut else LONGEST_TEXT)}</code>")


def paragraph(words: str, kind: str = "") -> Html:
    """Return a paragraph of text.

    Args:
        kind: its CSS class, such as `note`.
    """
    return Html(f"<p{_class(kind)}>{text(words, len(words))}</p>\n")


def definitions(pairs: Iterable[tuple[str, Cell]]) -> Html:
    """Return a list of names and values."""
    return Html(
        "<dl>\n" + "".join(f"<div><dt>{text(k)}</dt><dd>{_content(v)}</dd></div>\n" for k, v in pairs) + "</dl>\n"
    )


def text(words: str, longest: int = LONGEST_TEXT) -> Html:
    """Return text as HTML, cut to `longest` characters; characters that would not show, or would reorder what is beside
    them (control and direction characters), are written as escapes."""
    cut = words if len(words) <= longest else words[: longest - 1] + "…"
    return Html(html.escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)))


def fold(summary: str, inner: str, kind: str = "", opened: bool = False) -> Html:
    """Return `inner` (HTML) beneath a line (HTML) that folds it away and out; on paper it is out."""
    return Html(
        f"<details{_class(kind)}{' open' if opened else ''}>\n<summary>{summary}</summary>\n{inner}</details>\n"
    )


def shown(first: int, total: int) -> Html:
    """Return a note that a table shows only the first rows, or nothing when it shows all."""
    return paragraph(f"The first {first:,} of {total:,}.", "note") if first < total else Html("")


def count(n: int, noun: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def document(
    title: str,
    kind: str,
    name: str,
    lead: Html,
    sections: Sequence[tuple[str, str, str]],
    style: str = "",
    script: str = "",
) -> Html:
    """Return a whole page.

    Args:
        kind: shown above its name.
        lead: shown below.
        sections: (anchor, title, HTML).
        style: for this page, besides `STYLE`; no other script can run in it.
        script: for this page, besides `STYLE`; no other script can run in it.
    """
    nav = "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, heading, _ in sections)
    body = "\n".join(
        f'<section id="{key}" aria-labelledby="{key}-h">\n<h2 id="{key}-h">{heading}</h2>\n{inner}</section>'
        for key, heading, inner in sections
    )
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"; img-src data:; script-src 'sha256-{allowed}'" if script else ""
    tail = f"<script>{script}</script>\n" if script else ""
    return Html(f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'{scripts}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<header>
<p class="kind">{kind}</p>
<h1>{name}</h1>
<p class="lead">{lead}</p>
<nav aria-label="Sections"><ul>{nav}</ul></nav>
</header>
<main>
{body}
</main>
{tail}</body>
</html>
""")


STYLE = """
:root {
  --paper: #fcfcfa; --ink: #1f2328; --quiet: #5c636b; --line: #dcdcd6; --track: #efefea;
  --stays: #3f6d9e; --goes: #c07a4b; --link: #2b5c91;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #17191c; --ink: #e3e4e5; --quiet: #9ba2aa; --line: #33373c; --track: #23262a;
    --stays: #6f9fd2; --goes: #d1925f; --link: #8db8e6;
  }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 58rem;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1, h2, h3, p, ul, dl { margin: 0; }
h1 { font-size: 2.1rem; line-height: 1.2; font-weight: 650; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; font-weight: 650; margin: 3rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; font-weight: 650; margin: 1.6rem 0 .3rem; }
p { max-width: 42rem; margin-bottom: .4rem; }
.kind, .note, .quiet, small, dt, thead th, .unknown { color: var(--quiet); }
.kind, .note, small, thead th { font-size: .85rem; }
.lead { margin-top: .5rem; font-size: 1.1rem; }
a { color: var(--link); text-underline-offset: .15em; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; margin-top: 1rem; list-style: none; }
nav a { display: inline-block; padding: .2rem 0; }
code { font: .88em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code, dd, tbody th { overflow-wrap: anywhere; }
td { overflow-wrap: break-word; }
tbody th:not(.n) { min-width: 8rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: .8rem 1.5rem; }
dl > div:has(code) { grid-column: span 2; }
dt { font-size: .85rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
table { width: 100%; margin: .6rem 0; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
tbody th { font-weight: 400; }
thead th { font-weight: 400; vertical-align: bottom; }
.n { text-align: right; }
td.n, th.n { white-space: nowrap; width: 1%; }
td.b { width: 55%; }
.wide td.b { width: 38%; }
.bar { display: flex; align-items: center; gap: .8rem; justify-content: flex-end; }
.bar > span:last-child { min-width: 6.2rem; }
.track { position: relative; flex: 1; height: .6rem; background: var(--track); border-radius: 2px; overflow: hidden; }
.track i { position: absolute; top: 0; bottom: 0; min-width: 2px; border-radius: 2px; }
.stays i { background: var(--stays); }
.goes i { background: var(--goes); }
.track, .track i { print-color-adjust: exact; -webkit-print-color-adjust: exact; forced-color-adjust: none; }
details { margin: .4rem 0; border-bottom: 1px solid var(--line); }
section > details:last-child { border-bottom: 0; }
summary { padding: .45rem 0; cursor: pointer; overflow-wrap: anywhere; }
summary small { margin-left: .4rem; }
.inner { display: block; padding-left: 1.2rem; }
.versions { columns: 15rem; column-gap: 2rem; padding: 0; list-style: none; font-size: .85rem; }
.versions li { display: flex; justify-content: space-between; gap: 1rem; break-inside: avoid; }
.versions span { color: var(--quiet); font-variant-numeric: tabular-nums; }
@media (max-width: 40rem) {
  body { padding-top: 1.5rem; }
  h2 { margin-top: 2rem; }
  .bar { flex-direction: column-reverse; align-items: stretch; gap: .25rem; }
  .bar > span:last-child { min-width: 0; }
  .track { flex: none; height: .4rem; }
  .slim .bar { flex-direction: row; align-items: center; gap: .5rem; }
  .slim .bar > span:last-child { min-width: 5.2rem; }
  .slim .track { flex: 1; height: .6rem; }
  td.b { width: 42%; }
  .wide td.b { width: 30%; }
  table { font-size: .9rem; }
  th, td { padding-right: .7rem; }
  dl { grid-template-columns: 1fr 1fr; }
  .stack thead { display: none; }
  .stack tr { display: block; padding: .4rem 0; border-bottom: 1px solid var(--line); }
  .stack th, .stack td { display: block; width: auto; padding: .1rem 0; border: 0; text-align: left; }
  .stack th { font-weight: 650; }
  .stack td {
    display: grid; grid-template-columns: 8.6rem 1fr; gap: .7rem; align-items: baseline; white-space: normal;
    overflow-wrap: anywhere;
  }
  .stack td::before { content: attr(data-head); color: var(--quiet); }
}
@media (max-width: 23rem) {
  tbody th:not(.n) { min-width: 6.8rem; }
}
@media (min-width: 40rem) {
  .stack td:has(> span > code) { min-width: 13rem; }
}
@media print {
  @page { margin: 16mm; }
  :root { --paper: #fff; --ink: #000; --quiet: #444; --line: #bbb; --track: #eee; --stays: #3f6d9e; --goes: #c07a4b; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2, h3, p, thead { break-after: avoid; }
  tr, dl > div { break-inside: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
