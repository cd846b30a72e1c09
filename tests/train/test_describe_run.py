"""What W&B, MLflow and TensorBoard are told of a run, read back from what they wrote: offline, the real packages."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from epochal.shards.carve import carve
from epochal.tests.support.servers import until
from epochal.train.loggers import told_of
from epochal.train.run import prepare
from epochal.train.run_folder import read_metrics
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out

pytestmark = pytest.mark.slow
SHORT = {"max_duration": "1ep", "save_interval": "1dur", "eval_interval": "1dur"}


@pytest.fixture
def subset(run_config, tmp_path: Path) -> dict[str, Any]:
    """Return settings that train on a subset of the pool."""
    run_config()  # makes the pools
    out = carve(str(tmp_path / "artifacts/pools/toy"), 501)[0]
    return SHORT | {"train_loader": {"dataset": {"path": out}}, "run_name": "told"}


def expected(config: Any) -> dict[str, Any]:
    facts = told_of(prepare(config))
    manifest = prepare(config).artifact.manifest
    assert facts["data.toy-501.fingerprint"] == manifest.fingerprint
    assert facts["data.toy-501.pool"] == manifest.parent.fingerprint
    assert facts["data.toy-501.passes"] == 1.0
    assert facts["plan.fingerprint"] == prepare(config).plan.fingerprint
    assert facts["model.hidden"] == 32
    assert facts["optimizer.lr"] == 3e-3
    return facts


def test_tensorboard(run_config, subset: dict, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for validated in (True, False):
        place = tmp_path / f"tb{validated}"
        changes = subset | {"loggers": {"tensorboard": {"log_dir": str(place)}}}
        config = run_config("ar", **changes, **({} if validated else {"eval_loader": None}))
        train(config)
        texts, hparams = "", {}
        for file in place.rglob("events.out.tfevents.*"):
            events = EventAccumulator(str(file)).Reload()
            plugins = events.summary_metadata
            if "run/text_summary" in plugins:
                texts += events.Tensors("run/text_summary")[0].tensor_proto.string_val[0].decode()
            if "_hparams_/session_start_info" in plugins:
                hparams = _hparams(plugins["_hparams_/session_start_info"])
        facts = expected(config)
        for key, value in facts.items():
            assert f"| {key} | {value} |" in texts
        assert hparams.keys() >= facts.keys()  # Composer has some of its own
        assert hparams["plan.fingerprint"] == f'"{facts["plan.fingerprint"]}"'


def _hparams(metadata: Any) -> dict[str, str]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    data = HParamsPluginData.FromString(metadata.plugin_data.content)
    return {key: value.string_value for key, value in data.session_start_info.hparams.items()}


def test_mlflow(run_config, subset: dict, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    store = f"sqlite:///{tmp_path}/mlflow.db"
    section = {"tracking_uri": store, "experiment_name": "x", "log_system_metrics": False, "synchronous": True}
    config = run_config("ar", **subset, loggers={"mlflow": section})
    train(config)
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("x").experiment_id])
    facts = expected(config)
    assert len(facts) > 40
    assert {key: run.data.params.get(key) for key in facts} == {key: str(value) for key, value in facts.items()}
    inputs = {
        item.dataset.name: (
            item.dataset.digest,
            json.loads(item.dataset.source),
            {tag.key: tag.value for tag in item.tags},
        )
        for item in run.inputs.dataset_inputs
    }
    ready = prepare(config)
    assert inputs.keys() == {"toy-501", "toy-val"}
    digest, source, tags = inputs["toy-501"]
    assert (digest, source["uri"]) == (facts["data.toy-501.fingerprint"], ready.artifact.root)
    assert (tags["mlflow.data.context"], tags["pool"]) == ("training", facts["data.toy-501.pool"])
    assert inputs["toy-val"][0] == ready.validation.manifest.fingerprint
    assert inputs["toy-val"][2]["mlflow.data.context"] == "validation"
    assert run.data.metrics["run/passes"] == 1.0

    # Gone on with, under the same name, with another learning rate: the first is kept, and a line says so.
    capsys.readouterr()
    again = run_config("ar", **subset | {"optimizer": {"lr": 1e-3}}, loggers={"mlflow": section | {"resume": True}})
    train(again)
    assert (
        "MLflow keeps the first values of what has changed since the run began: optimizer.lr" in capsys.readouterr().err
    )
    (run,) = client.search_runs([run.info.experiment_id])
    assert run.data.params["optimizer.lr"] == "0.003"


def records_of(data: bytes) -> Iterator[bytes]:
    """Yield the records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    place, begun = 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        begun += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part of one
            yield begun
            begun = b""


def test_wandb(run_config, subset: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    config = run_config("ar", **subset, loggers={"wandb": {"project": "x"}})
    train(config)
    assert wandb.run is None  # the run has been closed
    (file,) = tmp_path.rglob("run-*.wandb")

    def read() -> list[Any]:
        return [wandb_internal_pb2.Record.FromString(data) for data in records_of(file.read_bytes())]

    configs, artifacts = {}, {}
    until(
        lambda: "exit" in {record.WhichOneof("record_type") for record in read()},
        "W&B's own process has ended the file",
    )
    for record in read():
        for item in [*record.run.config.update, *record.config.update]:
            configs[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        if record.request.log_artifact.artifact.name:
            artifacts[record.request.log_artifact.artifact.name] = record.request.log_artifact.artifact
        if record.artifact.name:
            artifacts[record.artifact.name] = record.artifact
    facts = expected(config)
    assert {key: configs.get(key) for key in facts} == facts
    assert len(artifacts) == 2
    sent = artifacts[f"toy-501-{facts['data.toy-501.fingerprint'][:12]}"]
    about = json.loads(sent.metadata)
    assert (about["fingerprint"], about["pool"]) == (facts["data.toy-501.fingerprint"], facts["data.toy-501.pool"])
    assert [entry.ref for entry in sent.manifest.contents] == [f"file://{prepare(config).artifact.root}/manifest.json"]


def test_mixtures_say_the_passes_of_each_source(run_config, make_pool, tmp_path: Path) -> None:
    from epochal.tests.support.training import SEQ_LEN, tokens

    config = run_config()
    other = make_pool(tokens(5, 400), SEQ_LEN, name="other")
    sources = {
        "a b": {"path": config.train_loader.dataset.path, "epochs": 1},
        "more": {"path": str(other), "epochs": 3},
    }
    mixed = run_config(
        "ar",
        **SHORT | {"max_duration": ""},
        train_loader={"dataset": {"mixture": {"sources": sources, "window": 10}}},
        save_folder=str(tmp_path / "run"),
    )
    facts = told_of(prepare(mixed))
    assert (facts["data.a_b.passes"], facts["data.more.passes"]) == pytest.approx((1, 3), abs=0.02)
    train(mixed)
    last = read_metrics(str(tmp_path / "run"))[-1]
    assert last["run/passes/a_b"] == pytest.approx(facts["data.a_b.passes"])
    assert last["run/passes/more"] == pytest.approx(facts["data.more.passes"])


def test_a_logger_that_takes_nothing_is_named_and_the_run_goes_on(
    run_config, subset: dict, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    from composer.loggers import FileLogger

    plain = FileLogger.log_hyperparameters

    def refuse(self: FileLogger, facts: dict[str, Any]) -> None:
        if "plan.fingerprint" in facts:
            raise ValueError("no room")
        plain(self, facts)

    monkeypatch.setattr(FileLogger, "log_hyperparameters", refuse)
    result = train(run_config("ar", **subset, loggers={"file": {"filename": str(tmp_path / "log.txt")}}))
    assert result["receipt"]["valid"]
    assert "FileLogger was not told what the run is: no room" in capsys.readouterr().err
