"""A file at a URL that is read on where a store failed."""

import io
from collections.abc import Callable
from typing import Any

from .web import another_size

_SKIPPED = 1 << 20


class PatientFile(io.RawIOBase):
    """Reads what `open_it` opens; when that fails, in the middle too, it is opened again and read on from there. A file
    that ends before its size, or is of another size when it is opened again, has failed too.

    Attributes:
        patiently: does what it is given again when that fails, and gives up after some time.
        size: how many bytes the file has; None: as many as it is said to have when it is opened first, if that is said.
    """

    def __init__(
        self, open_it: Callable[[], Any], patiently: Callable[[Callable[[], Any]], Any], size: int | None = None
    ) -> None:
        self._open_it, self._patiently, self._size = open_it, patiently, size
        self._at = 0
        self._file: Any = None
        self._patiently(self._opened)

    def _opened(self) -> Any:
        """Return the file, opened and at the right place."""
        if self._file is None:
            file = self._open_it()
            said = getattr(file, "size", None)
            if self._size is None:
                self._size = said
            elif said not in (None, self._size):
                raise OSError(another_size(said, self._size))
            if self._at and file.seekable():
                file.seek(self._at)
            elif self._at:
                left = self._at
                while left and (piece := file.read(min(left, _SKIPPED))):
                    left -= len(piece)
            self._file = file
        return self._file

    def _try(self, action: Callable[[Any], Any]) -> Any:
        def attempt() -> Any:
            try:
                return action(self._opened())
            except BaseException:
                self._file = None
                raise

        return self._patiently(attempt)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return whether the file can be read from anywhere; a server may send files from the front alone."""
        return bool(self._try(lambda file: file.seekable()))

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the file goes on; return the number of bytes."""

        def read(file: Any) -> bytes:
            if file.seekable() and file.tell() != self._at:
                file.seek(self._at)
            found = bytes(file.read(len(buffer)))
            self._check(found, len(buffer), file.seekable())
            return found

        data: bytes = self._try(read)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _check(self, found: bytes, asked: int, whole: bool) -> None:
        """Raise OSError when the file ends too early, or too late.

        Args:
            whole: whether all that was asked for should have come.
        """
        if self._size is None:
            return
        left = max(0, self._size - self._at)
        if len(found) < (min(asked, left) if whole else min(1, left)):
            raise OSError(f"it ends after {self._at + len(found):,} of {self._size:,} bytes")
        if len(found) > left:
            raise OSError(f"it does not end after {self._size:,} bytes, which it had")

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, as files do."""
        if whence == 2:
            offset += int(self._try(lambda file: file.seek(0, 2)))
        elif whence == 1:
            offset += self._at
        if offset < self._at and not self.seekable():
            self._file = None
        self._at = offset
        return offset

    def tell(self) -> int:
        """Return the place that is read next."""
        return self._at

    def close(self) -> None:
        """Close the file."""
        if self._file is not None and not self.closed:
            self._file.close()
        super().close()
