"""The GPU benchmark without a GPU: what cases come to, what is said of those that were cut, a dry run of everything."""

import json
import math
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from epochal.benchmarks.gpu import correctness, crossover, page, speed
from epochal.benchmarks.gpu.__main__ import main
from epochal.benchmarks.gpu.process import Kept, Outcome, run_case
from epochal.benchmarks.gpu.sizes import FULL, TOY, Place
from epochal.benchmarks.gpu.stages import ENVIRONMENT, Case, Column, Stage, stages
from epochal.benchmarks.train import configured
from epochal.common import storage
from epochal.common.errors import WorkError
from epochal.train.run import prepare

COLUMNS = (Column("what", "what"), Column("rate", "tokens/s", ",.0f", "measured: by hand"), Column("no", "unused"))
MACHINE = Outcome("finished", [{"what": "machine", "figure": "a toy"}])


def writes(text: str, place: Place) -> list[dict]:
    (place.kept / text).touch()
    return [{"what": text, "fresh": not any(place.folder.iterdir())}]


def fails(place: Place) -> list[dict]:
    raise ValueError("the last line that it said")


def never_ends(place: Place) -> list[dict]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    storage.write_atomic(str(place.kept / "child"), str(child.pid).encode())
    time.sleep(600)
    return []


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.processes
def test_a_case_finishes_fails_or_is_cut_with_all_that_it_started(tmp_path: Path):
    finished = run_case(Case("a", partial(writes, "note")), tmp_path, "stage", 240, gpu=False)
    assert (finished.state, finished.rows) == ("finished", [{"what": "note", "fresh": True}])
    assert (tmp_path / "work" / "stage" / "note").exists()

    failed = run_case(Case("b", fails), tmp_path, "stage", 240, gpu=False)
    assert failed.state == "failed"
    assert "the last line that it said" in failed.reason
    assert not failed.passed

    note = tmp_path / "work" / "stage" / "child"
    for seconds in (1, 5, 30):  # in so many it must have started a process of its own, on a crowded machine too
        cut = run_case(Case("c", never_ends), tmp_path, "stage", seconds, gpu=False)
        assert cut.state == "cut"
        if note.exists():
            break
    child = int(note.read_text())
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(child)
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["stage"], "what cases worked in is thrown away"


def test_what_was_measured_counts_on_the_same_machine_alone(tmp_path: Path):
    case, outcome = Case("ar 4 passes", fails), Outcome("finished", [{"what": "x", "rate": 2.5}], 3.0)
    kept = Kept(tmp_path, ["this machine", {"steps": (1, 2)}])
    assert kept.read("speed", case) is None
    kept.write("speed", case, outcome)
    again = kept.read("speed", case)
    assert again is not None
    assert (again.rows, again.kept) == (outcome.rows, True)
    assert Kept(tmp_path, ["another", {"steps": (1, 2)}]).read("speed", case) is None
    assert Kept(tmp_path, ["this machine", {"steps": (1, 3)}]).read("speed", case) is None


def test_the_page_names_what_was_cut_what_failed_what_was_not_run_and_each_figures_kind():
    cases = tuple(Case(name, fails) for name in ("one", "two", "three", "four"))
    stage, environment = Stage("speed", "Training", COLUMNS, cases), stages(TOY)[0]
    done = {
        "one": Outcome("finished", [{"what": "a|b", "rate": 1234.5}]),
        "two": Outcome("cut", [], 0.0, "not begun"),
        "three": Outcome("failed", [], 0.0, "out of memory"),
    }
    text = page.markdown((environment, stage), {ENVIRONMENT: {"machine": MACHINE}, "speed": done}, dry=False)
    assert text.startswith("# On a toy\n")
    assert "| a\\|b | 1,234 |" in text
    assert "unused" not in text
    assert "* tokens/s: measured: by hand." in text
    assert "* two: cut for lack of time: not begun" in text
    assert "* three: FAILED: out of memory" in text
    assert "* Not run: four." in text
    assert "dry run" not in text
    assert page.DRY in page.markdown((environment, stage), {}, dry=True)


@pytest.mark.parametrize("sizes", [TOY, FULL])
def test_names_of_cases_tell_them_apart_and_every_figure_has_a_kind(sizes):
    for stage in stages(sizes):
        names = [case.name for case in stage.cases]
        assert len(set(names)) == len(names)
        assert all(column.kind for column in stage.columns if column.pattern)


@pytest.mark.parametrize(
    ("loss", "gradient", "passed"), [(1.0, 1.0, True), (1.001, 1.0, False), (1.0, 1.001, False), (math.nan, 1.0, False)]
)
def test_a_loss_or_gradient_that_is_off_does_not_pass(loss: float, gradient: float, passed: bool):
    reference = {"loss": torch.ones(()).double(), "a": torch.ones(3).double(), "b": torch.zeros(2).double()}
    found = reference | {"loss": reference["loss"] * loss, "a": reference["a"] * gradient}
    row = correctness.errors(reference, found, "float32")
    assert row["passed"] is passed
    assert Outcome("finished", [{}, row]).passed is passed
    with pytest.raises(WorkError, match="other weights"):
        correctness.errors(reference, {k: v for k, v in found.items() if k != "b"}, "float32")


@pytest.mark.parametrize("sizes", [TOY, FULL])
@pytest.mark.parametrize("objective", ["ar", "mdm"])
def test_the_configurations_of_a_gpu_are_valid_ones(sizes, objective: str, tmp_path: Path):
    (run,) = crossover.grid(objective, 4, sizes, tmp_path).runs
    assert run.total_tokens == 4 * sizes.unique_tokens
    assert run.config.autoresume
    for number, model in enumerate(sizes.models):
        settings = speed.settings_of(model, objective, True, sizes)
        config = configured(settings, sizes.steps, tmp_path / str(number), sizes.gpu)
        assert config.compile_config == sizes.compiled
        for key, value in sizes.arms:
            arm = configured(settings | {key: value}, 9, tmp_path / f"{number} {key} {value}", sizes.gpu)
            assert getattr(arm, key) == value
        assert prepare(config.model_copy(update={"precision": "fp32"})).steps == sizes.steps
    assert configured(sizes.checked | {"objective": {"name": objective}}, 1, tmp_path / "checked", sizes.gpu)


def test_without_a_gpu_it_says_what_to_do():
    said = benchmark("--minutes", "1")
    assert said.returncode == 2
    assert said.stderr.strip().splitlines()[-1].startswith("epochal: torch sees no GPU here: --dry-run")


@pytest.mark.slow
@pytest.mark.processes
def test_a_dry_run_goes_through_every_stage_and_a_second_one_measures_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    first = benchmark("--dry-run", "--out", str(out))
    assert first.returncode == 0, first.stdout + first.stderr
    text = (out / "gpu.md").read_text()
    assert page.DRY in text
    for stage in stages(TOY):
        assert f"## {stage.title}\n" in text
        assert all(f"{case.name}: " in first.stderr for case in stage.cases)
    assert not any(word in text for word in ("cut for lack of time", "FAILED", "Not run", "| NO |"))
    assert len(list(out.glob("cases/*/*.json"))) == sum(len(stage.cases) for stage in stages(TOY)) - 1
    assert "precision amp_fp8 needs a GPU: use precision=fp32 on a CPU" in text
    assert "| tiny mdm, attention_backend: math | " in text
    body = json.loads((out / "cases" / "crossover" / "mdm.json").read_text())["outcome"]["rows"][0]
    assert (body["kind"], body["receipt"]) == ("nelbo", "valid")

    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):  # which it sets
        monkeypatch.setenv(name, os.environ.get(name, ""))
    assert main(["--dry-run", "--out", str(out)]) == 0
    cases = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("machine: ")]
    assert cases
    assert all(line.endswith(": measured before") for line in cases)
    assert (out / "gpu.md").read_text() == text


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "epochal.benchmarks.gpu", *words]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
