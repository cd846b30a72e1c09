"""The compiled hashes of document_key.py."""

from typing import Any

def texts(texts: list[str], size: int) -> bytearray:
    """Return BLAKE2b of the UTF-8 of each text, `size` bytes, one after the other.

    UnicodeEncodeError: for a text with a lone surrogate. ValueError: for a size that there is not.
    """

def rows(data: Any, width: int, size: int, key: Any, person: Any) -> bytearray:
    """Return BLAKE2b of each `width` bytes of `data`, keyed and personalised, `size` bytes, one after the other.

    key: at most 64 bytes. person: 16 bytes. ValueError: when they are not, or the data are no rows.
    """
