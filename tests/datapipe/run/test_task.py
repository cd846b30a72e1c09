import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from epochal.common.errors import RequestError, WorkError
from epochal.datapipe.run import executors, task
from epochal.datapipe.settings.executors import SlurmExecutor
from epochal.tests.support.code import pickled


class Touch:
    """Makes a file when it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self) -> None:
        self.path.write_text("ran")


def test_only_what_the_build_wrote_is_run(tmp_path: Path) -> None:
    data, expected = task.pickled(Touch(tmp_path / "done"))
    path = tmp_path / "logs" / "ingest" / "task.pickle"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    task.run(str(path), expected)
    assert (tmp_path / "done").exists()
    path.write_bytes(pickled(tmp_path / "ran"))
    with pytest.raises(WorkError, match="is not what the build wrote there"):
        task.run(str(path), expected)
    assert not (tmp_path / "ran").exists()
    assert json.loads((path.parent / "errors" / "00000.json").read_text())["type"] == "WorkError"


def test_the_description_holds_secrets_as_they_were_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TEST_SECRET", "Zq81-s3cr3t")
    written = {"Zq81-s3cr3t": "${oc.env:TEST_SECRET}"}
    data, expected = task.pickled(Touch(tmp_path / "Zq81-s3cr3t"), written)
    assert b"Zq81-s3cr3t" not in data
    (tmp_path / "task.pickle").write_bytes(data)
    task.run(str(tmp_path / "task.pickle"), expected)
    assert (tmp_path / "Zq81-s3cr3t").exists()
    with pytest.raises(RequestError, match=r"https://\*\*\*@h/a would be written .* as \$\{oc.env:NAME\}"):
        task.pickled(["https://u:p@h/a"], written)
    where = SlurmExecutor(name="slurm", partition="debug", setup="export TOKEN=Zq81-s3cr3t")
    script = executors._on_slurm(where, [], 1, 1, f"{tmp_path}/.work/logs/ingest", written).env_command
    assert script.endswith("export TOKEN=${TEST_SECRET}")


def test_the_script_of_a_slurm_job_runs_its_tasks_and_refuses_others(tmp_path: Path, monkeypatch) -> None:
    where = SlurmExecutor(name="slurm", partition="debug", time="00:05:00")
    folder = f"{tmp_path}/.work/logs/ingest"
    executor = executors._on_slurm(where, [], 1, 1, folder, {})
    script = executor.get_launch_file_contents({"array": "0-0"}, "launch_pickled_pipeline executor.pik")
    assert "launch_pickled_pipeline" not in script
    command = shlex.split(script.strip().splitlines()[-1])
    assert command[:4] == [os.path.basename(sys.executable), "-P", "-m", "epochal.datapipe.run.task"]
    (Path(folder) / "ranks_to_run.json").write_text("[]")  # datatrove's list of what is left: nothing, here
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "0", "PATH": f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"}
    assert subprocess.run(["bash", "-e", "-c", script], env=environment, cwd=tmp_path).returncode == 0
    Path(command[4]).write_bytes(pickled(tmp_path / "ran"))
    assert subprocess.run(["bash", "-e", "-c", script], env=environment, cwd=tmp_path).returncode == 1
    assert not (tmp_path / "ran").exists()
