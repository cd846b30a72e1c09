from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composer import Callback

from epochal.train.loggers import JsonlLogger
from epochal.train.run import prepare
from epochal.train.run_folder import METRICS_NAME, read_metrics
from epochal.train.trainer import build_trainer, train

torch.set_num_threads(1)  # these models are too small to share out


def test_metrics_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / METRICS_NAME
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"step": 4, "a"')
    logger = JsonlLogger(str(path))
    logger.fit_start(SimpleNamespace(timestamp=SimpleNamespace(batch=2)), None)  # type: ignore[arg-type]
    logger.log_metrics({"a": 5, "time/batch": 1}, step=3)
    logger.fit_end(None, None)  # type: ignore[arg-type]
    assert read_metrics(str(tmp_path)) == [{"step": 1, "a": 1}, {"step": 2, "a": 2}, {"step": 3, "a": 5.0}]


@pytest.mark.slow
def test_the_logs_name_kinds_and_count_exactly(run_config, tmp_path: Path) -> None:
    result = train(run_config("mdm", save_folder=str(tmp_path / "run")))
    last = read_metrics(str(tmp_path / "run"))[-1]
    assert last["step"] == 27
    assert last["run/tokens"] == result["tokens"]
    assert last["run/passes"] == pytest.approx(result["tokens"] / 1003)
    assert last["run/unique_tokens"] == 1003
    assert last["receipt/valid"] == 1.0
    assert {"metrics/validation/nelbo", "metrics/validation/nelbo_se", "run/lr", "throughput/tokens_per_sec"} <= set(
        last
    )
    assert "throughput/mfu" not in last  # no peak is known for a CPU
    assert read_metrics(str(tmp_path / "run"))[3]["run/grad_norm"] > 0


class ReadsMetrics(Callback):
    """Reads the file of metrics at every checkpoint, as a process started after a kill would find it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.found: list[dict[str, float]] = []

    def batch_checkpoint(self, state: Any, logger: Any) -> None:
        last = read_metrics(self.folder)[-1]
        assert last["step"] == int(state.timestamp.batch)
        self.found.append(last)


@pytest.mark.slow
def test_a_checkpoint_is_never_ahead_of_its_metrics(run_config, tmp_path: Path) -> None:
    trainer = build_trainer(prepare(run_config(save_folder=str(tmp_path / "run"))))
    reader = ReadsMetrics(str(tmp_path / "run"))
    trainer.state.callbacks.insert(0, reader)
    trainer.fit()
    trainer.close()
    assert len(reader.found) == 27
    assert ["metrics/validation/nll" in row for row in reader.found].count(True) == 2
    assert "metrics/validation/nll" in reader.found[9]
