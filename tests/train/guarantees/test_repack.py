"""Runs whose documents are packed anew in every pass: their receipts are valid, also of one that was interrupted."""

import json
from pathlib import Path

import pytest
import torch

from epochal.__main__ import main
from epochal.shards.order.receipt import Receipt
from epochal.tests.support.training import interrupt, losses, weights
from epochal.train.config import TrainConfig
from epochal.train.run import prepare
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out


def packed(run_config, folder: Path, objective: str) -> TrainConfig:
    data = {"path": str(folder.parent / "artifacts/pools/toy"), "policy": "repack"}
    keys = {"train_loader": {"dataset": data}, "save_folder": str(folder), "autoresume": True, "save_interval": "5ba"}
    keys |= {"max_duration": "2.2ep"}
    return run_config(objective, **keys)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ar", "mdm"])
def test_its_receipt_is_valid_and_an_interruption_changes_nothing(run_config, tmp_path: Path, objective: str, capsys):
    expected = train(packed(run_config, tmp_path / "whole", objective))
    interrupt(packed(run_config, tmp_path / "parts", objective), 12)  # in the second pass: 63 samples each
    result = train(packed(run_config, tmp_path / "parts", objective))
    assert result["receipt"] == expected["receipt"]
    assert result["receipt"]["valid"]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    mine = weights(tmp_path / "parts")
    assert all(torch.equal(value, mine[name]) for name, value in weights(tmp_path / "whole").items())
    plan = prepare(packed(run_config, tmp_path / "again", objective)).plan
    assert (plan.policy, plan.samples, plan.copies) == ("repack", 63, 3)
    capsys.readouterr()
    assert main(["audit", str(tmp_path / "parts")]) == 0
    assert "every position of plan" in capsys.readouterr().out
    said = json.loads((tmp_path / "parts/receipt.json").read_text())
    assert said["plan"] == plan.to_dict()
    assert Receipt.from_dict(said).check() is None
    assert Receipt.from_dict(said | {"digest": "0" * 32}).check() is not None
