"""MinHash signatures of texts over runs of words, by which near-duplicates are found.

They are what rensa 0.5 calls R-MinHash, after Fast Similarity Sketching (Dahlgaard, Knudsen & Thorup 2017), value by
value; its interface gives signatures as Python numbers, at ten times the time of all else that a short text takes. With
factors a_j and summands b_j that follow from the seed, all modulo 2^64, and S the output of SplitMix64:

    in round r = 0, 1, 2, hash h has the rank  r 2^30 + (S(h ^ b_0 ^ C ^ r D) >> 34)  and lowers one value to it, which
        the lower half of the same S names
    a value that no hash has then is  3 2^30 + the least of (a_j S(h ^ a_0 ^ E) + b_j) >> 34

The constants are in _minhash.c, with the loops.
"""

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...tokenize.compiled import compiled_part
from ..config import NearDuplicates
from .words import Words, windows

with compiled_part():
    from . import _minhash

U64 = NDArray[np.uint64]


def sign(
    words: Words, near: NearDuplicates | None, out: NDArray[np.uint32] | None = None
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Return the texts' signatures over their word n-grams, uint32 (n_texts, buckets * hashes), and whether each has
    one: a text without n-gram has none, and no text has one when there is no deduplication of near ones.

    Args:
        words: of the texts.
        near: how many values a signature has, over how many words.
        out: where the signatures are written, if not to a new array.
    """
    n_texts = len(words.starts) - 1
    signed = np.zeros(n_texts, np.bool_)
    if near is None:
        return np.zeros((n_texts, 0), np.uint32), signed
    signatures = np.empty((n_texts, near.buckets * near.hashes), np.uint32) if out is None else out
    for window, texts, before in windows(words, near.ngram):
        here = slice(int(texts[0]), int(texts[-1]) + 1)
        has = np.diff(window.starts) >= near.ngram
        if not before:
            minhash(window, near.ngram, signatures.shape[1], near.seed, signatures[here])
            signed[here] = has
        elif has.all():
            more = minhash(window, near.ngram, signatures.shape[1], near.seed)
            np.minimum(signatures[here], more, out=signatures[here])
    return signatures, signed


def minhash(
    words: Words, ngram: int, size: int, seed: int, out: NDArray[np.uint32] | None = None
) -> NDArray[np.uint32]:
    """Return the signatures of some texts over the hashes that `word_ngrams` gives, shape (n, size); zeros for those
    that have none.

    Args:
        words: of the texts.
        ngram: words of a run.
        size: values of a signature.
        seed: draws another signature.
        out: where they are written, if not to a new array.
    """
    signatures = np.empty((len(words.starts) - 1, size), np.uint32) if out is None else out
    starts = words.starts.astype(np.int64)
    _minhash.sign(np.ascontiguousarray(words.hashes), starts, ngram, *_coefficients(size, seed), signatures)
    return signatures


def buckets_of(signatures: NDArray[np.uint32], buckets: int) -> U64:
    """Return the hash of each bucket of some signatures, shape (n, buckets): `mix64` of the sum of its values times the
    powers of 0x9E3779B97F4A7C15, the last value times 1. Buckets that differ have the same with a probability of
    2^-64."""
    values = np.empty((len(signatures), buckets), np.uint64)
    _minhash.fold(np.ascontiguousarray(signatures), values)
    return values


@functools.cache
def _coefficients(size: int, seed: int) -> tuple[U64, U64]:
    """Return the factors, which are odd, and the summands of a seed, uint64 (size,) each."""
    drawn = xoshiro256(seed)
    pairs = [(next(drawn) | 1, next(drawn)) for _ in range(size)]
    factors, summands = np.array(pairs, np.uint64).T.copy()
    return factors, summands


_BITS = 2**64 - 1


def xoshiro256(seed: int) -> Iterator[int]:
    """Yield the 64-bit numbers of xoshiro256++ (Blackman & Vigna 2019), its state drawn from `seed` by SplitMix64."""
    a, b, c, d = (_splitmix64(seed + i * 0x9E3779B97F4A7C15) for i in range(4))
    while True:
        yield (_rotated((a + d) & _BITS, 23) + a) & _BITS
        c, d, shifted = c ^ a, d ^ b, (b << 17) & _BITS
        b, a = b ^ c, a ^ d
        c, d = c ^ shifted, _rotated(d, 45)


def _splitmix64(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & _BITS
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _BITS
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _BITS
    return z ^ z >> 31


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _BITS
