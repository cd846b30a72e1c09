"""What a document is, apart from where it came from: its normalised text and the key that is a hash of it.

text  -> NFC, line ends as \\n, no white space at either end
key   =  BLAKE2b-128(UTF-8 of the normalised text)
"""

import hashlib
import unicodedata


def normalise(text: str) -> str:
    """Return `text` in NFC, with `\\n` line ends, stripped of white space at both ends."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return text.strip()


def content_key(normalised: str) -> bytes:
    """Return the 16-byte key of a normalised text."""
    return hashlib.blake2b(normalised.encode(), digest_size=16).digest()
