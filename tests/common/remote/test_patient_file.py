"""A file at a URL that is sent short, long, or as another one."""

import io
from collections.abc import Callable
from typing import Any

import pytest

from epochal.common import storage
from epochal.common.errors import WorkError
from epochal.common.remote import patience
from epochal.common.remote.patient_file import PatientFile

DATA = bytes(range(200))


class Sent(io.BytesIO):
    """What a store sends of a file that it says to be of a size, or of none."""

    def __init__(self, data: bytes, size: int | None, seekable: bool = True) -> None:
        super().__init__(data)
        self.size, self._seekable = size, seekable

    def seekable(self) -> bool:
        return self._seekable


def read(answers: list[Sent], size: int | None = None) -> tuple[bytes, list[str]]:
    """Return what is read where each time the file is opened another answer is sent, and what went wrong meanwhile."""
    problems: list[str] = []

    def patiently(action: Callable[[], Any]) -> Any:
        for _ in range(5):
            try:
                return action()
            except OSError as error:
                problems.append(str(error))
        raise AssertionError(problems)

    waiting = iter(answers)
    return io.BufferedReader(PatientFile(lambda: next(waiting), patiently, size), 64).read(), problems


@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("listed", [200, None])
def test_a_file_that_ends_early_is_read_on(seekable: bool, listed: int | None) -> None:
    size = 200 if seekable else None
    answers = [Sent(DATA[:130], 200 if listed is None else size, seekable), Sent(DATA, size, seekable)]
    data, problems = read(answers, listed)
    assert data == DATA
    assert problems == ["it ends after 130 of 200 bytes"]


def test_nothing_of_a_page_is_taken() -> None:
    data, problems = read([Sent(b"please sign in", None), Sent(DATA, None)], 200)
    assert data == DATA
    assert problems == ["it ends after 14 of 200 bytes"]


def test_a_file_that_is_longer_than_it_was_is_another_one() -> None:
    data, problems = read([Sent(DATA + b"more", None, False), Sent(DATA, None, False)], 200)
    assert data == DATA
    assert problems == ["it does not end after 200 bytes, which it had"]


def test_a_file_of_another_size_is_another_one() -> None:
    data, problems = read([Sent(DATA[:100], 100), Sent(DATA, 200)], 200)
    assert data == DATA
    assert problems == ["it has 100 bytes now, where it had 200"]


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
    with pytest.raises(WorkError, match=r"cannot read s3://b/f after 5 attempts: it ends after 3 of 100,000 bytes"):
        storage.patient(store, "s3://b/f").read()
    assert store.reads == 5
