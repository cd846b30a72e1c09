"""What is seen of a grid while it trains."""

import io
import re

import pytest

from epochal.train.crossover.board import Board


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [40, 80])
def test_a_line_says_how_far_each_run_is_whatever_the_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    board = Board("grid", 1_000_000, 4)
    board.draw(0, 0, {})
    board.draw(0, 0, {"AR, 200k unique, replicate 0, seed 17": (31_000, 250_000)})
    first, run = re.sub(r"\x1b\[\w+", "", terminal.getvalue()).splitlines()[-2:]
    assert max(map(len, (first, run))) < columns
    assert [word for word in ("0 of 4 runs", "3 %", " left") if word not in first] == []
    assert [word for word in ("12 %", "AR, 200k") if word not in run] == []
    assert ("█" in run) == (columns == 80)
