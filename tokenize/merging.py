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

    vocab = spec["model"]["vocab"]
    of_byte = [vocab[char] for _, char in sorted(byte_to_char().items())]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in spec["model"]["merges"])
    merges = [(vocab[left], vocab[right], vocab[left + right]) for left, right in pairs]
    return _merge.Merger(np.array(of_byte, np.uint32), np.array(merges, np.uint32).reshape(-1, 3)).encode
