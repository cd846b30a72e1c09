"""Progress of a long step: one live line on a terminal, plain lines elsewhere, always on standard error."""

import os
import sys
import time
from types import TracebackType
from typing import Self

from .units import format_bytes


class Progress:
    """Reports the progress of a step of `total` units (`bytes` or a noun).

    On a terminal one line is redrawn with share, rate and time left; elsewhere a line is printed every `every` seconds,
    and one at the end; with `quiet` nothing. Use it as a context manager.

    Attributes:
        done: units done before it begins, which say nothing about the rate.
        note: shown with the share.
    """

    def __init__(
        self, step: str, total: int, unit: str, quiet: bool = False, every: float = 15.0, done: int = 0
    ) -> None:
        self.step, self.total, self.unit, self.note = step, total, unit, ""
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._every = 0.1 if self._live else every
        self._started = self._shown = time.monotonic()
        self._before = self._done = done

    def update(self, done: int) -> None:
        """Say that `done` units are done in all; drawn only as often as the eye can follow."""
        self._done = done
        now = time.monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            self._draw(now, end=False)

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done."""
        self.update(self._done + n)

    def finish(self, total: int) -> None:
        """Say that all of `total` units are done, without drawing; the last line comes when the context closes."""
        self._done = total

    def _amount(self, n: float) -> str:
        return format_bytes(n) if self.unit == "bytes" else f"{n:,.0f}" if n >= 10 or n == int(n) else f"{n:.2g}"

    def _draw(self, now: float, end: bool) -> None:
        if self._quiet:
            return
        seconds = max(now - self._started, 1e-9)
        rate = (self._done - self._before) / seconds
        unit = "" if self.unit == "bytes" else f" {self.unit}"
        text = f"{self.step:<12} {self._amount(self._done)}"
        if not end:
            left = clock((self.total - self._done) / rate) if rate else "--:--"
            share = f"{100 * self._done / self.total:3.0f} %" if self.total else ""
            note = f"{self.note}  " if self.note else ""
            text = f"{self.step:<12} {share}  {note}{self._amount(self._done)} of {self._amount(self.total)}"
            text += f"{unit}  {self._amount(rate)}{unit}/s  {left} left"
        else:
            text += f"{unit} in {seconds:.1f} s" + (f"  {self.note}" if self.note else "")
        if self._live:
            sys.stderr.write(f"\r\033[K{text}\n" if end else f"\r\033[K{text[: _columns() - 1]}")
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def __enter__(self) -> Self:
        if self._live:
            self._draw(time.monotonic(), end=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._draw(time.monotonic(), end=True)
        elif self._live and not self._quiet:
            sys.stderr.write("\n")


def _columns() -> int:
    """Return the width of the terminal: a live line that is longer would not be drawn over, but again and again."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _UNKNOWN_COLUMNS
    except (OSError, ValueError):
        return _UNKNOWN_COLUMNS


_UNKNOWN_COLUMNS = 1000
"""Where the width is not known, nothing is cut."""


def clock(seconds: float) -> str:
    """Return a duration as `1:02:03` or `2:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
