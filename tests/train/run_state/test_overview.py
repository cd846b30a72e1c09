"""`epochal list`: what lies below a folder, damaged things included."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.shards.carve import carve

BEGUN = {"objective": {"name": "mdm"}}
ENDED = {"finished": "2026-11-28 12:00:00+00:00", "result": {"tokens": 5000, "validation": {"nelbo": 3.25}}}
METRICS = '{"step": 7, "run/tokens": 70.0, "metrics/validation/nelbo": 5.5}\n{"step": 8, "run/tokens": 80.0}\n'


def run_folder(folder: Path, files: dict[str, object]) -> None:
    folder.mkdir(parents=True)
    for name, body in files.items():
        (folder / name).write_text(body if isinstance(body, str) else json.dumps(body))


def test_artifacts_and_runs_in_every_state(
    make_pool: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    root = make_pool(1000).parent.parent.parent
    carve(str(root / "artifacts/pools/toy"), 500)
    damaged = root / "artifacts/pools/damaged"
    damaged.mkdir()
    (damaged / "manifest.json").write_text('{"format": "epochal"')
    run_folder(root / "runs/ended", {"run.json": BEGUN, "result.json": ENDED})
    run_folder(root / "runs/begun", {"run.json": BEGUN})
    run_folder(root / "runs/grid/half", {"run.json": BEGUN, "metrics.jsonl": METRICS})
    run_folder(root / "runs/odd", {"run.json": "[1]"})
    monkeypatch.chdir(root)
    assert main(["list", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    kinds = {a["path"]: a["kind"] for a in body["artifacts"]}
    assert kinds["artifacts/pools/toy"] == "pool"
    assert kinds["artifacts/subsets/toy-500"] == "subset"
    assert kinds["artifacts/pools/damaged"] == "damaged"
    states = {r["path"]: (r["state"], r["tokens"], r["validation"]) for r in body["runs"]}
    assert states["runs/ended"] == ("finished 2026-11-28", 5000, "NELBO 3.2500")
    assert states["runs/begun"] == ("no step yet", None, "")
    assert states["runs/grid/half"] == ("step 8", 80, "NELBO 5.5000")
    assert states["runs/odd"][0].startswith("damaged")
    assert main(["list"]) == 0
    assert "toy-500" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert main(["list", str(tmp_path / "empty")]) == 0
    assert "no artifacts and no runs" in capsys.readouterr().out
    assert main(["list", str(root / "nowhere")]) == 2


def test_runs_of_a_grid_stand_together_below_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("u2k-ar-r0-s17-0123abcd", "u2k-mdm-r0-s17-abcd0123"):
        run_folder(
            tmp_path / "runs/a-long-name-of-a-grid-of-runs/runs" / name, {"run.json": BEGUN, "result.json": ENDED}
        )
    run_folder(tmp_path / "runs/ended", {"run.json": BEGUN, "result.json": ENDED})
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[2].startswith("runs/ended  mdm")
    assert said[3:5] == ["", "2 runs of a grid, in runs/a-long-name-of-a-grid-of-runs/runs:"]
    assert [line.split()[0] for line in said[7:]] == ["u2k-ar-r0-s17-0123abcd", "u2k-mdm-r0-s17-abcd0123"]
    assert max(map(len, said)) <= 80
