"""Decontamination: which documents share n words in a row with an evaluation item.

An item none of whose texts (see evaluation_items.py) has n words cannot be recognised; how many there are is reported.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...common.hashing import items_digest
from .evaluation_items import item_texts, read_items
from .words import U64, Analyser, Words, split_words, windows, word_ngrams

_BITMAP_BITS = 27
"""A table of 2^27 bits answers most look-ups; 16 MiB stay in cache better than the sorted n-grams."""

CONTAMINATED = pa.schema(
    [
        ("key", pa.binary()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("evaluation_file", pa.string()),
        ("item", pa.int64()),
        ("ngram", pa.string()),
    ]
)


@dataclass(frozen=True)
class Hit:
    """Document `document` (its place in the batch) shares `ngram` with row `row` (from 0) of file `file`."""

    document: int
    file: str
    row: int
    ngram: str


@dataclass(frozen=True)
class EvaluationIndex:
    """All n-grams of the evaluation items.

    Attributes:
        ngrams: uint64, sorted.
        items: int32, for each the number of an item that has it (pairs are distinct).
        files: each item's file name, row and JSON.
        rows: each item's file name, row and JSON.
        raw: each item's file name, row and JSON.
        too_short: items that have fewer than n words.
    """

    n: int
    ngrams: U64
    items: NDArray[np.int32]
    files: list[str]
    rows: list[int]
    raw: list[bytes]
    too_short: int

    def file_summary(self) -> list[dict[str, object]]:
        """Return for each file its name, its number of items and their `items_digest`, by which evaluations tell
        clean from unknown."""
        lines: dict[str, list[bytes]] = {}
        for name, line in zip(self.files, self.raw, strict=True):
            lines.setdefault(name, []).append(line)
        return [{"name": n, "items": len(rows), "digest": items_digest(rows)} for n, rows in sorted(lines.items())]

    def to_bytes(self) -> bytes:
        """Return what `from_bytes` reads: NumPy's .npz, without a pickle in it."""
        said = json.dumps([self.n, self.too_short, self.files, self.rows]).encode()
        parts = {"said": said, "raw": b"".join(self.raw)}
        ends = np.cumsum([len(row) for row in self.raw], dtype=np.int64)
        file = io.BytesIO()
        arrays = {name: np.frombuffer(part, np.uint8) for name, part in parts.items()}
        np.savez(file, ngrams=self.ngrams, items=self.items, ends=ends, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "EvaluationIndex":
        """Return the index that `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            n, too_short, files, rows = json.loads(arrays["said"].tobytes())
            raw, ends = arrays["raw"].tobytes(), arrays["ends"].tolist()
            starts = [0, *ends[:-1]] if ends else []
            pieces = [raw[start:end] for start, end in zip(starts, ends, strict=True)]
            return cls(n, arrays["ngrams"], arrays["items"], files, rows, pieces, too_short)

    def bitmap(self) -> NDArray[np.uint8]:
        """Return 2^27 bits: set where an n-gram's top 27 bits fall."""
        bits = np.zeros(1 << _BITMAP_BITS, np.bool_)
        bits[(self.ngrams >> np.uint64(64 - _BITMAP_BITS)).astype(np.int64)] = True
        return np.packbits(bits, bitorder="little")


def build_index(files: Sequence[str], n: int, show: Callable[[str], str] = str) -> EvaluationIndex:
    """Return the index of all items in the JSONL `files` (paths, globs, URLs; plain, gz, zst).

    Args:
        files: see above.
        n: words in a row.
        show: makes a file's name one that may be shown.

    Raises:
        RequestError: for a file that does not exist or a row that is not JSON.
    """
    names, rows, raw = [], [], []
    for name, row, line in read_items(files):
        names.append(show(name))
        rows.append(row)
        raw.append(line)
    texts = [item_texts(line) for line in raw]
    owner = np.repeat(np.arange(len(texts), dtype=np.int32), [len(t) for t in texts])
    hashes, starts = word_ngrams(split_words([text for of_item in texts for text in of_item]), n)
    items = np.repeat(owner, np.diff(starts))
    order = np.lexsort((items, hashes))
    hashes, items = hashes[order], items[order]
    new = np.ones(len(hashes), np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (items[1:] != items[:-1])
    return EvaluationIndex(n, hashes[new], items[new], names, rows, raw, len(raw) - len(np.unique(items)))


class Decontaminator:
    """Finds the documents of a batch that share n words in a row with an item of the index."""

    def __init__(self, index: EvaluationIndex) -> None:
        self._index = index
        self._bitmap = index.bitmap()
        self._analyser = Analyser()

    def find(self, texts: Sequence[str], words: Words) -> list[Hit]:
        """Return a Hit for each (document, item) pair, the first shared n-gram in each, in order of document and item.

        Equal hashes are confirmed by comparing the words themselves.

        Args:
            words: those of `texts`.
        """
        hits: dict[tuple[int, int], Hit] = {}
        for document, shared in self._shared(words):
            ngrams = self._spell(texts[document], list(shared))
            for first, items in shared.items():
                for item in items:
                    if (document, item) not in hits and self._confirmed(ngrams[first], item):
                        file, row = self._index.files[item], self._index.rows[item]
                        hits[document, item] = Hit(document, file, row, " ".join(ngrams[first]))
        return [hits[pair] for pair in sorted(hits)]

    def _shared(self, words: Words) -> list[tuple[int, dict[int, list[int]]]]:
        """Return (document, {number of an n-gram's first word: the items that have its hash}), both in order."""
        shared: dict[int, dict[int, list[int]]] = {}
        for window, texts, before in windows(words, self._index.n):
            hashes, starts = word_ngrams(window, self._index.n)
            slot = (hashes >> np.uint64(64 - _BITMAP_BITS)).astype(np.int64)
            maybe = np.flatnonzero((self._bitmap[slot >> 3] >> (slot & 7).astype(np.uint8)) & 1)
            left = np.searchsorted(self._index.ngrams, hashes[maybe], side="left")
            right = np.searchsorted(self._index.ngrams, hashes[maybe], side="right")
            owner = np.searchsorted(starts, maybe, side="right") - 1
            first = maybe - starts[owner] + before
            for document, at, lo, hi in zip(
                texts[owner].tolist(), first.tolist(), left.tolist(), right.tolist(), strict=True
            ):
                if hi > lo:
                    shared.setdefault(document, {})[at] = self._index.items[lo:hi].tolist()
        return list(shared.items())

    def _spell(self, text: str, firsts: list[int]) -> dict[int, list[str]]:
        """Return the n words of a text from each of `firsts` on."""
        places = {first + k for first in firsts for k in range(self._index.n)}
        words = {i: word for i, word in enumerate(self._analyser.spell(text)) if i in places}
        return {first: [words[first + k] for k in range(self._index.n)] for first in firsts}

    def _confirmed(self, ngram: list[str], item: int) -> bool:
        n = len(ngram)
        for text in item_texts(self._index.raw[item]):
            words = list(self._analyser.spell(text))
            if any(words[i : i + n] == ngram for i in range(len(words) - n + 1)):
                return True
        return False
