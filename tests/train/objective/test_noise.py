import numpy as np
import pytest

from epochal.common.hashing import mix64
from epochal.train.objective import noise

P = np.arange(1000, dtype=np.int64)


def test_splitmix64_matches_its_published_stream() -> None:
    # The first outputs of SplitMix64 from state 1234567, as in the reference implementation.
    state = np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix64(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_vectors() -> None:
    """The vectors of docs/training.md: whoever reimplements the noise must reproduce them."""
    assert noise.key(17, "mask") == np.uint64(VECTORS["key(17, mask)"])
    assert noise.row_bits(17, "level", P[:3]).tolist() == VECTORS["row_bits(17, level, 0..2)"]
    assert noise.token_bits(17, "mask", P[5:6], 3)[0].tolist() == VECTORS["token_bits(17, mask, 5, 0..2)"]
    assert noise.stratified_levels(17, P[:2], 8).tolist() == VECTORS["stratified_levels(17, 0..1, 8)"]


VECTORS: dict = {
    "key(17, mask)": 13682316994565848670,
    "row_bits(17, level, 0..2)": [2037025387842161977, 10943759850576838527, 7511137733719283549],
    "token_bits(17, mask, 5, 0..2)": [18125980746509865722, 1921686883379653023, 295106276273361731],
    "stratified_levels(17, 0..1, 8)": [0.744587781005626, 0.869587781005626],
}


@pytest.mark.parametrize("split", [1, 3, 7])
def test_noise_is_independent_of_how_a_batch_is_cut(split: int) -> None:
    whole = noise.token_bits(3, "mask", P, 9), noise.stratified_levels(3, P, 64)
    parts = [(noise.token_bits(3, "mask", p, 9), noise.stratified_levels(3, p, 64)) for p in np.array_split(P, split)]
    np.testing.assert_array_equal(whole[0], np.concatenate([a for a, _ in parts]))
    np.testing.assert_array_equal(whole[1], np.concatenate([b for _, b in parts]))


def test_positions_beyond_32_bits_have_their_own_noise() -> None:
    near, far = noise.row_bits(0, "level", P), noise.row_bits(0, "level", P + 2**32)
    assert not np.isin(far, near).any()


def test_seeds_and_purposes_do_not_share_noise() -> None:
    words = np.concatenate([noise.row_bits(s, purpose, P) for s in (0, 1, 2) for purpose in ("level", "mask")])
    assert len(np.unique(words)) == len(words)


def test_uniform_numbers_fill_the_unit_interval_evenly() -> None:
    u = noise.to_uniform(noise.token_bits(0, "mask", P, 1000)).ravel()
    counts = np.histogram(u, bins=100, range=(0, 1))[0]
    chi_squared = ((counts - 10_000) ** 2 / 10_000).sum()
    assert 45 < chi_squared < 170  # 99 degrees of freedom; beyond five standard deviations either way
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 5e-3


@pytest.mark.parametrize("group", [1, 4, 64])
def test_stratified_levels_put_one_in_each_interval(group: int) -> None:
    u = noise.stratified_levels(9, np.arange(group * 10, dtype=np.int64), group).reshape(10, group)
    gaps = np.diff(np.sort(u, axis=1), axis=1)
    np.testing.assert_allclose(gaps, 1 / group, atol=1e-12)
    assert ((u >= 0) & (u < 1)).all()


def test_stratified_levels_are_uniform_over_groups() -> None:
    u = noise.stratified_levels(9, np.arange(4 * 5000, dtype=np.int64), 4)[::4]
    assert abs(u.mean() - 0.5) < 0.02
    assert abs(u.var() - 1 / 12) < 0.01
