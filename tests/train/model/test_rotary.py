import math

import pytest
import torch

from epochal.train.model.rotary import rotary_tables, rotate, rotations

CPU = torch.device("cpu")


def test_attention_depends_on_distance_not_on_place() -> None:
    rotation = rotations(None, 0, 20, 8, 10000.0, CPU)
    q, k = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    at = (rotate(x.expand(1, 20, 1, 8), rotation)[0, :, 0] for x in (q, k))
    score = next(at) @ next(at).T
    torch.testing.assert_close(score[3, 1], score[15, 13], atol=1e-6, rtol=0)
    assert not torch.isclose(score[3, 1], score[3, 2])


def test_a_pair_of_channels_is_turned_by_position_times_frequency() -> None:
    x = torch.zeros(1, 6, 1, 4, dtype=torch.float64)
    x[..., 1] = 1.0  # the pair (1, 3), of frequency 100 ** -(2 / 4)
    turned = rotate(x, rotations(None, 0, 6, 4, 100.0, CPU))[0, 5, 0]
    expected = torch.tensor([0.0, math.cos(0.5), 0.0, math.sin(0.5)], dtype=torch.float64)
    torch.testing.assert_close(turned, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("past", [0, 7, 3000])
def test_positions_and_a_past_name_the_same_rotations(past: int) -> None:
    following = rotations(None, past, 5, 8, 10000.0, CPU)
    positions = torch.arange(past, past + 5)
    for given in (positions, positions.expand(2, 5)):
        for a, b in zip(rotations(given, 0, 5, 8, 10000.0, CPU), following, strict=True):
            assert torch.equal(a, b.expand_as(a))


def test_tables_are_float32_and_can_be_trained_with_after_inference() -> None:
    rotary_tables.cache_clear()
    with torch.inference_mode():
        tables = rotations(None, 0, 32, 8, 10000.0, CPU)
    assert {table.dtype for table in tables} == {torch.float32}
    x = torch.ones(1, 32, 1, 8, requires_grad=True)
    rotate(x, rotations(None, 0, 32, 8, 10000.0, CPU)).sum().backward()  # "Inference tensors cannot be saved"
    assert x.grad is not None


def test_the_dtype_of_what_is_turned_stays() -> None:
    rotation = rotations(None, 0, 4, 8, 10000.0, CPU)
    assert rotate(torch.ones(1, 4, 1, 8, dtype=torch.bfloat16), rotation).dtype == torch.bfloat16
