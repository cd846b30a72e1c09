"""Whatever reads an order through an adapter is given the ids of `epochal order`: on one and two ranks, with no and two
workers, after an interruption in the middle of a pass and of an accumulated batch. docs/loaders.md has the table."""

import itertools
import json
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.tests.adapters.trainers import READERS, Case, read
from epochal.tests.support.loading import plan_for
from epochal.tests.support.ranks import run_ranks

RANKS, WORKERS = (1, 2), (0, 2)
GLOBAL_BATCH, STOP, ACCUMULATE = 6, 5, 2
"""Five batches of six samples: the middle of a pass of 57, and of the third accumulated batch."""

DOCS = Path(__file__).parent.parent.parent / "docs" / "loaders.md"


def joined(parts: list[list[list[int]]]) -> list[int]:
    """Put the ranks' batches together again."""
    return list(itertools.chain.from_iterable(itertools.chain(*shares) for shares in zip(*parts, strict=True)))


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", READERS)
def test_ids_are_those_of_epochal_order(
    subsets: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture, name: str, ranks: int, workers: int
) -> None:
    plan = plan_for(subsets["a"], 1.45, seed=3)
    stop = STOP - STOP % ACCUMULATE if name == "`for_trainer`" else STOP
    case = Case([subsets["a"]], plan.to_dict(), GLOBAL_BATCH, workers, stop, ACCUMULATE, str(tmp_path / "run"))
    parts = run_ranks(ranks, read, tmp_path, name, case, ranks, timeout=200)
    command = ["order", subsets["a"], "--seed", "3", "--count", str(plan.positions), "--json"]
    assert main(command) == 0
    ids = json.loads(capsys.readouterr().out)["ids"]
    assert plan.positions % GLOBAL_BATCH in range(2, GLOBAL_BATCH), "the last batch is short"
    assert plan.samples < plan.positions, "the second pass is begun"
    assert joined(parts) == ids


def test_the_table_of_combinations_in_the_docs_is_what_is_tested() -> None:
    ranks, workers = (", ".join(map(str, numbers)) for numbers in (RANKS, WORKERS))
    rows = [f"| {name} | {ranks} | {workers} | {_middle(name)} |" for name in READERS]
    table = (
        "| what reads | ranks | workers | stopped in the middle of |\n|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
    )
    assert table in DOCS.read_text(encoding="utf-8")


def _middle(name: str) -> str:
    return "a pass (it saves after whole steps only)" if name == "`for_trainer`" else "a pass, a step"
