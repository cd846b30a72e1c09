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
        bar = _bar(tokens, self.total) if self.live else f"{100 * tokens // max(self.total, 1):3d} %"
        text = f"{self.name}  {finished} of {count(self.runs, 'run')}  {bar}  {rate:,.0f} tokens/s  {left}"
        if not self.live:
            print(text, file=sys.stderr, flush=True)
            return
        lines = [text, *(f"  {_bar(n, of)}  {round_count(n):>7}  {label}" for label, (n, of) in live.items())]
        self._clear()
        width = shutil.get_terminal_size().columns - 1
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


def _bar(done: int, total: int, width: int = 16) -> str:
    filled = round(width * min(1.0, done / max(total, 1)))
    return "█" * filled + "░" * (width - filled) + f" {100 * done // max(total, 1):3d} %"
