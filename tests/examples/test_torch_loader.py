from collections.abc import Callable
from pathlib import Path

import pytest

from epochal.examples import torch_loader
from epochal.tests.support.pools import letters


@pytest.mark.slow
@pytest.mark.processes
def test_the_loop_is_gone_on_with_where_it_was(make_pool: Callable[..., Path], capsys) -> None:
    pool = make_pool(letters(1, 1003), 32, name="toy")  # 32 samples, the last one with 11 tokens
    assert torch_loader.run([str(pool), "--passes", "3", "--batch", "5", "--workers", "1"]) == 0
    first, rest, last = capsys.readouterr().out.splitlines()
    assert first.startswith("positions 0 to 49, loss ")
    assert rest.startswith("positions 50 to 95, loss ")
    assert last == "3 passes over 1,003 unique tokens, every position once"
    assert float(rest.split()[-1]) < float(first.split()[-1])
