"""Runs that pass over spans of positions, from their beginning or from where they went on with them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from epochal.__main__ import main
from epochal.common.errors import RequestError
from epochal.tests.support.ranks import in_ranks
from epochal.tests.support.training import interrupt, losses, weights
from epochal.train.run import prepare, schedule, snapshot_steps
from epochal.train.trainer import train

pytestmark = pytest.mark.slow
torch.set_num_threads(1)  # these models are too small to share out

SKIP = [[80, 99, "spike at step 10"], [150, 160, "spike at step 16"]]


def with_skip(run_config, folder: Path, skip: list, objective: str = "mdm", **changes):
    config = run_config(objective, save_folder=str(folder), autoresume=True, **changes)
    loader = config.train_loader
    dataset = loader.dataset.model_copy(update={"skip": [tuple(span) for span in skip]})
    return config.model_copy(update={"train_loader": loader.model_copy(update={"dataset": dataset})})


def test_a_run_gone_on_with_after_an_amendment_is_the_amended_run(run_config, tmp_path: Path, capsys):
    schedule_of = {"scheduler": {"name": "cosine_with_warmup", "t_warmup": "0.1dur"}, "save_interval": "5ba"}
    expected = train(with_skip(run_config, tmp_path / "whole", SKIP, **schedule_of))
    interrupt(with_skip(run_config, tmp_path / "parts", [], **schedule_of), 10)
    interrupt(with_skip(run_config, tmp_path / "parts", SKIP[:1], **schedule_of), 15)
    result = train(with_skip(run_config, tmp_path / "parts", SKIP, **schedule_of))
    assert result["receipt"] == expected["receipt"]
    assert result["receipt"]["valid"]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    mine = weights(tmp_path / "parts")
    assert all(torch.equal(value, mine[name]) for name, value in weights(tmp_path / "whole").items())
    capsys.readouterr()
    assert main(["audit", str(tmp_path / "parts")]) == 0
    assert "every position of plan" in capsys.readouterr().out
    plan = json.loads((tmp_path / "parts/receipt.json").read_text())["plan"]
    assert plan["skip"] == SKIP


@pytest.mark.processes
@pytest.mark.parametrize("ranks", [2, 4])
def test_on_several_ranks_it_is_the_same(run_config, tmp_path: Path, ranks: int):
    keys = {"device_train_microbatch_size": 8 // ranks}
    expected = train(with_skip(run_config, tmp_path / "one", SKIP))
    in_ranks(ranks, interrupt, with_skip(run_config, tmp_path / "several", [], **keys), 10)
    in_ranks(ranks, train, with_skip(run_config, tmp_path / "several", SKIP, **keys))
    result = json.loads((tmp_path / "several/result.json").read_text())["result"]
    assert result["receipt"] == expected["receipt"]
    np.testing.assert_allclose(losses(tmp_path / "several"), losses(tmp_path / "one"), rtol=0, atol=5e-5)


def test_a_run_that_has_read_what_is_skipped_is_refused_in_a_line(run_config, tmp_path: Path):
    interrupt(with_skip(run_config, tmp_path / "run", [], save_interval="5ba"), 15)
    with pytest.raises(RequestError) as caught:
        train(with_skip(run_config, tmp_path / "run", SKIP, save_interval="5ba"))
    assert "at position 120 it has read some of the new skip [80, 99]: go on from a checkpoint at or before" in str(
        caught.value
    )
    assert "train_loader.dataset.skip" in str(caught.value)
    earlier = {"load_path": str(tmp_path / "run/ba10-rank0.pt"), "save_interval": "5ba"}
    config = with_skip(run_config, tmp_path / "again", SKIP, **earlier)
    assert train(config)["receipt"]["valid"]
    late = earlier | {"load_path": str(tmp_path / "run/ba15-rank0.pt")}
    with pytest.raises(RequestError, match="it has read some of the new skip"):
        train(with_skip(run_config, tmp_path / "late", SKIP, **late))


def test_a_finished_run_is_asked_for_with_the_same_skips(run_config, tmp_path: Path):
    result = train(with_skip(run_config, tmp_path / "run", SKIP))
    reworded = [[a, b, "another reason"] for a, b, _ in SKIP]
    assert train(with_skip(run_config, tmp_path / "run", reworded)) == result
    with pytest.raises(RequestError, match="skipped no more"):
        train(with_skip(run_config, tmp_path / "run", []))


def test_schedules_pass_over_what_is_skipped(run_config, tmp_path: Path):
    whole = prepare(with_skip(run_config, tmp_path / "a", []))
    run = prepare(with_skip(run_config, tmp_path / "b", [[80, 120, "spike"]]))
    assert (whole.steps, run.steps, run.planned_steps) == (27, 22, 27)
    assert [schedule(run)(s) for s in range(10)] == [schedule(whole)(s) for s in range(10)]
    assert [schedule(run)(s) for s in range(10, 22)] == [schedule(whole)(s) for s in range(15, 27)]
    cycles = {"scheduler": {"name": "cosine_cycles", "t_warmup": "2ba", "cycles": 3}}
    assert snapshot_steps(prepare(with_skip(run_config, tmp_path / "a", [], **cycles))) == [10, 19, 27]
    assert snapshot_steps(prepare(with_skip(run_config, tmp_path / "b", [[80, 120, "x"]], **cycles))) == [10, 14, 22]


def test_what_is_no_skip_is_refused_by_its_key(run_config, tmp_path: Path):
    for skip, text in (
        ([[80, 99]], r"skip \[80, 99\] has no reason: write \[80, 99, loss spike\], say"),
        ([[99, 80, "x"]], "which is larger"),
        ([[0, 5, "x"], [3, 9, "y"]], "without any overlap"),
        ("80", "give a list of spans"),
    ):
        data = {"path": "p", "skip": skip}
        config = run_config().model_dump()
        config["train_loader"]["dataset"] = data
        with pytest.raises(ValidationError, match=text):
            type(run_config()).model_validate(config)
    with pytest.raises(RequestError, match=r"train_loader.dataset.skip: skip \[80, 9999\]: the plan ends at"):
        prepare(with_skip(run_config, tmp_path / "run", [[80, 9999, "x"]]))
