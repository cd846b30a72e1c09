"""Ensembles that are really measured: of one model it is the run's own figure, of several the mean of probabilities."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epochal.__main__ import main
from epochal.shards.artifact import open_artifact
from epochal.train.checkpoint import load_model
from epochal.train.crossover import launch
from epochal.train.crossover.ensembles import measure
from epochal.train.crossover.ensembles.members import measured, members, planned, read
from epochal.train.crossover.report import render
from epochal.train.eval.likelihood import Rows
from epochal.train.trainer import train

torch.set_num_threads(1)

PUBLISHED = ("curves.parquet", "runs.parquet", "crossovers.json", "report.html", "summary.md", "summary.csv")
SETTINGS = {
    "eval_loader.dataset.samples": 13,
    "device_eval_batch_size": 5,
    "model": {"init_std": 0.3, "dropout": 0.2},
    "optimizer.lr": 0.03,
    "algorithms.ema": {"half_life": "2ba"},
}
"""With all that a run may measure otherwise than it trains."""


@pytest.fixture
def trained(make_plan) -> Any:
    """Return a grid whose runs, two seeds of each type on 300 unique tokens, are finished."""
    made = make_plan(unique_tokens=[300], total_tokens=1800, seeds=[1, 2], members=[2], settings=SETTINGS)
    launch.prepare(made, made.runs)
    for run in made.runs:
        train(run.config)
    return made


def mean_nll(folders: list[str], pool: str, samples: int) -> float:
    """Return nats per token of the mean of probabilities of AR models, text by text."""
    models, nats, tokens = [load_model(folder)[0].double() for folder in folders], 0.0, 0
    for row in Rows(open_artifact(pool), samples):
        inputs = torch.from_numpy(np.concatenate([[256], row[:-1]]))[None]
        with torch.no_grad():
            mean = torch.stack([m(inputs).double().softmax(-1) for m in models]).mean(0)
        nats -= float(mean[torch.arange(len(row)), torch.from_numpy(row)].log().sum())
        tokens += len(row)
    return nats / tokens


def ensembles(out: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(out, "ensembles").iterdir()}


@pytest.mark.slow
def test_a_member_alone_has_its_runs_loss_and_several_have_the_mean_of_probabilities(trained, capsys, tmp_path):
    for spec in planned(trained):
        of = members(spec)
        for own, member in zip(spec.runs, of, strict=True):
            alone = measure.measure(dataclasses.replace(spec, runs=(own,)), [member])
            row = member.row
            assert [alone[k] for k in ("loss", "even", "odd")] == [row["loss"], row["even/loss"], row["odd/loss"]]
            assert alone["loss_se"] == row["loss_se"]
            assert alone["kind"] == row["kind"]
        record = measure.measure(spec, of)
        together = np.mean([m["loss"] for m in record["members"]])
        assert record["loss"] < together  # Jensen, and the seeds differ
        receipts = [json.loads(Path(m.run.folder, "receipt.json").read_text())["digest"] for m in of]
        assert [m["receipt"] for m in record["members"]] == receipts
        folders = [member.folder for member in of]
        if spec.first.objective == "ar":
            pool = str(tmp_path / "artifacts" / "pools" / "toy-val")
            assert record["loss"] == pytest.approx(mean_nll(folders, pool, 13), abs=2e-6)
        words = ["--loss", trained.grid.validation_pool, "--loss-samples", "13", "--out", str(tmp_path / "x"), "--json"]
        assert main(["evaluate", *folders, "--ensemble", *words]) == 0
        (likelihood,) = json.loads(capsys.readouterr().out)["likelihoods"]
        assert (likelihood["model"], likelihood["kind"]) == (record["fingerprint"], record["kind"])
        assert [m["receipt"] for m in likelihood["members"]] == receipts
        if record["kind"] == "nll":
            assert record["loss"] == pytest.approx(likelihood["per_token"], abs=2e-6)


@pytest.mark.slow
def test_interrupted_and_taken_up_again_it_gives_the_same_bytes_and_measures_nothing_twice(
    trained, make_plan, tmp_path, monkeypatch
):
    changes = {"unique_tokens": [300], "total_tokens": 1800, "seeds": [1, 2], "members": [2], "settings": SETTINGS}
    shutil.copytree(trained.grid.out, tmp_path / "again")
    again = make_plan(**changes, out=str(tmp_path / "again"))
    assert measure.measure_missing(trained, quiet=True) == []
    render.publish(trained)
    whole = ensembles(trained.grid.out)
    assert len(whole) == 2

    real, calls = measure.measure, list[str]()

    def cut_short(spec: Any, *rest: Any) -> Any:
        if calls:
            raise KeyboardInterrupt
        calls.append(spec.stem)
        return real(spec, *rest)

    monkeypatch.setattr(measure, "measure", cut_short)
    with pytest.raises(KeyboardInterrupt):
        measure.measure_missing(again, quiet=True)
    assert len(ensembles(again.grid.out)) == 1
    found = measured(again)
    assert (len(found.records), found.missing) == (1, 1)
    monkeypatch.setattr(measure, "measure", lambda spec, *rest: (calls.append(spec.stem), real(spec, *rest))[1])
    assert measure.measure_missing(again, quiet=True) == []
    assert measure.measure_missing(again, quiet=True) == []
    assert sorted(calls) == sorted(spec.stem for spec in planned(again))
    assert ensembles(again.grid.out) == whole
    render.publish(again)
    for name in PUBLISHED:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


@pytest.mark.slow
def test_a_changed_model_is_measured_anew_and_one_that_is_gone_or_damaged_is_named(trained, tmp_path, capsys):
    grid = str(tmp_path / "grid.yaml")
    assert main(["crossover", grid, "--quiet", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (len(body["ensembles"]["rows"]), body["ensembles"]["missing"], body["failures"]) == (2, 0, [])
    assert {f["ar_side"] for f in body["best"]} == {"default", "ensemble of 2"}
    first = ensembles(trained.grid.out)
    ar = [run for run in trained.runs if run.objective == "ar"]
    shutil.rmtree(Path(ar[0].folder, "best"))
    shutil.copytree(Path(ar[1].folder, "best"), Path(ar[0].folder, "best"))
    assert main(["crossover", grid, "--quiet", "--json"]) == 0
    capsys.readouterr()
    assert len(ensembles(trained.grid.out).keys() - first.keys()) == 1
    spec = planned(trained)[0]
    assert read(spec)["loss"] == pytest.approx(members(spec)[1].row["loss"], abs=1e-6)  # twice the same model

    weights = Path(ar[0].folder, "best", "model.safetensors")
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    shutil.rmtree(Path(trained.grid.out, "ensembles"))
    assert main(["crossover", grid, "--quiet", "--json"]) == 1
    said = capsys.readouterr()
    assert "AR, 300 unique, replicate 0, ensemble of seeds 1, 2: " in said.err
    assert "is damaged" in said.err
    (failure,) = json.loads(said.out)["failures"]
    assert failure["ensemble"] == "u300-ar-r0-m2"
    shutil.rmtree(weights.parent)
    assert main(["crossover", grid, "--quiet"]) == 1
    said = capsys.readouterr()
    assert "best holds no model: put it back" in said.err
    assert "ensembles: 1 not measured yet" in said.out
