"""Places of single samples in many orders at once: what a look-up over hundreds of runs costs.

`Permutation.inverse` is made for many samples of one order. Here every element has an order of its own, and the
rounds of all of them run together: some 300 array operations whatever their number.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..common.hashing import derive_key
from ..shards.order.permutation import MULTIPLIER, rounds

U64 = NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def places(sizes: Sequence[int], seeds: Sequence[int], numbers: Sequence[int], ids: Sequence[int]) -> NDArray[np.int64]:
    """Return where sample ids[i] comes in pass numbers[i] of an order of sizes[i] samples with seeds[i].

    All of length k; the result is int64 of shape (k,). It equals, element by element, the inverse of
    `keyed_permutation(size, "order/pass", seed, number)`. The definition of the rounds is in docs/repetition.md.
    """
    n = np.array(sizes, np.uint64)
    out = np.zeros(len(n), np.int64)
    for many in (12, 32):
        chosen = np.flatnonzero((n < 1024) == (many == 32))
        if len(chosen):
            keys = _keys([seeds[i] for i in chosen], [numbers[i] for i in chosen], many, rounds(int(n[chosen[0]])))
            y = np.array([ids[i] for i in chosen], np.uint64)
            out[chosen] = _inverse(n[chosen], keys, y).astype(np.int64)
    return out


def _keys(seeds: list[int], numbers: list[int], many: int, expected: int) -> U64:
    """Return the round keys (k, many, 2)."""
    assert many == expected, "the number of rounds follows from the size alone"
    joined = b"".join(_key(seed, number, 8 * many) for seed, number in zip(seeds, numbers, strict=True))
    keys = np.frombuffer(joined, "<u4").astype(np.uint64).reshape(len(seeds), many, 2)
    keys[:, :, 1] |= np.uint64(1)
    return keys


@lru_cache(maxsize=1 << 15)
def _key(seed: int, number: int, n_bytes: int) -> bytes:
    return derive_key("order/pass", seed, number, n_bytes)


def _inverse(n: U64, keys: U64, y: U64) -> U64:
    bits = np.maximum(1, np.frexp((n - np.uint64(1)).astype(np.float64))[1])  # exact: n is at most 2**48
    right_bits = np.maximum(np.maximum(1, -(-bits // 2)), bits - 16).astype(np.uint64)
    lefts = (n + (np.uint64(1) << right_bits) - np.uint64(1)) >> right_bits
    out, left_over = y.copy(), np.arange(len(y))
    while len(left_over):
        at = left_over
        out[at] = _turn(out[at], keys[at], right_bits[at], lefts[at])
        left_over = at[out[at] >= n[at]]
    return out


def _turn(x: U64, keys: U64, right_bits: U64, lefts: U64) -> U64:
    """Run all rounds backwards once."""
    left, right = x >> right_bits, x & ((np.uint64(1) << right_bits) - np.uint64(1))
    for i in reversed(range(keys.shape[1])):
        t = (left if i % 2 else right) + keys[:, i, 0]
        t = ((t & _LOW) * keys[:, i, 1]) & _LOW
        t = ((t ^ (t >> np.uint64(15))) * np.uint64(MULTIPLIER)) & _LOW
        if i % 2:
            right = right ^ (t >> (_HALF - right_bits))
        else:
            left = (left + lefts - ((t * lefts) >> _HALF)) % lefts
    return (left << right_bits) | right
