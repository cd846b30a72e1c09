import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from epochal.common.hashing import derive_key
from epochal.shards.order import permutation
from epochal.shards.order.permutation import MAX_SIZE, MULTIPLIER, Permutation, keyed_permutation, rounds

VECTORS = json.loads((Path(__file__).parent / "order_vectors.json").read_text())
LEAST_P = 1e-4
"""Significance of every test here; the keys are fixed, so a result never changes by chance."""


def by_the_document(n: int, key: bytes, x: int) -> int:
    """docs/repetition.md's definition in plain integers, one number at a time."""
    bits = max(1, (n - 1).bit_length())
    r = max(1, (bits + 1) // 2, bits - 16)
    lefts = -(-n // 2**r)
    while True:
        left, right = x >> r, x % 2**r
        for i in range(rounds(n)):
            a = int.from_bytes(key[8 * i : 8 * i + 4], "little")
            b = int.from_bytes(key[8 * i + 4 : 8 * i + 8], "little") | 1
            t = ((right if i % 2 == 0 else left) + a) * b % 2**32
            t = (t ^ t >> 15) * MULTIPLIER % 2**32
            if i % 2 == 0:
                left = (left + (t * lefts >> 32)) % lefts
            else:
                right ^= t >> (32 - r)
        x = left << r | right
        if x < n:
            return x


@pytest.mark.slow
def test_every_small_n_is_permuted() -> None:
    for n in range(1, 4097):
        found = keyed_permutation(n, "test", 1, n).forward(np.arange(n, dtype=np.uint64))
        assert np.array_equal(np.sort(found), np.arange(n)), n


@pytest.mark.parametrize("largest", [10**4, 10**6, 10**9, 10**12, 10**13, MAX_SIZE])
def test_inverse_undoes_forward(largest: int) -> None:
    rng = np.random.default_rng(largest)
    for n in [largest, *rng.integers(1, largest, 30).tolist()]:
        x = rng.integers(0, n, 300).astype(np.uint64)
        there = keyed_permutation(n, "test", 5, 0).forward(x)
        assert there.max() < n
        assert np.array_equal(keyed_permutation(n, "test", 5, 0).inverse(there), x), n
        assert np.array_equal(
            keyed_permutation(n, "test", 5, 0).forward(keyed_permutation(n, "test", 5, 0).inverse(x)), x
        )


def test_blocks_and_windows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(5000, dtype=np.uint64)
    whole = keyed_permutation(5000, "test", 2, 0).forward(x)
    monkeypatch.setattr(permutation, "_BLOCK", 7)
    monkeypatch.setattr(permutation, "_WINDOW", 64)
    assert np.array_equal(keyed_permutation(5000, "test", 2, 0).forward(x), whole)


@pytest.mark.parametrize("n", [1, 2, 3, 13, 1000, 1023, 1024, 1025, 65537, 10**6, 2**32 + 1, 10**12, 10**13, MAX_SIZE])
def test_arrays_equal_the_definition_in_plain_integers(n: int) -> None:
    key = derive_key("test", 9, n, 8 * rounds(n))
    x = np.unique(np.random.default_rng(0).integers(0, n, 50)).astype(np.uint64)
    assert Permutation(n, key).forward(x).tolist() == [by_the_document(n, key, i) for i in x.tolist()]


@pytest.mark.parametrize("vector", VECTORS["permutation"], ids=lambda v: f"n={v['n']}")
def test_committed_vectors(vector: dict) -> None:
    found = keyed_permutation(vector["n"], "order/pass", vector["seed"], vector["pass"])
    assert found.forward(np.array(vector["places"], np.uint64)).tolist() == vector["ids"]


def test_wrong_sizes_are_refused() -> None:
    for n in (0, -1, MAX_SIZE + 1):
        with pytest.raises(ValueError, match="elements"):
            Permutation(n, bytes(96))
    with pytest.raises(ValueError, match="bytes"):
        Permutation(2000, bytes(95))


def count_permutations(n: int, keys: int) -> float:
    """Return the p-value of the chi-square test that all n! permutations come equally often over `keys` keys."""
    x = np.arange(n, dtype=np.uint64)
    seen = dict.fromkeys(itertools.permutations(range(n)), 0)
    for number in range(keys):
        key = derive_key("test/uniform", 0, number, 8 * rounds(n))
        seen[tuple(Permutation(n, key).forward(x).tolist())] += 1
    return float(stats.chisquare(list(seen.values())).pvalue)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_permutations_of_few_are_equally_likely(n: int) -> None:
    assert count_permutations(n, 20 * math.factorial(n) + 200) > LEAST_P


@pytest.mark.slow
def test_too_few_rounds_fail_the_same_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation, "rounds", lambda n: 6)
    monkeypatch.setitem(globals(), "rounds", lambda n: 6)
    assert count_permutations(5, 2600) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 100, 1030])
def test_images_of_two_neighbours_are_independent(n: int) -> None:
    # Where 0 and 1 go, over many keys, in cells of a 10 x 10 table: as for permutations drawn at random.
    keys = 4000
    table = np.zeros((10, 10))
    for number in range(keys):
        a, b = keyed_permutation.__wrapped__(n, "test/pairs", 0, number).forward(np.array([0, 1], np.uint64))
        table[int(a) * 10 // n, int(b) * 10 // n] += 1
    sizes = np.bincount(np.arange(n) * 10 // n)
    expected = keys * (np.outer(sizes, sizes) - np.diag(sizes)) / (n * (n - 1))
    assert stats.chisquare(table.ravel(), expected.ravel()).pvalue > LEAST_P


@pytest.mark.slow
@pytest.mark.parametrize("n", [1000, 4097, 100_003])
def test_passes_are_as_independent_as_fisher_yates(n: int) -> None:
    """Pass e against pass e + 1, for 400 passes: Spearman's correlation, fixed points, rising neighbours.

    Under independence the first is normal with variance 1 / (n - 1), the second Poisson(1); each is held against
    numpy's Fisher-Yates by the two-sample Kolmogorov-Smirnov test, the first against its law, too.
    """
    passes = 400 if n < 50_000 else 60
    x = np.arange(n, dtype=np.uint64)
    rng = np.random.default_rng(1)
    ours = (keyed_permutation(n, "order/pass", 3, e).forward(x).astype(np.int64) for e in range(passes + 1))
    theirs = (rng.permutation(n) for _ in range(passes + 1))
    found, control = _compare_neighbours(ours, n), _compare_neighbours(theirs, n)
    assert stats.kstest(found[:, 0] * math.sqrt(n - 1), "norm").pvalue > LEAST_P
    for column in range(3):
        assert stats.ks_2samp(found[:, column], control[:, column]).pvalue > LEAST_P
    assert abs(found[:, 1].mean() - 1) < 4 / math.sqrt(passes)


def _compare_neighbours(permutations, n: int) -> np.ndarray:
    rows = []
    for before, after in itertools.pairwise(permutations):
        correlation = 12 * ((before - (n - 1) / 2) * (after - (n - 1) / 2)).mean() / (n * n - 1)
        rows.append((correlation, (before == after).sum(), (np.diff(after) > 0).mean()))
    return np.array(rows)


def test_gaps_between_neighbours_are_uniform_in_a_large_permutation() -> None:
    n = 46_875_000
    image = keyed_permutation(n, "order/pass", 0, 0).forward(np.arange(400_000, dtype=np.uint64)).astype(np.int64)
    for step in (1, 2, 1024, 8192):
        gaps = (image[step:] - image[:-step]) % n
        assert stats.chisquare(np.bincount(gaps * 256 // n, minlength=256)).pvalue > LEAST_P, step


def test_sums_of_seed_and_pass_do_not_collide() -> None:
    x = np.arange(1000, dtype=np.uint64)
    orders = {keyed_permutation(1000, "order/pass", s, e).forward(x).tobytes() for s in range(6) for e in range(6)}
    assert len(orders) == 36
