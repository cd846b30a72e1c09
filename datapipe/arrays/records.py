"""Copies of records. Numpy copies them field by field where they are indexed or joined as they are; by their bytes it
takes a fifth or a tenth of the time, which `take` and `compress` of an array do by themselves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def joined(pieces: Sequence[NDArray[Any]], dtype: Any = None) -> NDArray[Any]:
    """Return some arrays of one type as one, without a copy where there is just one.

    Args:
        pieces: at least one, if no type is given.
        dtype: of the array, where there may be no piece.
    """
    if len(pieces) == 1:
        return pieces[0]
    kind = np.dtype(pieces[0].dtype if dtype is None else dtype)
    plain = np.dtype((np.void, kind.itemsize)) if kind.names else kind
    return np.concatenate([np.zeros(0, plain), *(piece.view(plain) for piece in pieces)]).view(kind)
