"""What is seen while a grid trains: live runs on a terminal, plain lines elsewhere, all on standard error."""

import shutil
import sys
import time
from collections.abc import Mapping

from ...common.html import count
from ...common.progress import clock
from ...common.units import round_count

PLAIN_SECONDS = 60.0
"""Between two lines of progress where there is no terminal."""

ROOM_FOR_BARS = 70
"""Columns; on a narrower terminal the words and figures are worth more than bars."""


class Board:
    """Draws the grid's progress: a bar for all of it, a bar for each live run, tokens/s, time left."""

    def __init__(self, name: str, total_tokens: int, runs: int, quiet: bool = False) -> None:
        self.name, self.total, self.runs, self.quiet = name, total_tokens, runs, quiet
        self.live = sys.stderr.isatty()
        self.started = self.shown = time.monotonic()
        self.first: int | None = None
        self.lines = 0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if not self.quiet:
            self._clear()
            print(text, file=sys.stderr, flush=True)

    def draw(self, done: int, finished: int, live: Mapping[str, tuple[int, int]]) -> None:
        """Show how far things are.

        Args:
            done: tokens of finished runs.
            live: (tokens, of how many) by label.
        """
        tokens = done + sum(n for n, _ in live.values())
        self.first = tokens if self.first is None else self.first
        now = time.monotonic()
        if self.quiet or (not self.live and now - self.shown < PLAIN_SECONDS):
            return
        self.shown = now
        rate = (tokens - self.first) / max(now - self.started, 1e-9)
        left = f"{clock((self.total - tokens) / rate)} left" if rate else "--:-- left"
        width = shutil.get_terminal_size().columns - 1
        bar = _bar if self.live and width >= ROOM_FOR_BARS else _percent
        runs = f"{finished} of {count(self.runs, 'run')}"
        text = f"{self.name}  {runs}  {bar(tokens, self.total)}  {left}  {rate:,.0f} tokens/s"
        if not self.live:
            print(text, file=sys.stderr, flush=True)
            return
        lines = [text, *(f"  {bar(n, of)}  {round_count(n):>7}  {label}" for label, (n, of) in live.items())]
        self._clear()
        sys.stderr.write("".join(f"{line[:width]}\n" for line in lines))
        sys.stderr.flush()
        self.lines = len(lines)

    def close(self) -> None:
        """Remove what was drawn."""
        self._clear()

    def _clear(self) -> None:
        if self.lines:
            sys.stderr.write(f"\x1b[{self.lines}F\x1b[J")
            sys.stderr.flush()
            self.lines = 0


def _percent(done: int, total: int) -> str:
    return f"{100 * done // max(total, 1):3d} %"


def _bar(done: int, total: int, width: int = 16) -> str:
    filled = round(width * min(1.0, done / max(total, 1)))
    return "█" * filled + "░" * (width - filled) + f" {_percent(done, total)}"
