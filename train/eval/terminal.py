"""Text that changes while it is generated, drawn on a terminal."""

import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from ...common.cli import for_terminal
from ...tokenize.tokenizer import spell

HOLE = "░"
"""Stands for a token that is not filled in yet."""


class LiveText:
    """Redraws a text in place each time it changes; without a terminal nothing is drawn.

    Attributes:
        decode: from ids to text.
        mask: the id that stands for a token not filled in yet.
        before: text in front of it.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], mask: int, before: str = "", stream: TextIO | None = None
    ) -> None:
        self._decode, self._mask, self._before = decode, mask, before
        self._stream = stream or sys.stdout
        self._lines = 0
        self.live = self._stream.isatty()

    def show(self, ids: Sequence[int]) -> None:
        """Draw `ids` over what was drawn before."""
        if self.live:
            self._draw(for_terminal(self._before + spell(ids, {self._mask: HOLE}, self._decode)))

    def clear(self) -> None:
        """Remove what was drawn, so that the finished text can be printed plainly."""
        if self.live and self._lines:
            self._stream.write(_up(self._lines) + "\x1b[J")
            self._stream.flush()
            self._lines = 0

    def _draw(self, text: str) -> None:
        columns, rows = shutil.get_terminal_size()
        lines = [line for part in text.split("\n") for line in _wrap(part, columns)]
        lines = lines[-max(1, rows - 1) :]  # what has scrolled away cannot be drawn over
        self._stream.write((_up(self._lines) if self._lines else "") + "\x1b[J" + "\n".join(lines) + "\n")
        self._stream.flush()
        self._lines = len(lines)


def _up(lines: int) -> str:
    return f"\x1b[{lines}F"


def _wrap(line: str, columns: int) -> list[str]:
    return [line[i : i + columns] for i in range(0, len(line), columns)] or [""]
