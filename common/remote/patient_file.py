"""A file at a URL that is read on where a store failed."""

import io
from collections.abc import Callable
from typing import Any

_SKIPPED = 1 << 20


class PatientFile(io.RawIOBase):
    """Reads what `open_it` opens; when that fails, in the middle too, it is opened again and read on from there.

    Attributes:
        patiently: does what it is given again when that fails, and gives up after some time.
    """

    def __init__(self, open_it: Callable[[], Any], patiently: Callable[[Callable[[], Any]], Any]) -> None:
        self._open_it, self._patiently = open_it, patiently
        self._at = 0
        self._file: Any = None
        self._patiently(self._opened)

    def _opened(self) -> Any:
        """Return the file, opened and at the right place."""
        if self._file is None:
            file = self._open_it()
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
            data = bytes(file.read(len(buffer)))
            size = getattr(file, "size", None)
            if isinstance(size, int) and len(data) < (due := min(len(buffer), size - self._at)):
                raise OSError(f"{len(data):,} bytes came instead of {due:,}")
            return data

        data: bytes = self._try(read)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

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
