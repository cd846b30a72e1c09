"""Grids that are really run: killed and started again, one run failing, what they leave behind."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from epochal.train.crossover import launch
from epochal.train.crossover.curves import curves
from epochal.train.crossover.launch import Failure, result_of, tokens_so_far, unfinished
from epochal.train.crossover.report import render as report
from epochal.train.run_folder import read_metrics
from epochal.train.trainer import train

from .report.test_render import analysed

torch.set_num_threads(1)  # as many as a grid gives each of its runs: scores are equal to the last bit

SETTINGS = {"eval_tasks": {"tasks": ["continuation"], "limit": 8, "noise_samples": 2}, "model.dropout": 0.1}
PUBLISHED = ("curves.parquet", "runs.parquet", "crossovers.json", "report.html", "summary.md", "summary.csv")


def launch_quietly(plan, runs) -> None:
    launch.launch(plan, runs, jobs=2, quiet=True)


def alive(folder: str) -> list[int]:
    """Return the processes whose command line names `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and folder in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.processes
def test_killed_at_any_moment_and_started_again_it_ends_in_the_same_bytes(make_plan, tmp_path):
    changes = {"unique_tokens": [1003], "total_tokens": 30 * 1003, "settings": SETTINGS}
    whole = make_plan(**changes, out=str(tmp_path / "whole"))
    launch.prepare(whole, whole.runs)
    for run in whole.runs:
        train(run.config)
    report.publish(whole)

    killed = make_plan(**changes, out=str(tmp_path / "killed"))
    ar, mdm = killed.runs
    launch.prepare(killed, killed.runs)
    train(ar.config)  # finished work: must not be touched again
    before = {p: p.stat().st_mtime_ns for p in Path(ar.folder).rglob("*")}
    assert unfinished(killed) == [mdm]
    # Spawned processes would import torch once more; the fork has no threads of its own to lose.
    process = multiprocessing.get_context("fork").Process(target=launch_quietly, args=(killed, [mdm]))
    process.start()
    moment = random.Random(str(tmp_path)).uniform(0.1, 0.8) * mdm.total_tokens
    while tokens_so_far(mdm) < moment:
        assert process.is_alive(), Path(mdm.folder, "log.txt").read_text()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    deadline = time.monotonic() + 10
    while alive(mdm.folder):
        assert time.monotonic() < deadline, "a run outlived the process that started it"
        time.sleep(0.02)
    assert result_of(mdm) is None

    assert launch.launch(killed, unfinished(killed), jobs=2, quiet=True) == []
    body = report.publish(killed)
    assert (body["finished"], body["receipts_valid"]) == (2, 2)
    assert {p: p.stat().st_mtime_ns for p in Path(ar.folder).rglob("*")} == before
    for name in PUBLISHED:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert unfinished(killed) == []


@pytest.mark.processes
def test_a_run_that_fails_stops_no_other_and_is_named(make_plan, tmp_path, capfd, monkeypatch):
    made = make_plan(unique_tokens=[1003])
    launch.prepare(made, made.runs)
    bad, good = made.runs
    finish = "cp -r $0/. $1"  # the good run's process leaves what training left
    train(good.config)
    shutil.move(good.folder, tmp_path / "trained")
    os.mkdir(good.folder)
    commands = {
        bad.name: ["sh", "-c", "echo; echo 'epochal: the disk is full'; echo; exit 1"],
        good.name: ["sh", "-c", finish, str(tmp_path / "trained"), good.folder],
    }
    monkeypatch.setattr(launch, "command", lambda run, gpus: commands[run.name])
    (failure,) = launch.launch(made, unfinished(made), jobs=1)
    assert failure == Failure(bad, "the disk is full")
    body = report.publish(made)
    assert (body["runs"], body["finished"]) == (2, 1)
    table = pq.read_table(tmp_path / "out" / "runs.parquet").to_pylist()
    assert [row["state"] for row in table] == ["missing", "finished"]
    assert body["crossovers"] == []
    said = capfd.readouterr().err
    assert f"training  {bad.label}" in said
    assert f"FAILED  {bad.label}" in said


@pytest.mark.slow
def test_curves_say_what_the_runs_measured(make_plan, tmp_path):
    made = make_plan(unique_tokens=[300], settings=SETTINGS)
    launch.prepare(made, made.runs)
    outcomes = [train(run.config) for run in made.runs]
    report.publish(made)
    rows = pq.read_table(tmp_path / "out" / "curves.parquet").to_pylist()
    assert [r["step"] for r in rows] == [5, 10, 15, 20, 25] * 2
    assert {r["kind"] for r in rows if r["objective"] == "mdm"} == {"nelbo"}
    for run, outcome in zip(made.runs, outcomes, strict=True):
        own = [r for r in rows if r["run"] == run.name]
        kind = "nll" if run.objective == "ar" else "nelbo"
        assert own[-1]["loss"] == outcome["validation"][kind]
        assert own[-1]["tokens"] == outcome["tokens"]
        assert own[-1]["passes"] == own[-1]["tokens"] / 300
        assert all((r["loss_se"] == 0) == (kind == "nll") for r in own)
        assert all(0 <= r["continuation/accuracy"] <= 1 and r["continuation/delta_nll"] is not None for r in own)
        steps = [v for m in read_metrics(run.folder) for k, v in m.items() if k == f"loss/train/{kind}"]
        assert len(steps) == 25
        for row, first in zip(own, [0, 5, 10, 15, 20], strict=True):
            assert row["train_loss"] == pytest.approx(sum(steps[first : row["step"]]) / 5)
        assert all(r["learning_rate"] == pytest.approx(3e-3) for r in own)
    table = pq.read_table(tmp_path / "out" / "runs.parquet").to_pylist()
    for row in table:
        own = [r for r in rows if r["run"] == row["run"]]
        assert row["receipt"] == "valid"
        assert row["best_loss"] == min(r["loss"] for r in own)
        assert row["final_loss"] == own[-1]["loss"]
        for which in ("best", "final"):
            assert (tmp_path / "out" / row[f"{which}_checkpoint"] / "model.safetensors").exists()
    receipt = Path(made.runs[0].folder, "receipt.json")
    receipt.write_text(receipt.read_text().replace('"count": ', '"count": 1'))
    report.publish(made)
    assert pq.read_table(tmp_path / "out" / "runs.parquet").to_pylist()[0]["receipt"] != "valid"


@pytest.mark.slow
def test_a_cut_off_line_of_metrics_is_left_out(make_plan):
    made = make_plan(unique_tokens=[300])
    launch.prepare(made, made.runs)
    run = made.runs[0]
    train(run.config)
    rows, tokens = curves([run]), tokens_so_far(run)
    with Path(run.folder, "metrics.jsonl").open("a") as f:
        f.write('{"step": 25, "run/to')
    assert (curves([run]), tokens_so_far(run)) == (rows, tokens)


def test_two_at_once_on_one_grid_are_refused(make_plan, monkeypatch):
    made = make_plan()
    monkeypatch.setattr(launch, "LOCK_SECONDS", 0.0)
    with launch.locked(made.grid.out), pytest.raises(launch.RequestError, match="another `epochal crossover`"):
        launch.launch(made, made.runs, jobs=1, quiet=True)


def test_the_page_is_one_file_and_escapes_what_comes_from_data(make_plan):
    made = make_plan(unique_tokens=[300], overrides={"variables": {"<script>": ["<b>&"]}})
    page = report.render(made, [], [], analysed([], []))
    assert "<b>&" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert page.count("<script>") == 1
    assert json.dumps("<b>&") not in page
