"""The compiled inner loops of pieces.py."""

from collections.abc import Callable, Sequence
from typing import Any

LETTER: int
DIGIT: int
OTHER: int
SPACE: int
BLANK: int
FIRST: int
LAST: int

class Pieces:
    """id_bytes: 2 or 4, of the ids that come out. end: the id behind each text, -1: none. limit: rows remembered."""

    def __init__(self, id_bytes: int, end: int, limit: int) -> None: ...
    def gather(
        self,
        texts: list[str],
        class_of: Callable[[int], int],
        resolve: Callable[[list[bytes]], Sequence[Any]],
    ) -> tuple[bytearray, bytearray, bytearray, bytearray]:
        """Return (ids, where each text's end, hashes of words, where each text's end).

        class_of: the class of a character. resolve: the ids and codes of new pieces, in four arrays: uint32 counts and
        values of ids, uint32 counts and uint64 values of codes.
        """

    def split(self, text: str, start: int, most: int, class_of: Callable[[int], int]) -> list[bytes]:
        """Return up to `most` pieces of a text, the first from byte `start` of its UTF-8 on, where a piece begins."""

    def kept(self) -> int:
        """Return how many distinct pieces are remembered."""
