"""Words of many texts at once as 64-bit hashes, and hashes of runs of n words: what near-duplicate detection and
decontamination compare.

A word is a maximal run of letters, digits, marks and underscores in lower case, but what GPT-2 takes for a contraction
ends there ("it's": it, s; "'self'": s, elf). In scripts written without spaces (Han, kana, Thai, Lao, Khmer,
Myanmar) each character is a word. Because words are made of the pieces that text is split into for encoding, both need
only one pass over the characters: a piece's fragment of a word is hashed once for each distinct piece (see
tokenize/piece_table.py), and a word of several fragments ("load", "_", "2", "d") is put together from their hashes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import regex
import xxhash
from numpy.typing import NDArray

from ..shards.keys import mix64
from ..tokenize.piece_table import Gathered, PieceFunction, PieceTable
from ..tokenize.pieces import Pieces, PieceSplitter

U64 = NDArray[np.uint64]

_STEP = np.uint64(0xA0761D6478BD642F)
_SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_MARK = r"[\p{M}--[\uFE00-\uFE0F\u20E3]]"  # variation selectors and the keycap are part of emoji
_FRAGMENT = regex.compile(
    rf"(?V1)[[\p{{L}}\p{{N}}\p{{M}}]&&[{_SPACELESS}]]|[\p{{L}}--[{_SPACELESS}]]+|\p{{N}}+|[[_{_MARK}]--[{_SPACELESS}]]+"
)
_ALONE = regex.compile(rf"[{_SPACELESS}]")


@dataclass(frozen=True)
class Words:
    """Words of a batch of texts. hashes: uint64 per word, all texts in one array; starts: int64 (n_texts + 1,), text
    i's words are hashes[starts[i]:starts[i + 1]]."""

    hashes: U64
    starts: NDArray[np.int64]


@dataclass(frozen=True)
class Analysed:
    """What a batch of texts is made of. ids: per text, None without an encoder."""

    ids: list[NDArray[np.unsignedinteger]] | None
    words: Words


class Analyser:
    """Finds words and, given the function that encodes one piece, token ids of texts in one pass. dtype: of ids."""

    def __init__(self, encode_piece: PieceFunction | None = None, dtype: type[np.unsignedinteger] = np.uint32) -> None:
        self._splitter = PieceSplitter()
        functions: list[tuple[PieceFunction, type[np.unsignedinteger]]] = [(_fragment_codes, np.uint64)]
        if encode_piece:
            functions.append((encode_piece, dtype))
        self._table = PieceTable(functions)
        self._encodes = encode_piece is not None

    def analyse(self, texts: Sequence[str]) -> Analysed:
        """Return the words, and the ids if there is an encoder, of `texts`."""
        words: list[list[NDArray[np.unsignedinteger]]] = [[] for _ in texts]
        ids: list[list[NDArray[np.unsignedinteger]]] = [[] for _ in texts]
        for pieces in self._splitter.split(texts):
            rows = self._table.look_up(pieces)
            _share_out(*_join(self._table.gather(0, rows, pieces)), pieces, words)
            if self._encodes:
                encoded = self._table.gather(1, rows, pieces)
                _share_out(encoded.values, encoded.starts, pieces, ids)
        starts = np.cumsum([0] + [sum(map(len, parts)) for parts in words])
        hashes = np.concatenate([np.zeros(0, np.uint64), *(part for parts in words for part in parts)])
        return Analysed([_joined(parts) for parts in ids] if self._encodes else None, Words(hashes, starts))

    def spell(self, text: str) -> list[str]:
        """Return the words of one text as strings, in order: the same words that `analyse` hashes."""
        words: list[str] = []
        before = 0  # the edges of the last word, if it ends where the next piece begins
        for pieces in self._splitter.split([text]):
            for piece in pieces.spell(np.arange(len(pieces.lengths))):
                fragments = _fragments(piece)
                for fragment, edges in fragments:
                    if before & _LAST and edges & _FIRST:
                        words[-1] += fragment
                    else:
                        words.append(fragment)
                    before = edges
                if not fragments:
                    before = 0
        return words


def split_words(texts: Sequence[str]) -> Words:
    """Return the hashes of all words of `texts`."""
    return Analyser().analyse(texts).words


def windows(words: Words, n: int, size: int = 1 << 20) -> Iterator[tuple[Words, NDArray[np.int64]]]:
    """Yield (words, numbers of the texts that they are of) in windows of about `size` words, so that arrays over
    n-grams stay small. A text that is longer comes alone, in windows that overlap: together they have its n-grams."""
    starts, first = words.starts, 0
    while first < len(starts) - 1:
        last = int(np.searchsorted(starts, starts[first] + size, "right")) - 1
        if last > first:
            inside = Words(words.hashes[starts[first] : starts[last]], starts[first : last + 1] - starts[first])
            yield inside, np.arange(first, last)
        else:
            last = first + 1
            for begin in range(int(starts[first]), int(starts[last]), size):
                part = words.hashes[begin : min(begin + size + n - 1, int(starts[last]))]
                yield Words(part, np.array([0, len(part)])), np.array([first])
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


_FIRST, _LAST = 1, 2
_HASH = ~np.uint64(3)


def _fragments(piece: bytes) -> list[tuple[str, int]]:
    """Return the fragments of words in a piece, in lower case, and whether they may be part of the same word as what
    is before (_FIRST) and after (_LAST) the piece."""
    text = piece.decode().lower()
    word = text.lstrip(" ")
    if word.isascii():  # the rule below, without an expression: nearly all pieces of most texts
        if word.isalnum():
            return [(word, _LAST | _FIRST * (len(word) == len(text)))]
        if word[:1] == "'" and word[1:].isalpha():
            return [(word[1:], 0)]
        if "_" not in word:
            return []
    found = []
    for match in _FRAGMENT.finditer(text):
        joins = not _ALONE.match(match.group())
        found.append((match.group(), joins * (_FIRST * (match.start() == 0) | _LAST * (match.end() == len(text)))))
    return found


def _fragment_codes(piece: bytes) -> list[int]:
    """Return for each fragment a hash of 62 bits and, in the lowest two, its edges."""
    return [xxhash.xxh64_intdigest(fragment) & ~3 | edges for fragment, edges in _fragments(piece)]


def _join(found: Gathered) -> tuple[U64, NDArray[np.int64]]:
    """Return (a hash for each word, put together from its fragments' codes; where each text's begin)."""
    edges = found.values.astype(np.uint8)
    values = found.values & _HASH
    piece = np.repeat(np.arange(len(found.counts)), found.counts)
    begins = np.ones(len(piece), np.bool_)
    begins[1:] = ((edges[:-1] & _LAST) == 0) | ((edges[1:] & _FIRST) == 0) | (np.diff(piece) != 1)
    starts = np.flatnonzero(begins)
    if len(starts) == len(piece):
        return values, found.starts
    word = np.cumsum(begins) - 1
    place = np.arange(len(piece)) - starts[word]
    powers = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(place.max(), _STEP)]))
    return np.add.reduceat(values * powers[place], starts), np.append(word, len(starts))[found.starts]


def _share_out(
    values: NDArray[np.unsignedinteger],
    starts: NDArray[np.int64],
    pieces: Pieces,
    parts: list[list[NDArray[np.unsignedinteger]]],
) -> None:
    """Give each text its values of a group, in order."""
    bounds = starts.tolist()
    for i, number in enumerate(pieces.texts):
        parts[number].append(values[bounds[i] : bounds[i + 1]])


def _joined(parts: Iterable[NDArray[np.unsignedinteger]]) -> NDArray[np.unsignedinteger]:
    whole = list(parts)
    return whole[0] if len(whole) == 1 else np.concatenate([np.zeros(0, np.uint8), *whole])
