"""A keyed permutation of {0, ..., n - 1} that needs no table: a Feistel network with cycle walking.

A number x is cut into right = the lowest r bits of x and left = the rest, with b = max(1, bits of n - 1) and
r = max(1, ceil(b / 2), b - 16). So left lies below A = ceil(n / 2**r), which is at most 2**16. Each round reads one
half, hashes it with the round's key (a, b) to a 32-bit t, and changes the other half by t:

    t = (half + a) * b;  t ^= t >> 15;  t *= MULTIPLIER          (all mod 2**32; b is odd)
    even rounds read right:  left = (left + floor(t * A / 2**32)) mod A
    odd rounds read left:    right = right xor (t >> (32 - r))

Whatever the hash, every round can be undone, so the network permutes the A * 2**r numbers. A result that is not below
n is sent through again until it is (cycle walking). As fewer than 2**r numbers lie outside, that is rare: about one
in sqrt(n).

Rounds: a random function would need four (Luby and Rackoff). This hash is a cheap one and small halves mix slowly:
counting the joint images of two inputs over 400,000 keys, eight rounds fail a chi-square test up to n = 23 and twelve
up to n = 8. Twelve are used, and 32 below n = 1024. The tests hold both against Fisher-Yates.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...common.hashing import derive_key

MULTIPLIER = 0x846CA68B
MAX_SIZE = 2**48

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

_BLOCK = 1 << 16
"""Numbers per pass of the rounds: work arrays of 256 kB, small enough for the caches, long enough for numpy (measured:
16, 35, 39 and 43 million ids/s with 2**12, 2**14, 2**15 and 2**16)."""

_WINDOW = 1 << 20
"""Numbers whose walks are finished together, so that the last few turns cost little per number."""


def rounds(n: int) -> int:
    """Return how many rounds permute n numbers."""
    return 12 if n >= 1024 else 32


class Permutation:
    """The permutation of {0, ..., n - 1} with a key of 8 * rounds(n) bytes. Immutable; nothing in it grows with n.

    Attributes:
        n: 1 to 2**48.
        key: for each round the pair (a, b) of little-endian 32-bit words; b's lowest bit is set here.
    """

    def __init__(self, n: int, key: bytes) -> None:
        if not 1 <= n <= MAX_SIZE:
            raise ValueError(f"a permutation has 1 to 2**48 elements, got {n}")
        if len(key) != 8 * rounds(n):
            raise ValueError(f"the key of {n} elements has {8 * rounds(n)} bytes, got {len(key)}")
        bits = max(1, (n - 1).bit_length())
        self.n = n
        self._right_bits = max(1, (bits + 1) // 2, bits - 16)
        self._lefts = -(-n >> self._right_bits)
        words = np.frombuffer(key, "<u4").astype(np.uint32).reshape(-1, 2)
        self._keys = [(a, b | np.uint32(1)) for a, b in words]

    def forward(self, x: U64) -> U64:
        """Return the image of each number of `x`: both of shape (k,), uint64, below n (not checked)."""
        return self._walk(x, forward=True)

    def inverse(self, y: U64) -> U64:
        """Return the number whose image is `y`: both of shape (k,), uint64, below n (not checked)."""
        return self._walk(y, forward=False)

    def _walk(self, x: U64, forward: bool) -> U64:
        out = np.empty(len(x), np.uint64)
        work = _Work(min(len(x), _BLOCK))
        whole = self.n == self._lefts << self._right_bits
        for start in range(0, len(x), _WINDOW):
            window = out[start : start + _WINDOW]
            self._turn(x[start : start + _WINDOW], window, forward, work)
            outside = np.flatnonzero(window >= self.n) if not whole else ()
            while len(outside):
                again = window[outside]
                self._turn(again, again, forward, work)
                window[outside] = again
                outside = outside[again >= self.n]
        return out

    def _turn(self, x: U64, out: U64, forward: bool, work: "_Work") -> None:
        """Send all of `x` through the rounds once, block by block, into `out` (which may be `x`)."""
        right_bits = np.uint64(self._right_bits)
        mask = np.uint64((1 << self._right_bits) - 1)
        for start in range(0, len(x), _BLOCK):
            stop = min(start + _BLOCK, len(x))
            left, right, t, u, wide = work.first(stop - start)
            np.right_shift(x[start:stop], right_bits, out=wide)
            np.copyto(left, wide, casting="unsafe")
            np.bitwise_and(x[start:stop], mask, out=wide)
            np.copyto(right, wide, casting="unsafe")
            self._rounds(left, right, t, u, forward)
            np.copyto(wide, left)
            np.left_shift(wide, right_bits, out=wide)
            np.bitwise_or(wide, right, out=out[start:stop])

    def _rounds(self, left: U32, right: U32, t: U32, u: U32, forward: bool) -> None:
        """Run all rounds in place on one block; `t` and `u` are scratch of its length."""
        lefts, shift = np.uint32(self._lefts), np.uint32(32 - self._right_bits)
        for i in range(len(self._keys)) if forward else reversed(range(len(self._keys))):
            _hash(right if i % 2 == 0 else left, self._keys[i], t, u)
            if i % 2:
                np.right_shift(t, shift, out=t)
                np.bitwise_xor(right, t, out=right)
                continue
            _scale(t, lefts, u)
            # Below lefts or not: without the one subtraction that is right, unsigned numbers wrap and are the larger.
            if forward:
                np.add(left, t, out=left)
                np.subtract(left, lefts, out=t)
            else:
                np.subtract(left, t, out=left)
                np.add(left, lefts, out=t)
            np.minimum(left, t, out=left)


def _hash(half: U32, key: tuple[np.uint32, np.uint32], t: U32, u: U32) -> None:
    """Write the keyed 32-bit hash of `half` into `t`."""
    np.add(half, key[0], out=t)
    np.multiply(t, key[1], out=t)
    np.right_shift(t, np.uint32(15), out=u)
    np.bitwise_xor(t, u, out=t)
    np.multiply(t, np.uint32(MULTIPLIER), out=t)


def _scale(t: U32, size: np.uint32, u: U32) -> None:
    """Replace `t` by floor(t * size / 2**32), in 32-bit arithmetic, exact because size is at most 2**16."""
    np.bitwise_and(t, np.uint32(0xFFFF), out=u)
    np.multiply(u, size, out=u)
    np.right_shift(u, np.uint32(16), out=u)
    np.right_shift(t, np.uint32(16), out=t)
    np.multiply(t, size, out=t)
    np.add(t, u, out=t)
    np.right_shift(t, np.uint32(16), out=t)


class _Work:
    """Scratch arrays of one call, so that threads can share a Permutation."""

    def __init__(self, size: int) -> None:
        self._narrow = np.empty((4, size), np.uint32)
        self._wide = np.empty(size, np.uint64)

    def first(self, n: int) -> tuple[U32, U32, U32, U32, U64]:
        left, right, t, u = self._narrow[:, :n]
        return left, right, t, u, self._wide[:n]


@lru_cache(maxsize=64)
def keyed_permutation(n: int, purpose: str, seed: int, number: int) -> Permutation:
    """Return the permutation of n numbers whose key is derived from (purpose, seed, number)."""
    return Permutation(n, derive_key(purpose, seed, number, 8 * rounds(n)))


_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def inverse_many(sizes: ArrayLike, seeds: Sequence[int], numbers: ArrayLike, ids: ArrayLike) -> NDArray[np.int64]:
    """Return where sample ids[i] comes in pass numbers[i] of an order of sizes[i] samples with seeds[i].

    All of length k; the result is int64 of shape (k,). It equals, element by element, the inverse of
    `keyed_permutation(size, "order/pass", seed, number)`. `Permutation.inverse` is made for many samples of one order;
    here the rounds of all orders run together, some 300 array operations whatever their number. The definition of the
    rounds is in docs/repetition.md.
    """
    n, passes, wanted = np.array(sizes, np.uint64), np.array(numbers, np.int64), np.array(ids, np.uint64)
    out = np.zeros(len(n), np.int64)
    for many in (12, 32):
        chosen = np.flatnonzero((n < 1024) == (many == 32))
        if len(chosen):
            own = [seeds[i] for i in chosen.tolist()]
            keys = _keys(own, passes[chosen].tolist(), many, rounds(int(n[chosen[0]])))
            out[chosen] = _walk_many(n[chosen], keys, wanted[chosen], _turn).astype(np.int64)
    return out


def forward_many(orders: Sequence[tuple[int, int, int]], of: NDArray[np.int64], places: U64) -> U64:
    """Return the sample at each place of an order, for many orders at once; see `inverse_many`.

    Args:
        orders: (samples, seed, pass) of each.
        of: int64 (k,), the number of an order.
        places: uint64 (k,), each below the samples of its order (not checked).

    Returns:
        uint64 of shape (k,): `keyed_permutation(samples, "order/pass", seed, pass).forward` of each place.
    """
    n = np.array([size for size, _, _ in orders], np.uint64)
    out = np.empty(len(places), np.uint64)
    for many in (12, 32):
        chosen = np.flatnonzero((n < 1024) == (many == 32))
        where = np.flatnonzero(np.isin(of, chosen))
        if len(where):
            _, seeds, numbers = zip(*(orders[i] for i in chosen.tolist()), strict=True)
            keys = _keys(list(seeds), list(numbers), many, rounds(int(n[chosen[0]])))
            row = np.searchsorted(chosen, of[where])
            out[where] = _walk_many(n[of[where]], keys[row], places[where], _turn_forward)
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


def _walk_many(n: U64, keys: U64, y: U64, turn: Callable[[U64, U64, U64, U64], U64]) -> U64:
    bits = np.maximum(1, np.frexp((n - np.uint64(1)).astype(np.float64))[1])  # exact: n is at most 2**48
    right_bits = np.maximum(np.maximum(1, -(-bits // 2)), bits - 16).astype(np.uint64)
    lefts = (n + (np.uint64(1) << right_bits) - np.uint64(1)) >> right_bits
    out, left_over = y.copy(), np.arange(len(y))
    while len(left_over):
        at = left_over
        out[at] = turn(out[at], keys[at], right_bits[at], lefts[at])
        left_over = at[out[at] >= n[at]]
    return out


def _turn(x: U64, keys: U64, right_bits: U64, lefts: U64) -> U64:
    """Run all rounds backwards once."""
    left, right = x >> right_bits, x & ((np.uint64(1) << right_bits) - np.uint64(1))
    for i in reversed(range(keys.shape[1])):
        t = _hash_many(left if i % 2 else right, keys[:, i])
        if i % 2:
            right = right ^ (t >> (_HALF - right_bits))
        else:
            left = (left + lefts - ((t * lefts) >> _HALF)) % lefts
    return (left << right_bits) | right


def _turn_forward(x: U64, keys: U64, right_bits: U64, lefts: U64) -> U64:
    """Run all rounds once."""
    left, right = x >> right_bits, x & ((np.uint64(1) << right_bits) - np.uint64(1))
    for i in range(keys.shape[1]):
        t = _hash_many(left if i % 2 else right, keys[:, i])
        if i % 2:
            right = right ^ (t >> (_HALF - right_bits))
        else:
            left = (left + ((t * lefts) >> _HALF)) % lefts
    return (left << right_bits) | right


def _hash_many(half: U64, key: U64) -> U64:
    t = (((half + key[:, 0]) & _LOW) * key[:, 1]) & _LOW
    return ((t ^ (t >> np.uint64(15))) * np.uint64(MULTIPLIER)) & _LOW
