"""The second stage: lengths follow from the curves of the first alone, and resuming changes nothing."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from epochal.__main__ import main
from epochal.train.crossover import launch, stages
from epochal.train.crossover.curves import curve
from epochal.train.crossover.grid import load_grid, plan
from epochal.train.run_state.overview import GRID_RUN
from epochal.train.trainer import train

torch.set_num_threads(1)


def finish(run: Any, losses: list[float], even: list[float] | None = None) -> None:
    """Leave what training would: an evaluation every 1,000 tokens."""
    folder = Path(run.folder)
    folder.mkdir(parents=True)
    kind = "nll" if run.objective == "ar" else "nelbo"
    rows = []
    for i, loss in enumerate(losses):
        row = {"step": i + 1, "run/tokens": 1000 * (i + 1), "run/lr": 1.0, f"metrics/validation/{kind}": loss}
        row |= (
            {f"metrics/validation/{kind}_even": even[i], f"metrics/validation/{kind}_odd": 2 * loss - even[i]}
            if even
            else {}
        )
        rows.append(json.dumps(row) + "\n")
    (folder / "metrics.jsonl").write_text("".join(rows))
    (folder / "result.json").write_text(json.dumps({"result": {}}))


def test_a_runs_best_length_is_decided_by_its_own_curve_on_the_selecting_half(make_plan):
    made = make_plan(unique_tokens=[300], own_decay=[1, 1.5])
    ar, mdm = made.runs
    assert stages.whole(made).runs == made.runs
    assert stages.whole(made).waiting == 2
    finish(ar, [5, 4, 3, 4, 5, 6], even=[5, 3, 4, 4, 5, 6])
    now = stages.whole(made)
    assert now.waiting == 1
    short, longer = now.runs[2:]
    assert [r.total_tokens for r in (short, longer)] == [2000, 3000]  # the whole pool would have said 3,000
    assert {r.decays_from for r in (short, longer)} == {ar.name}
    assert short.name.startswith("u300-ar-d2000-r0-s17-")
    assert GRID_RUN.search(short.name)
    assert short.config.max_duration == "2000"
    assert (
        short.config.model_copy(update={"max_duration": "6018", "save_folder": ar.folder, "run_name": ar.name})
        == ar.config
    )
    finish(mdm, [5, 4, 3, 2, 1, 0.5])
    assert stages.whole(made).runs == now.runs  # the last is the best: the long run has its decay there already
    assert stages.whole(stages.whole(made)) == stages.whole(made)


def test_a_grid_without_own_decay_has_one_stage(make_plan):
    made = make_plan(unique_tokens=[300])
    finish(made.runs[0], [5, 4, 5])
    assert stages.whole(made) is made


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([3.0, 2.0, 2.5], 2000), ([3.0, math.nan, 2.5], 3000), ([2.0, 2.0], 1000), ([math.inf], 0), ([], 0)],
)
def test_the_best_is_the_lowest_number_and_the_first_of_equal_ones(losses, expected):
    rows = [{"loss": loss, "tokens": 1000 * (i + 1)} for i, loss in enumerate(losses)]
    assert stages.best_tokens(rows) == expected
    rows = [{"loss": 9.0, "even/loss": loss, "tokens": 1000 * (i + 1)} for i, loss in enumerate(losses)]
    assert stages.best_tokens(rows) == expected


def test_status_and_plan_say_what_is_known_and_what_waits(make_plan, tmp_path, capsys):
    made = make_plan(unique_tokens=[300], own_decay=[1])
    assert main(["crossover", str(tmp_path / "grid.yaml"), "--plan"]) == 0
    assert "own decay: 0 runs planned from best lengths; more follow from 2 runs" in capsys.readouterr().out
    finish(made.runs[0], [5, 4, 3, 4, 5, 6])
    assert main(["crossover", str(tmp_path / "grid.yaml"), "--plan", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["runs"], body["finished"], body["own_decay"], body["waiting"]) == (3, 1, 1, 1)


@pytest.mark.processes
def test_both_stages_are_trained_in_one_call_and_another_call_finds_nothing_to_do(make_plan, tmp_path, capsys):
    """The learning rate is so high that the best of AR lies within the run."""
    make_plan(unique_tokens=[300], objectives=["ar"], own_decay=[1], total_tokens=9000, settings={"optimizer.lr": 0.03})
    grid = str(tmp_path / "grid.yaml")
    assert main(["crossover", grid, "--quiet", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    whole = stages.whole(plan(load_grid(grid)))
    long, short = whole.runs
    assert (body["runs"], body["finished"], body["receipts_valid"], body["waiting"]) == (2, 2, 2, 0)
    assert short.decays_from == long.name
    rows = curve(short)
    assert rows[-1]["tokens"] == short.total_tokens == stages.best_tokens(curve(long))
    assert not curve(long)[0]["decayed"]
    assert rows[-1]["decays_from"] == long.name
    assert launch.unfinished(whole) == []
    before = {p: p.stat().st_mtime_ns for p in Path(short.folder).rglob("*")}
    assert main(["crossover", grid, "--quiet", "--json"]) == 0
    assert {p: p.stat().st_mtime_ns for p in Path(short.folder).rglob("*")} == before
    capsys.readouterr()


@pytest.mark.slow
def test_points_are_decayed_once_the_rate_has_begun_to_fall(make_plan):
    made = make_plan(
        unique_tokens=[300], objectives=["ar"], settings={"scheduler": {"name": "wsd", "t_decay": "0.5dur"}}
    )
    launch.prepare(made, made.runs)
    train(made.runs[0].config)
    rows = curve(made.runs[0])
    assert [r["decayed"] for r in rows] == [r["learning_rate"] < rows[0]["learning_rate"] for r in rows]
    assert [r["decayed"] for r in rows][0::4] == [False, True]
    assert all(r["even/loss"] != r["odd/loss"] for r in rows)
