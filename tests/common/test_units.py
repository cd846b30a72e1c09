"""Numbers as people write them, and those that nobody means: refused at once, before anything is computed with them."""

import pytest

from epochal.common.errors import RequestError
from epochal.common.units import parse_count, tokens_for_epochs


@pytest.mark.parametrize(
    "text", ["9" * 5000, "9" * 19, "10000000T", "1" + "0" * 10**6, "1e999999999", "nan", "inf", "-1", "", "٣", 2**63]
)
def test_a_count_that_overflows_is_refused(text: str | int) -> None:
    with pytest.raises(RequestError, match="--tokens") as caught:
        parse_count(text, "--tokens")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "epochs", ["1e999999999", "1e400", "nan", "inf", "-inf", "0", "9" * 10**6, "1e17", "x" * 10**6]
)
def test_passes_that_overflow_are_refused(epochs: str) -> None:
    with pytest.raises(RequestError) as caught:
        tokens_for_epochs(epochs, 1000)
    assert len(str(caught.value)) < 200


def test_the_largest_are_taken() -> None:
    assert parse_count(2**63 - 1) == parse_count(str(2**63 - 1)) == 2**63 - 1
    assert tokens_for_epochs("9e15", 1000) == 9 * 10**18
    assert tokens_for_epochs("1e-999999999", 1000) == 0
