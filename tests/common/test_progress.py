"""The live line stays one line, however narrow the terminal is."""

import io
import os

import pytest

from epochal.common.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2


@pytest.mark.parametrize(("columns", "longest"), [(40, 39), (120, 119), (0, 1000)])
def test_a_live_line_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, longest: int) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((columns, 24)))
    with Progress("ingest", 10**12, "buckets of a kind", every=0) as progress:
        progress._every = 0
        progress.update(10**9)
    shown = terminal.getvalue().split("\r\033[K")[1:]
    assert len(shown) == 3
    assert all(len(line.rstrip("\n")) <= longest for line in shown[:-1])
    assert shown[-1].startswith("ingest       1,000,000,000 buckets of a kind in ")
