"""The compiled inner loop of gather.py."""

from typing import Any

def gather(data: Any, starts: Any, lengths: Any, width: int) -> bytes:
    """Return pieces of `data` one after the other.

    data: elements of `width` bytes. starts, lengths: int64 (n,), in elements; piece i begins at starts[i].
    ValueError: when one is not within the data.
    """
