"""The part of a pool's report that shows some text: of documents that stay, of what each filter took away, and of
near-duplicates beside the documents that were kept for them. Excerpts only, and few; everything is escaped."""

from collections.abc import Iterable

from ..common.html import Html, count, fold, paragraph
from ..common.html import code as _code
from ..common.html import text as _text
from .text.excerpts import Excerpts, Passage

STYLE = """
figure { margin: .9rem 0; min-width: 0; }
figcaption { font-size: .85rem; color: var(--quiet); overflow-wrap: anywhere; }
figcaption b { font-weight: 650; color: var(--ink); }
blockquote {
  margin: .3rem 0 0; padding: .5rem .8rem; border-left: 3px solid var(--stays); background: var(--track);
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .9rem;
}
.goes blockquote { border-left-color: var(--goes); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.2rem; }
@media (max-width: 40rem) {
  .pair { grid-template-columns: 1fr; }
  .pair figure + figure { margin-top: 0; }
}
@media print { figure { break-inside: avoid; } }
"""

TAB = 4


def some_text(excerpts: Excerpts) -> str:
    """Return the section of the report that shows `excerpts`."""
    parts: list[str] = [
        paragraph("Excerpts of a few documents, chosen by key: the same in every build of these inputs.")
    ]
    shown, others = excerpts.kept[:1], excerpts.kept[1:]
    parts += [_figure(passage, "in the pool", "stays") for passage in shown]
    parts.append(_group(f"{count(len(others), 'more document')} of the pool", others, "stays"))
    for name, passages in excerpts.filtered.items():
        parts.append(_group(f"Taken away by {name}: {count(len(passages), 'document')}", passages, "goes"))
    if excerpts.near:
        note = paragraph("From a little before the place where the two begin to differ.", "note")
        title = f"Near-duplicates: {count(len(excerpts.near), 'pair')}"
        parts.append(fold(title, note + "".join(_pair(*pair) for pair in excerpts.near)))
    return "".join(parts)


def _group(title: str, passages: Iterable[Passage], kind: str) -> str:
    figures = "".join(_figure(passage, passage.reason, kind) for passage in passages)
    return fold(_text(title), figures) if figures else ""


def _pair(removed: Passage, kept: Passage, similarity: float) -> str:
    both = _figure(removed, f"removed, {similarity:.2f} alike", "goes") + _figure(kept, "kept", "stays")
    return f'<div class="pair">{both}</div>\n'


def _figure(passage: Passage, said: str, kind: str) -> Html:
    source = f" {_text(passage.source)}" + (f", <b>{_text(said)}</b>" if said else "")
    caption = f"<figcaption>{_code(passage.id)}{source}</figcaption>"
    return Html(
        f'<figure class="{kind}">{caption}<blockquote dir="auto">{_lines(passage.text)}</blockquote></figure>\n'
    )


def _lines(words: str) -> Html:
    """Return text with its line ends; whatever else does not show is escaped."""
    lines = words.replace("\r\n", "\n").split("\n")
    return Html("\n".join(_text(line.expandtabs(TAB), len(line) * TAB + 1) for line in lines))
