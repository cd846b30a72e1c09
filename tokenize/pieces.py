"""Pieces: GPT-2's pre-splitting of many texts at once.

    '(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

Whether a piece begins at a character is decided by that character, its neighbours and their classes, so a whole batch
is split with a few array operations per character. What class a character has is asked of the reference, the byte-level
pre-tokenizer of Hugging Face `tokenizers`: no table of ours can be of another Unicode version than its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP_BYTES = 1 << 20
"""Texts split together: large enough to share the cost of a call, small enough for the processor's caches."""

PADDING = 32
"""Zero bytes after the texts of a group, so that whole words can be read from any place in it."""

_END, _LETTER, _DIGIT, _OTHER, _SPACE, _BLANK, _UNKNOWN = 0, 1, 2, 4, 8, 24, 255  # _BLANK: the space character itself


@dataclass(frozen=True)
class Pieces:
    """The pieces of a group of texts. data: their UTF-8, a separator after each text, padded; starts, lengths: int64
    per piece, in bytes of `data`, an empty piece after each text; first: int64 (n_texts + 1,), text i has the pieces
    first[i]:first[i + 1], its empty one included. texts: which of the texts asked for each one is (part of)."""

    data: bytes
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    first: NDArray[np.int64]
    texts: list[int]

    def spell(self, chosen: NDArray[np.int64]) -> list[bytes]:
        """Return the UTF-8 of the chosen pieces."""
        starts = self.starts[chosen]
        spans = zip(starts.tolist(), (starts + self.lengths[chosen]).tolist(), strict=True)
        return [self.data[start:end] for start, end in spans]


class PieceSplitter:
    """Splits texts into pieces; remembers the classes of the characters that it has met."""

    def __init__(self) -> None:
        from tokenizers import pre_tokenizers

        self._reference = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        self._classes = np.full(0x110000, _UNKNOWN, np.uint8)
        self._learn(range(128))
        self._ascii = self._classes[:128].tobytes() + bytes(128)

    def split(self, texts: Sequence[str]) -> Iterator[Pieces]:
        """Yield the pieces of all texts in groups. A long text comes in several parts, in order, over several groups;
        texts of ASCII alone, which are faster to split, come first."""
        for group, ascii_only in _groups(texts):
            strings = [part for _, part in group]
            numbers = [i for i, _ in group]
            yield self._split_ascii(strings, numbers) if ascii_only else self._split_any(strings, numbers)

    def _split_ascii(self, texts: list[str], numbers: list[int]) -> Pieces:
        joined = "\n".join([*texts, ""]).encode()
        ends = np.cumsum([len(text) + 1 for text in texts]) - 1
        classes = np.frombuffer(bytearray(joined.translate(self._ascii)), np.uint8)
        classes[ends] = _END
        starts = np.flatnonzero(_begins(classes, np.frombuffer(joined, np.uint8)))
        return _pieces(joined, starts, ends, numbers)

    def _split_any(self, texts: list[str], numbers: list[int]) -> Pieces:
        joined = "\n".join([*texts, ""])
        ends = np.cumsum([len(text) + 1 for text in texts]) - 1
        points = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
        classes = self._classes[points]
        if (classes == _UNKNOWN).any():
            self._learn(np.unique(points[classes == _UNKNOWN]).tolist())
            classes = self._classes[points]
        classes[ends] = _END
        begins = np.flatnonzero(_begins(classes, points))
        size = np.ones(len(points), np.uint8)
        for limit in (0x80, 0x800, 0x10000):
            size += points >= limit
        place = np.cumsum(size, dtype=np.int64) - size
        return _pieces(joined.encode(), place[begins], place[ends], numbers)

    def _learn(self, points: Sequence[int] | range) -> None:
        for point in points:
            self._classes[point] = _BLANK if point == 0x20 else self._ask(chr(point))

    def _ask(self, char: str) -> int:
        """Return the class of a character: it joins its like on both sides into one piece."""
        for beside, found in (("a", _LETTER), ("1", _DIGIT), ("!", _OTHER)):
            if len(self._reference.pre_tokenize_str(f"{beside}{char}{beside}")) == 1:
                return found
        return _SPACE


def _begins(classes: NDArray[np.uint8], chars: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether a piece begins at each character. Texts end in a character of class _END."""
    space = (classes & _SPACE) != 0
    solid = ~space
    begins = np.empty(len(classes), np.bool_)
    begins[0] = True
    # A letter, digit or other character begins a piece unless one of its like, or a blank that it takes, is before it.
    np.not_equal(classes[1:], classes[:-1], out=begins[1:])
    begins[1:] &= solid[1:]
    begins[1:] &= classes[:-1] != _BLANK
    # White space begins a piece after what is not, and its last character does when something follows in the text.
    begins[1:] |= space[1:] & solid[:-1]
    solid &= classes != _END
    begins[:-1] |= space[:-1] & solid[1:]
    ends = np.flatnonzero(classes == _END)
    begins[ends] = True
    begins[ends[:-1] + 1] = True
    _contractions(begins, chars)
    return begins


def _contractions(begins: NDArray[np.bool_], chars: NDArray[Any]) -> None:
    """Make one piece of an apostrophe that begins a piece and the s, d, m, t, ll, ve or re after it."""
    quotes = np.flatnonzero(chars[:-2] == ord("'"))
    quotes = quotes[begins[quotes]]
    one, two = chars[quotes + 1], chars[quotes + 2]
    short = (one == ord("s")) | (one == ord("d")) | (one == ord("m")) | (one == ord("t"))
    is_long = (one == ord("l")) & (two == ord("l")) | ((one == ord("v")) | (one == ord("r"))) & (two == ord("e"))
    begins[quotes[short | is_long] + 1] = False
    begins[quotes[short] + 2] = True
    begins[quotes[is_long] + 3] = True


def _pieces(joined: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64], numbers: list[int]) -> Pieces:
    lengths = np.diff(starts, append=len(joined))
    separators = np.searchsorted(starts, ends)
    lengths[separators] = 0
    first = np.concatenate([[0], separators + 1])
    return Pieces(joined + bytes(PADDING), starts, lengths, first, numbers)


def _groups(texts: Sequence[str]) -> Iterator[tuple[list[tuple[int, str]], bool]]:
    """Yield ([(number of the text, text or part of it)], whether they are ASCII): groups of about GROUP_BYTES."""
    ascii_only = [text.isascii() for text in texts]
    for wanted in (True, False):
        group: list[tuple[int, str]] = []
        size = 0
        for i, text in enumerate(texts):
            if ascii_only[i] is not wanted:
                continue
            for part in _parts(text):
                if group and size + len(part) > GROUP_BYTES:
                    yield group, wanted
                    group, size = [], 0
                group.append((i, part))
                size += len(part)
        if group:
            yield group, wanted


def _parts(text: str) -> Iterator[str]:
    """Cut a long text where a blank or line end follows something solid: there a piece ends, whatever the pieces."""
    start, window = 0, GROUP_BYTES
    while len(text) - start > window:
        low, cut = start + window // 2, start + window
        while cut > low and not (text[cut] in " \n" and not text[cut - 1].isspace()):
            cut = max(text.rfind(" ", low, cut), text.rfind("\n", low, cut))
        if cut <= low:
            window *= 2
            continue
        yield text[start:cut]
        start, window = cut, GROUP_BYTES
    yield text[start:]
