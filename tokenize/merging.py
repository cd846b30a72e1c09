"""Byte-level BPE of many pieces (pre-tokens, see pieces.py) at once, by the list of merges in a tokenizer.json itself.

The loops are in `_merge.c`: most pieces take a fraction of a microsecond, and one of megabytes, without a place to cut
it, time in proportion to its length.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from .compiled import compiled_part
from .special import Spec, byte_to_char

PieceEncoder = Callable[[list[bytes]], tuple[Any, Any]]
"""Given the UTF-8 of some pieces: how many ids each has, and the ids, each a buffer of uint32."""


def piece_encoder(spec: Spec) -> PieceEncoder:
    """Return what encodes pieces as the reference does, given the description of byte-level BPE that knows all bytes,
    without a dropout, prefix or suffix, and in which a token that is a whole piece is what its merges make."""
    with compiled_part():  # not at the top: whoever only decodes needs none
        from . import _merge

    id_of, merges = spec["model"]["vocab"].__getitem__, spec["model"]["merges"]
    of_byte = [id_of(char) for _, char in sorted(byte_to_char().items())]
    # All parts of all merges as one text, cut apart again: half the time of doing it merge by merge.
    together = " ".join(merge if isinstance(merge, str) else " ".join(merge) for merge in merges)
    parts, made = (
        np.fromiter(map(id_of, tokens), np.uint32, len(tokens))
        for tokens in (together.split(" ") if merges else [], made_by(merges))
    )
    table = np.column_stack([parts.reshape(-1, 2), made])
    return _merge.Merger(np.array(of_byte, np.uint32), table).encode


def made_by(merges: list[Any]) -> list[str]:
    """Return the token that each merge makes: merges are two tokens with a blank between them, or pairs."""
    if set(map(type, merges)) == {str}:
        joined = "\n".join(merges).replace(" ", "").split("\n")
        if len(joined) == len(merges):
            return joined
    return [merge.replace(" ", "") if isinstance(merge, str) else "".join(merge) for merge in merges]
