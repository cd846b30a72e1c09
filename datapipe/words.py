"""Words of many texts at once as 64-bit hashes, and hashes of runs of n words: what near-duplicate detection and
decontamination compare.

A word is a maximal run of letters, digits, marks and underscores of the lower-cased text; in scripts written without
spaces (Han, kana, Thai, Lao, Khmer, Myanmar) each character is a word. Everything works on arrays of code points of a
whole batch, so the cost per character is a few array operations and does not depend on the length of texts.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..shards.keys import mix64

U64 = NDArray[np.uint64]

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its powers have inverses modulo 2^64
_BASE_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
_CHAR = np.uint64(0xD6E8FEB86659FD93)
_STEP = np.uint64(0xA0761D6478BD642F)
_PIECE = 1 << 20  # characters looked at together: the arrays of a piece stay within tens of megabytes

_SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True)
class Words:
    """Words of a batch of texts. hashes: uint64 per word, all texts in one array; starts: int64 (n_texts + 1,), text
    i's words are hashes[starts[i]:starts[i + 1]]."""

    hashes: U64
    starts: NDArray[np.int64]


def split_words(texts: Sequence[str]) -> Words:
    """Return the hashes of all words of `texts`."""
    pieces = list(_pieces(texts))
    hashes, counts = [], np.zeros(len(texts), np.int64)
    for first, piece_texts in pieces:
        piece_hashes, piece_counts = _words_of(piece_texts)
        hashes.append(piece_hashes)
        np.add.at(counts, np.arange(first, first + len(piece_texts)), piece_counts)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Words(np.concatenate(hashes) if hashes else np.zeros(0, np.uint64), starts)


def word_ngrams(words: Words, n: int) -> tuple[U64, NDArray[np.int64]]:
    """Return (hashes of every run of `n` words within a text, starts (n_texts + 1,)) for all texts.

    A text of fewer than n words has none. The run that begins at word w of text i is at starts[i] + w.
    """
    counts = np.maximum(np.diff(words.starts) - n + 1, 0)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    h = words.hashes
    if len(h) < n:
        return np.zeros(0, np.uint64), starts
    size = len(h) - n + 1
    rolled = h[:size].copy()
    for k in range(1, n):
        rolled *= _STEP
        rolled += h[k : k + size]
    inside = np.zeros(len(h) + 1, np.int32)
    has = counts > 0
    np.add.at(inside, words.starts[:-1][has], 1)
    np.add.at(inside, (words.starts[:-1] + counts)[has], -1)
    return mix64(rolled[np.cumsum(inside[:size]) > 0]), starts


def words_as_text(text: str) -> list[str]:
    """Return the words of one text as strings, in order: the same words that `split_words` hashes."""
    points = _code_points([text])
    starts, ends = _spans(_classes()[points])
    lowered = text.lower()
    return [lowered[s:e] for s, e in zip(starts.tolist(), ends.tolist(), strict=True)]


def _pieces(texts: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Group consecutive texts into pieces of about `_PIECE` characters; a longer text is cut at a line end or space.

    Returns [(index of the first text, texts)]; a text cut into parts is a piece of its own for each part.
    """
    pieces: list[tuple[int, list[str]]] = []
    group: list[str] = []
    size = 0
    for i, text in enumerate(texts):
        if size + len(text) > _PIECE and group:
            pieces.append((i - len(group), group))
            group, size = [], 0
        if len(text) > _PIECE:
            pieces += [(i, [part]) for part in _parts(text)]
            continue
        group.append(text)
        size += len(text)
        if i + 1 < len(texts) and len(texts[i + 1]) > _PIECE:
            pieces.append((i + 1 - len(group), group))
            group, size = [], 0
    if group:
        pieces.append((len(texts) - len(group), group))
    return pieces


def _parts(text: str) -> list[str]:
    """Cut a long text into parts of at most about `_PIECE` characters, never within a word that is shorter."""
    parts, start = [], 0
    while len(text) - start > _PIECE:
        window = text[start : start + _PIECE]
        cut = max(window.rfind("\n"), window.rfind(" ")) + 1
        parts.append(text[start : start + (cut or _PIECE)])
        start += cut or _PIECE
    return [*parts, text[start:]]


def _words_of(texts: list[str]) -> tuple[U64, NDArray[np.int64]]:
    """Return (word hashes of all texts, words per text)."""
    points = _code_points(texts)
    starts, ends = _spans(_classes()[points])
    values = (points.astype(np.uint64) + np.uint64(1)) * _CHAR * _powers(len(points))
    prefix = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
    hashes = mix64((prefix[ends] - prefix[starts]) * _powers(len(points), inverse=True)[starts])
    limits = np.cumsum([len(t.lower()) + 1 for t in texts])
    counts = np.diff(np.searchsorted(starts, limits), prepend=0)
    return hashes, counts.astype(np.int64)


def _code_points(texts: list[str]) -> NDArray[np.uint32]:
    """Return the code points of the lower-cased texts, a line end after each."""
    joined = "\n".join([text.lower() for text in texts]) + "\n"
    return np.frombuffer(joined.encode("utf-32-le"), np.uint32)


def _spans(classes: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (starts, ends) of the words in an array of character classes, whose last one is no word character."""
    run = classes == 1
    single = classes == 2
    before = np.concatenate([[False], run[:-1]])
    starts = np.flatnonzero((run & ~before) | single)
    after = np.concatenate([run[1:], [False]])
    ends = np.flatnonzero((run & ~after) | single) + 1
    return starts, ends


@cache
def _classes() -> NDArray[np.uint8]:
    """Return the class of every code point: 0 no word character, 1 part of a word, 2 a word by itself."""
    table = np.zeros(0x110000, np.uint8)
    for first, last in ((0, 0x3FFFF), (0xE0000, 0xE0FFF)):  # elsewhere no character is assigned, or privately
        chars = map(chr, range(first, last + 1))
        classed = (c.isalnum() or c == "_" or unicodedata.category(c)[0] == "M" for c in chars)
        table[first : last + 1] = np.fromiter(classed, np.uint8)
    for first, last in _SPACELESS:
        part = table[first : last + 1]
        part[part == 1] = 2
    return table


_power_tables: dict[bool, U64] = {}


def _powers(n: int, inverse: bool = False) -> U64:
    """Return the first `n` powers of the base (or of its inverse) modulo 2^64."""
    table = _power_tables.get(inverse)
    if table is None or len(table) < n:
        factors = np.full(max(n, _PIECE + 4096), _BASE_INVERSE if inverse else _BASE, np.uint64)
        factors[0] = 1
        table = _power_tables[inverse] = np.cumprod(factors, dtype=np.uint64)
    return table[:n]
