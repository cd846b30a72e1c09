"""The compiled inner loops of merging.py."""

from typing import Any

class Merger:
    """of_byte: uint32 (256,), the id of each byte. merges: uint32 (n, 3), in order, the ids of left, right and both."""

    def __init__(self, of_byte: Any, merges: Any) -> None: ...
    def encode(self, pieces: list[bytes]) -> tuple[bytearray, bytearray]:
        """Return how many ids each piece has, uint32, and the ids, uint32."""
