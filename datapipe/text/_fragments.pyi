"""The compiled inner loops of the word fragments of pieces."""

from collections.abc import Callable, Sequence

NOTHING: int
STRANGE: int
CLASS_BITS: int

class Fragments:
    def __init__(self) -> None: ...
    def codes(
        self,
        pieces: list[bytes],
        describe: Callable[[int], int],
        spelled: Callable[[bytes], Sequence[int]],
    ) -> tuple[bytearray, bytearray]:
        """Return how many codes each piece has, uint32, and the codes, uint64.

        describe: the class of a character, and above its CLASS_BITS the lower case of it. spelled: the codes of a piece
        in which a character is STRANGE.
        """
