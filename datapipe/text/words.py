"""Words of many texts at once as 64-bit hashes, and hashes of runs of n words: what near-duplicate detection and
decontamination compare.

A word is a maximal run of letters, digits, marks and underscores in lower case. In scripts written without spaces (Han,
kana, Thai, Lao, Khmer, Myanmar) each character is a word. Words are made of the pieces that text is split into for
encoding, so that one pass over the characters serves both: a piece's word fragments are hashed once for each distinct
piece (see tokenize/pieces.py; by XXH64 of a fragment's UTF-8, in `_fragments.c`), and the hash of a word of several
("load", "_", "2", "d") is computed from theirs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import regex
import xxhash
from numpy.typing import NDArray

from ...common.hashing import mix64
from ...tokenize.compiled import compiled_part
from ...tokenize.merging import PieceEncoder
from ...tokenize.pieces import FIRST, LAST, PieceTable

with compiled_part():
    from . import _fragments

U64 = NDArray[np.uint64]

_STEP = np.uint64(0xA0761D6478BD642F)  # of n-grams of words, and in _pieces.c of words of fragments
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_MARK = r"[\p{M}--[\uFE00-\uFE0F\u20E3]]"  # variation selectors and the keycap are part of emoji
_ALONE = rf"[[\p{{L}}\p{{N}}\p{{M}}]&&[{_SPACELESS}]]"  # a word each
_FRAGMENT = regex.compile(
    rf"(?V1)({_ALONE})|([\p{{L}}--[{_SPACELESS}]]+)|([\p{{N}}--[{_SPACELESS}]]+)|([[_{_MARK}]--[{_SPACELESS}]]+)"
)
"""Fragments; the number of the group is the class of their characters, as _fragments.c knows them."""


@dataclass(frozen=True)
class Words:
    """Words of a batch of texts.

    Attributes:
        hashes: uint64 per word, all texts in one array.
        starts: int64 (n_texts + 1,), text i's words are hashes[starts[i]:starts[i + 1]].
    """

    hashes: U64
    starts: NDArray[np.int64]


@dataclass(frozen=True)
class Analysis:
    """What a batch of texts is made of.

    Attributes:
        tokens: ids of all texts, EOD after each, in one array, text i's from starts[i] to starts[i + 1]; none without
            an encoder.
    """

    tokens: NDArray[np.unsignedinteger]
    starts: NDArray[np.int64]
    words: Words


class Analyser:
    """Finds the words of texts and, given what encodes pieces, their token ids, in one pass.

    Attributes:
        eod: the id after each text.
        dtype: of ids.
    """

    def __init__(
        self, encode_pieces: PieceEncoder | None = None, eod: int = 0, dtype: type[np.unsignedinteger] = np.uint32
    ) -> None:
        fragments = _fragments.Fragments()
        self._table = PieceTable(lambda pieces: fragments.codes(pieces, describe, _codes), encode_pieces, eod, dtype)

    def analyse(self, texts: Sequence[str]) -> Analysis:
        """Return the words, and the ids if there is an encoder, of `texts`."""
        tokens, starts, words, word_starts = self._table.gather(texts)
        return Analysis(tokens, starts, Words(words, word_starts))

    def spell(self, text: str) -> Iterator[str]:
        """Yield the words of one text as strings, in order: the same words that `analyse` hashes."""
        word, edges = "", 0  # edges: of its last fragment, if the next piece begins where it ends
        for piece in self._table.split(text):
            fragments = _spelled(piece)
            for fragment, its_edges in fragments:
                if edges & LAST and its_edges & FIRST:
                    word += fragment
                else:
                    if word:
                        yield word
                    word = fragment
                edges = its_edges
            if not fragments:
                edges = 0
        if word:
            yield word


def split_words(texts: Sequence[str]) -> Words:
    """Return the hashes of all words of `texts`."""
    return Analyser().analyse(texts).words


def windows(words: Words, n: int, size: int = 1 << 20) -> Iterator[tuple[Words, NDArray[np.int64], int]]:
    """Yield (words, numbers of the texts that they are of, words of the first text before these) in windows of about
    `size` words, so that arrays over n-grams stay small. A text that is longer comes alone, in windows that overlap:
    together they have its n-grams, each once."""
    starts, first = words.starts, 0
    while first < len(starts) - 1:
        last = int(np.searchsorted(starts, starts[first] + size, "right")) - 1
        if last > first:
            inside = Words(words.hashes[starts[first] : starts[last]], starts[first : last + 1] - starts[first])
            yield inside, np.arange(first, last), 0
        else:
            last, start, end = first + 1, int(starts[first]), int(starts[first + 1])
            for begin in range(start, end, size):
                part = words.hashes[begin : min(begin + size + n - 1, end)]
                yield Words(part, np.array([0, len(part)])), np.array([first]), begin - start
        first = last


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


def _spelled(piece: bytes) -> list[tuple[str, int]]:
    """Return the fragments of words in a piece, in lower case, and whether they may be part of the same word as what
    is before (FIRST) and after (LAST) the piece."""
    text = piece.decode().lower()
    fragments = []
    for match in _FRAGMENT.finditer(text):
        edges = 0 if match.lastindex == 1 else FIRST * (match.start() == 0) | LAST * (match.end() == len(text))
        fragments.append((match[0], edges))
    return fragments


def _codes(piece: bytes) -> list[int]:
    """Return for each fragment a hash of 62 bits and, in the lowest two, its edges."""
    return [xxhash.xxh64_intdigest(fragment) & ~(FIRST | LAST) | edges for fragment, edges in _spelled(piece)]


def describe(point: int) -> int:
    """Return the class of a character in fragments of words and, above its bits, its lower case; STRANGE where that is
    more than one character, or depends on those around it."""
    char = chr(point)
    lower = char.lower()
    if len(lower) > 1 or char == "\N{GREEK CAPITAL LETTER SIGMA}":
        return _fragments.STRANGE
    match = _FRAGMENT.match(lower)
    return (match.lastindex or 0 if match else _fragments.NOTHING) | ord(lower) << _fragments.CLASS_BITS
