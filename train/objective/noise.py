"""Random numbers that are a pure function of (seed, purpose, position, place): the noise of masked diffusion.

Position p is the sample's place in the run's order, so its noise is the same on any ranks, micro-batches and workers
and after any resumption. All arithmetic is modulo 2^64:

    mix(z)      = SplitMix64's output function (Steele, Lea & Flood 2014)
    key         = first 8 bytes, little-endian, of BLAKE2b-64 of the text "epochal/noise/1/{purpose}/{seed}"
    row(p)      = mix(key + (p + 1) * G),            G = 0x9E3779B97F4A7C15
    bits(p, j)  = mix(row(p) + (j + 1) * G)
    uniform     = (bits >> 11) * 2^-53               in [0, 1)

So each row is a SplitMix64 stream that starts from a hash of its position. docs/training.md has test vectors.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from ...common.hashing import mix64

_GAMMA = np.uint64(0x9E3779B97F4A7C15)

Bits = NDArray[np.uint64]
Uniform = NDArray[np.float64]
Positions = NDArray[np.int64]


def key(seed: int, purpose: str) -> np.uint64:
    """Return the 64-bit key of one purpose of one seed."""
    text = f"epochal/noise/1/{purpose}/{seed}".encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def row_bits(seed: int, purpose: str, positions: Positions) -> Bits:
    """Return one 64-bit word per position, shape of `positions`."""
    return mix64(key(seed, purpose) + (positions.astype(np.uint64) + np.uint64(1)) * _GAMMA)


def token_bits(seed: int, purpose: str, positions: Positions, length: int) -> Bits:
    """Return one 64-bit word per token, shape (len(positions), length)."""
    place = (np.arange(1, length + 1, dtype=np.uint64) * _GAMMA)[None, :]
    return mix64(row_bits(seed, purpose, positions)[:, None] + place)


def to_uniform(bits: Bits) -> Uniform:
    """Return `bits` as float64 in [0, 1), steps of 2^-53."""
    return (bits >> np.uint64(11)) * 2.0**-53


def uniform_levels(seed: int, positions: Positions) -> Uniform:
    """Return u(p) in [0, 1), independent for every position."""
    return to_uniform(row_bits(seed, "level", positions))


def stratified_levels(seed: int, positions: Positions, group: int) -> Uniform:
    """Return u(p) in [0, 1), spread evenly over each group of `group` consecutive positions.

    u(p) = frac(v(p // group) + (p % group) / group) with v uniform: every u is uniform by itself, and a whole group
    has exactly one in each interval of width 1 / group (shifted by v). With the global batch as the group the
    variance of the loss drops as in Kingma et al. 2021 (Variational Diffusion Models, appendix I.1).
    """
    shift = to_uniform(row_bits(seed, "level-of-group", positions // group))
    return (shift + (positions % group) / group) % 1.0
