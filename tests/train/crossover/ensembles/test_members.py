"""Which ensembles a grid has, and which of a seed's models is a member."""

import json
from pathlib import Path
from typing import Any

import pytest

from epochal.__main__ import main
from epochal.common.errors import RequestError, WorkError
from epochal.tests.support.training import BYTES, save
from epochal.train.crossover import stages
from epochal.train.crossover.ensembles.members import measured, members, path_of, planned, read
from epochal.train.crossover.grid import load_grid, plan


def finish(run: Any, losses: list[float], best: int, halves: bool = True) -> None:
    """Leave what training would: an evaluation every 1,000 tokens, and in best/ the model of step `best`.

    The loss of the even half is half of the whole pool's above it, that of the odd one as much below.
    """
    folder = Path(run.folder)
    folder.mkdir(parents=True)
    kind = "nll" if run.objective == "ar" else "nelbo"
    rows = []
    for i, loss in enumerate(losses, 1):
        row = {"step": i, "run/tokens": 1000 * i, "run/lr": 1.0, f"metrics/validation/{kind}": loss}
        names = {"even": 1.5 * loss, "odd": 0.5 * loss} if halves else {}
        row |= {f"metrics/validation/{kind}_{half}": value for half, value in names.items()}
        rows.append(json.dumps(row) + "\n")
    (folder / "metrics.jsonl").write_text("".join(rows))
    (folder / "result.json").write_text(json.dumps({"result": {}}))
    save(folder / "best", run.objective == "ar", BYTES, training={"steps": best})


def test_each_kind_of_run_on_each_draw_has_an_ensemble_of_each_size(make_plan):
    made = make_plan(
        seeds=[3, 1, 2],
        members=[3, 2],
        replicates={"300": 2, "1003": 1},
        arms={"ar": {"high": {"optimizer.lr": 0.01}}},
    )
    specs = planned(made)
    assert len(specs) == 3 * 3 * 2  # draws, kinds of run, sizes
    assert {spec.seeds for spec in specs} == {(3, 1), (3, 1, 2)}  # the first of the grid, in its order
    for spec in specs:
        assert len({(r.unique_tokens, r.objective, r.arm, r.replicate) for own in spec.runs for r in own}) == 1
    assert len({spec.stem for spec in specs}) == len(specs)
    assert "u300-ar-high-r1-m3" in {spec.stem for spec in specs}


def test_a_grid_without_members_has_none_and_its_runs_are_called_as_ever(make_plan):
    without, asked = make_plan(seeds=[1, 2]), make_plan(seeds=[1, 2], members=[2])
    assert planned(without) == []
    assert measured(without) is None
    assert [run.name for run in without.runs] == [run.name for run in asked.runs]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": [3]}, "members asks for an ensemble of 3, a model of each seed, but seeds are 2: add some"),
        ({"members": [1]}, "members asks for an ensemble of 1: it takes two or more"),
        ({"members": [2, 2]}, "members names a value twice"),
    ],
)
def test_wrong_members_are_one_line(make_plan, changes, message):
    with pytest.raises(RequestError) as error:
        make_plan(seeds=[1, 2], **changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", [(), ("--plan",), ("--slurm",), ("--report-only",)])
def test_models_in_shards_are_refused_before_anything_is_done(make_plan, tmp_path, capsys, words):
    made = make_plan(seeds=[1, 2], members=[2], settings={"parallelism_config": {"fsdp": {}}, "device": "gpu"})
    with pytest.raises(RequestError, match="members reads whole models together on one device"):
        planned(made)
    assert main(["crossover", str(tmp_path / "grid.yaml"), *words]) == 2
    assert "epochal evaluate --ensemble" in capsys.readouterr().err
    assert not Path(made.grid.out).exists()


def test_a_seeds_member_is_the_best_model_of_both_stages_on_the_selecting_half(make_plan):
    made = make_plan(unique_tokens=[300], objectives=["ar"], seeds=[1, 2], members=[2], own_decay=[1])
    first, second = made.runs
    (spec,) = planned(made)
    assert not spec.finished
    finish(first, [5, 4, 5, 6], best=2)
    finish(second, [5, 4, 5, 6], best=2)
    whole = stages.whole(made)
    (spec,) = planned(whole)
    assert [len(own) for own in spec.runs] == [2, 2]
    assert not spec.finished  # runs with their own decay are still to come
    assert read(spec) is None
    short = {run.seed: run for run in whole.runs if run.decays_from}
    finish(short[1], [5, 3.5], best=2)
    finish(short[2], [5, 4], best=2)
    (spec,) = planned(stages.whole(made))
    assert [member.run for member in members(spec)] == [short[1], second]  # of equal ones the whole run's
    assert [member.row["tokens"] for member in members(spec)] == [2000, 2000]


def test_runs_without_halves_are_chosen_by_the_whole_pool(make_plan):
    made = make_plan(unique_tokens=[300], objectives=["ar"], seeds=[1, 2], members=[2])
    for run in made.runs:
        finish(run, [5, 4, 5], best=2, halves=False)
    assert [member.row["loss"] for member in members(planned(made)[0])] == [4, 4]


def test_a_name_follows_from_the_models_and_from_nothing_else(make_plan):
    made = make_plan(unique_tokens=[300], objectives=["ar"], seeds=[1, 2], members=[2])
    for run in made.runs:
        finish(run, [5, 4, 5], best=2)
    (spec,) = planned(made)
    before = path_of(spec, members(spec))
    Path(made.runs[0].folder, "log.txt").write_text("later")
    assert path_of(spec, members(spec)) == before
    save(Path(made.runs[0].folder, "best"), True, BYTES, training={"steps": 2}, init_std=0.5)
    assert path_of(spec, members(spec)) != before


def test_a_model_that_is_gone_or_of_another_step_is_said_to_be(make_plan):
    made = make_plan(unique_tokens=[300], objectives=["ar"], seeds=[1, 2], members=[2])
    for run in made.runs:
        finish(run, [5, 4, 5], best=2)
    (spec,) = planned(made)
    config = Path(made.runs[1].folder, "best", "config.json")
    kept = config.read_bytes()
    config.unlink()
    with pytest.raises(WorkError, match=r"best holds no model: put it back, or remove .* to train it again"):
        members(spec)
    assert read(spec) is None
    config.write_bytes(kept)
    save(config.parent, True, BYTES, training={"steps": 7})
    with pytest.raises(WorkError, match="is of step 7, at which its run measured nothing"):
        members(spec)


def test_a_damaged_file_is_named(make_plan):
    made = make_plan(unique_tokens=[300], objectives=["ar"], seeds=[1, 2], members=[2])
    for run in made.runs:
        finish(run, [5, 4, 5], best=2)
    (spec,) = planned(made)
    path = Path(path_of(spec, members(spec)))
    path.parent.mkdir()
    for damaged in ("{", "[]", '{"loss": 1.0, "even": null}'):
        path.write_text(damaged)
        with pytest.raises(WorkError, match="is damaged"):
            read(spec)


def test_planning_counts_them(make_plan, tmp_path, capsys):
    make_plan(unique_tokens=[300], seeds=[1, 2], members=[2])
    grid = str(tmp_path / "grid.yaml")
    assert main(["crossover", grid, "--plan"]) == 0
    assert "ensembles: 2 planned, 0 measured; each is measured once" in capsys.readouterr().out
    assert main(["crossover", grid, "--plan", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["runs"], body["ensembles"], body["measured"]) == (4, 2, 0)
    assert "ensembles" not in json.loads(_planned_json(grid, "members=[]", capsys))
    assert planned(plan(load_grid(grid)))[0].label == "AR, 300 unique, replicate 0, ensemble of seeds 1, 2"


def _planned_json(grid: str, change: str, capsys: pytest.CaptureFixture) -> str:
    assert main(["crossover", grid, change, "--plan", "--json"]) == 0
    return capsys.readouterr().out
