"""A run folder and the run that asks for it: what has changed is refused by its key, or told."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from epochal.common.errors import RequestError, WorkError
from epochal.tests.support.training import interrupt
from epochal.train.run_state.environment import current
from epochal.train.run_state.identity import FIGURES, MAY_CHANGE, may_change
from epochal.train.trainer import train

pytestmark = pytest.mark.slow
torch.set_num_threads(1)  # these models are too small to share out

OTHER_FIGURES: dict[str, Any] = {
    "optimizer": {"lr": 1e-4},
    "scheduler": {"name": "constant_with_warmup", "t_warmup": "2ba"},
    "algorithms": {"gradient_clipping": {"clipping_type": "norm", "clipping_threshold": 0.5}},
    "seed": 4,
    "eval_interval": "5ba",
    "max_duration": "3ep",
}


def test_a_changed_setting_is_refused_by_its_key_and_what_was_asked_is_written(run_config, tmp_path: Path, capsys):
    folder = tmp_path / "run"
    where = {"save_folder": str(folder), "autoresume": True}
    interrupt(run_config(**where), 12)
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written["optimizer"]["lr"] == json.loads((folder / "run.json").read_text())["optimizer"]["lr"]
    assert current("cpu", "fp32").items() <= json.loads((folder / "environment.json").read_text()).items()
    for key, value in OTHER_FIGURES.items():
        with pytest.raises(RequestError, match=rf"holds another run: .*{key}") as caught:
            train(run_config(**where, **{key: value}))
        assert "\n" not in str(caught.value)
    capsys.readouterr()
    result = train(run_config(**where, save_interval="5ba"))
    assert "settings that no figure follows from have changed: save_interval" in capsys.readouterr().err
    for key, value in OTHER_FIGURES.items():  # nor is the result of a finished run that of another
        with pytest.raises(RequestError, match=rf"holds another run: .*{key}"):
            train(run_config(**where, **{key: value}))
    assert train(run_config(**where, save_interval="7ba")) == result
    said = capsys.readouterr().err
    assert re.search(r"is already finished, on 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\S*: nothing was trained now", said)
    assert "asked for otherwise now, which changed nothing: save_interval" in said


@pytest.mark.parametrize("name", ["run.json", "environment.json", "result.json"])
def test_a_damaged_file_of_a_run_is_named(run_config, tmp_path: Path, name: str):
    where = {"save_folder": str(tmp_path / "run"), "autoresume": True, "max_duration": "1ep"}
    train(run_config(**where))
    path = tmp_path / "run" / name
    path.write_text(path.read_text()[: len(path.read_text()) // 2])
    if name == "environment.json":
        (tmp_path / "run/result.json").unlink()  # else nothing is gone on with
    with pytest.raises(WorkError, match=rf"run/{name} is damaged"):
        train(run_config(**where))


def test_every_setting_counts_or_may_change(run_config):
    body = run_config().model_dump(mode="json")
    unsaid = [key for key in body if not any(known.split(".")[0] == key for known in (*FIGURES, *MAY_CHANGE))]
    assert unsaid == []
    assert not may_change("a_setting_to_come")
