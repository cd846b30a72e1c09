"""Pieces (pre-tokens): what texts are cut into before they are encoded, and what is known of each distinct one.

    '(?:[sdmt]|ll|ve|re)\\p{L}*| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

This is GPT-2's pre-tokenization but for one thing: GPT-2 cuts after 's, 'd and so on, even inside a quoted word that
begins like that at the start of a line ('self'). A piece holds the whole word; its ids are those of the two parts.

Text repeats its pieces: 12 MB of Python have 3 million, 49 thousand of them distinct. So the ids and the word fragments
of a piece are worked out once, those of many pieces together, and looked up by its bytes from then on, in `_pieces.c`,
which also does the cutting. The class of a character comes from the reference, the byte-level pre-tokenizer of Hugging
Face `tokenizers`, so that it cannot be of another Unicode version.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled_part
from .merging import PieceEncoder

with compiled_part():
    from . import _pieces

PieceCodes = Callable[[list[bytes]], tuple[Any, Any]]
"""Given the UTF-8 of some pieces: how many fragments of words each has, a buffer of uint32, and a code for each
fragment, one of uint64: a hash in the upper 62 bits, its edges in the two lowest."""

LIMIT = 1 << 20
"""Distinct pieces remembered, at some 100 bytes each; beyond, a piece is worked out anew for every megabyte."""

SPLIT_AT_ONCE = 1 << 16

FIRST, LAST = _pieces.FIRST, _pieces.LAST
"""The two lowest bits of a fragment's code: whether it may be one word with what is before, or after, its piece."""


class PieceTable:
    """Cuts texts into pieces and gathers what is known of them; it learns with each text.

    Attributes:
        piece_codes: what finds the fragments of words in pieces; those of one word are put together.
        encode_pieces: what encodes them; None: no ids are gathered.
        end: id behind each text.
        dtype: of ids.
    """

    def __init__(
        self,
        piece_codes: PieceCodes,
        encode_pieces: PieceEncoder | None = None,
        end: int = 0,
        dtype: type[np.unsignedinteger] = np.uint32,
    ) -> None:
        from tokenizers import pre_tokenizers

        self._reference = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        self._codes, self._encode, self._dtype = piece_codes, encode_pieces, dtype
        self._pieces = _pieces.Pieces(np.dtype(dtype).itemsize, end if encode_pieces else -1, LIMIT)

    def gather(
        self, texts: Sequence[str]
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
        """Return (ids, their starts, words, their starts) of all `texts`, each in one array.

        Text i has ids[starts[i]:starts[i + 1]], the id behind it included, and words, uint64 hashes, likewise; starts
        are int64 (n_texts + 1,).
        """
        ids, id_ends, words, word_ends = self._pieces.gather(list(texts), self._class_of, self._resolve)
        return np.frombuffer(ids, self._dtype), _starts(id_ends), np.frombuffer(words, np.uint64), _starts(word_ends)

    def split(self, text: str) -> Iterator[bytes]:
        """Yield the UTF-8 of the pieces of one text."""
        start = 0
        while pieces := self._pieces.split(text, start, SPLIT_AT_ONCE, self._class_of):
            yield from pieces
            start += sum(map(len, pieces))

    def _resolve(self, pieces: list[bytes]) -> tuple[Any, Any, Any, Any]:
        """Return the ids and codes of new pieces: how many ids each has, uint32; the ids, uint32; how many codes each
        has, uint32; the codes, uint64."""
        ids = self._encode(pieces) if self._encode else (np.zeros(len(pieces), np.uint32), b"")
        return *ids, *self._codes(pieces)

    def _class_of(self, point: int) -> int:
        """Return the class of a character: it joins its like on both sides into one piece."""
        if point == 0x20:
            return _pieces.BLANK
        for beside, kind in (("a", _pieces.LETTER), ("1", _pieces.DIGIT), ("!", _pieces.OTHER)):
            if len(self._reference.pre_tokenize_str(f"{beside}{chr(point)}{beside}")) == 1:
                return kind
        return _pieces.SPACE


def _starts(ends: bytearray) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.frombuffer(ends, np.int64)])
