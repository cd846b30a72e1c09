"""What identifies a text wherever it came from: its normalised form, and the key that is a hash of it.

text  -> NFC, line ends as \\n, no white space at either end
key   =  BLAKE2b-128(UTF-8 of the normalised text)
"""

import hashlib
import unicodedata
from collections.abc import Iterator

BLOCK_CHARS = 1 << 16


def normalise(text: str) -> str:
    """Return `text` in NFC, with `\\n` line ends, stripped of white space at both ends."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = _nfc(text)
    return text.strip()


def _nfc(text: str) -> str:
    """Return `text` in NFC, normalised in blocks that begin at line ends, which combine with nothing. A character that
    its quick check cannot decide makes `unicodedata` decompose everything it is given, at 60 ns a character."""
    if len(text) <= BLOCK_CHARS:
        return unicodedata.normalize("NFC", text)
    if all(unicodedata.normalize("NFC", block) is block for block in _blocks(text)):
        return text
    utf8 = bytearray()  # takes a quarter of the memory of the blocks of a text with a single emoji
    for block in _blocks(text):
        utf8 += unicodedata.normalize("NFC", block).encode()
    return utf8.decode()


def _blocks(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start + BLOCK_CHARS)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end


def content_key(normalised: str) -> bytes:
    """Return the 16-byte key of a normalised text."""
    return text_digest(normalised, 16)


def text_digest(text: str, size: int) -> bytes:
    """Return BLAKE2b of the UTF-8 of `text`, `size` bytes, without holding the UTF-8 of a long one."""
    if len(text) <= BLOCK_CHARS:
        return hashlib.blake2b(text.encode(), digest_size=size).digest()
    hashed = hashlib.blake2b(digest_size=size)
    for start in range(0, len(text), BLOCK_CHARS):
        hashed.update(text[start : start + BLOCK_CHARS].encode())
    return hashed.digest()
