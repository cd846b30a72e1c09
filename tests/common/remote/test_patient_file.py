"""A store that sends less than it was asked for is asked again, and named when it goes on."""

import io

import pytest

from epochal.common import storage
from epochal.common.errors import WorkError
from epochal.common.remote import patience


class Store:
    """Opens a file of `data` whose first `short` reads give three bytes, whatever was asked for."""

    def __init__(self, data: bytes, short: int) -> None:
        self.data, self.short, self.reads = data, short, 0

    def __call__(self) -> io.BytesIO:
        store = self

        class File(io.BytesIO):
            size = len(store.data)

            def read(self, n: int | None = -1) -> bytes:
                store.reads += 1
                return super().read(3 if store.reads <= store.short else n)

        return File(self.data)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.001)


def test_a_short_answer_is_asked_for_again() -> None:
    store = Store(bytes(range(200)), short=3)
    assert storage.patient(store, "s3://b/f").read() == bytes(range(200))
    assert store.reads <= 6


def test_short_answers_without_end_are_five_requests_and_a_line() -> None:
    store = Store(b"x" * 100_000, short=10**9)
    with pytest.raises(WorkError, match=r"cannot read s3://b/f after 5 attempts: 3 bytes came instead of [0-9,]+"):
        storage.patient(store, "s3://b/f").read()
    assert store.reads == 5
