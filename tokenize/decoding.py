"""From ids back to text, told apart from ids that are no text."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from .engines import _mergeable_ranks
from .tokenizer import Tokenizer

Decoder = Callable[[NDArray[Any]], str | None]


def decoder(tokenizer: Tokenizer) -> Decoder:
    """Return a function from ids (n,) to their text, or None where they are no whole UTF-8.

    Byte-level BPE is decoded byte by byte, so that encoding a text and decoding it gives the text itself. For others
    the tokenizer's own decoder is used, which cannot bring back what its normaliser changed (spaces, capitals).
    """
    ranks = _mergeable_ranks(tokenizer.spec)
    if ranks is None:
        return lambda ids: tokenizer.decode(ids.tolist())
    table = {id_: token for token, id_ in ranks.items()}
    table |= {t["id"]: t["content"].encode() for t in tokenizer.spec.get("added_tokens") or []}

    def decode(ids: NDArray[Any]) -> str | None:
        try:
            return b"".join([table.get(i, b"") for i in ids.tolist()]).decode()
        except UnicodeDecodeError:
            return None

    return decode
