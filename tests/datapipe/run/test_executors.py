import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.common.errors import RequestError, WorkError
from epochal.datapipe import deduplicate
from epochal.datapipe.build import BuildResult, build
from epochal.datapipe.config import Build
from epochal.shards.artifact import read_manifest
from epochal.tests.support.builds import same_files, settings
from epochal.tests.support.clusters import ray_cluster, ray_workers, slurm_cluster
from epochal.tests.support.corpora import real_documents, write_jsonl

SLURM = {"name": "slurm", "partition": "debug", "mem_per_cpu_gb": 1, "time": "00:05:00"}


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> tuple[BuildResult, Build]:
    tmp_path = tmp_path_factory.mktemp("local")
    lines = [json.dumps({"id": f"d{i}", "text": text}).encode() for i, text in enumerate(real_documents(200))]
    glob = write_jsonl(tmp_path / "in", [*lines, *lines[:20]], ["a.jsonl", "b.jsonl"])
    config = settings(tmp_path, glob, validation_tokens=5_000)
    return build(config, quiet=True), config


@pytest.fixture(scope="module")
def ray() -> Iterator[dict[str, object]]:
    with ray_cluster() as address:
        yield {"name": "ray", "address": address, "mem_per_cpu_gb": 0.5}


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, object]]:
    with slurm_cluster():
        yield SLURM


def elsewhere(config: Build, tmp_path: Path, executor: object) -> Build:
    changes = {"out": str(tmp_path / "out"), "executor": executor, "tasks": 2, "workers": 2}
    return Build.model_validate(config.model_dump() | changes)


def check_same(a: BuildResult, b: BuildResult) -> None:
    assert b.new
    assert a.validation is not None
    assert b.validation is not None
    assert read_manifest(a.pool).fingerprint == read_manifest(b.pool).fingerprint
    assert same_files(a.pool, b.pool)
    assert same_files(a.validation, b.validation)


def kill_in_mid_stage(config: Build, tmp_path: Path, kill: Callable[[], bool]) -> None:
    """Start the build, `kill` its workers (True when there was one) while they ingest, and the build itself."""
    (tmp_path / "c.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "epochal", "build", str(tmp_path / "c.json"), "--quiet"]
    process = subprocess.Popen(command, start_new_session=True, cwd=tmp_path)
    try:
        while not (list((tmp_path / "out" / "pools").glob(".p.building-*/parts/*.partial")) and kill()):
            assert process.poll() is None
            time.sleep(0.01)
        assert len(list((tmp_path / "out" / "pools").glob(".p.building-*/parts/part-?????"))) < config.tasks
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def matched_in_tasks(monkeypatch) -> None:
    """Have the executor match even the few documents that the build's own process would."""
    monkeypatch.setattr(deduplicate, "SMALL_DOCUMENTS", 0)


@pytest.mark.processes
@pytest.mark.usefixtures("matched_in_tasks")
def test_ray_gives_the_bytes_of_local(local, ray, tmp_path) -> None:
    check_same(local[0], build(elsewhere(local[1], tmp_path, ray), quiet=True))


@pytest.mark.processes
def test_killed_ray_workers_and_a_second_run(local, ray, tmp_path) -> None:
    def kill() -> bool:
        workers = ray_workers()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(workers)

    config = elsewhere(local[1], tmp_path, ray)
    kill_in_mid_stage(config, tmp_path, kill)
    check_same(local[0], build(config, quiet=True))


@pytest.mark.processes
@pytest.mark.usefixtures("matched_in_tasks")
def test_slurm_gives_the_bytes_of_local(local, slurm, tmp_path) -> None:
    check_same(local[0], build(elsewhere(local[1], tmp_path, slurm), quiet=True))


@pytest.mark.processes
def test_killed_slurm_jobs_and_a_second_run(local, slurm, tmp_path) -> None:
    def kill() -> bool:
        return subprocess.run(["scancel", "--signal=KILL", "--full", "--user=root"]).returncode == 0

    config = elsewhere(local[1], tmp_path, slurm)
    kill_in_mid_stage(config, tmp_path, kill)
    check_same(local[0], build(config, quiet=True))


@pytest.mark.processes
def test_a_killed_local_task_ends_the_build_and_a_second_one_goes_on(local, tmp_path) -> None:
    def children(pid: int) -> list[int]:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    config = elsewhere(local[1], tmp_path, "local")
    (tmp_path / "c.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "epochal", "build", str(tmp_path / "c.json"), "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out" / "pools").glob(".p.building-*/parts/*.partial")):
        assert process.poll() is None
        time.sleep(0.01)
    tasks = [task for child in children(process.pid) for task in children(child)]
    os.kill(tasks[0], signal.SIGKILL)
    assert "tasks of stage ingest were lost" in process.communicate(timeout=120)[1]
    assert process.returncode == 1
    check_same(local[0], build(config, quiet=True))


@pytest.mark.processes
@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_what_a_task_raises_is_one_line_here(local, tmp_path, request, cluster) -> None:
    executor = cluster if cluster == "local" else request.getfixturevalue(cluster)
    config = elsewhere(local[1], tmp_path, executor)
    data = json.dumps({"filters": [{"name": "GopherRepetitionFilter", "dup_para_frac": "a third"}]})
    config = Build.model_validate(config.model_dump() | json.loads(data))
    with pytest.raises(WorkError) as error:
        build(config, quiet=True)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("filter GopherRepetitionFilter fails on document 'd")


@pytest.mark.parametrize(
    ("executor", "message"),
    [
        ("rey", "executor"),
        ("slurm", r"'executor\.partition' must be given"),
        ({"name": "slurm", "partitions": "x"}, r"did you mean 'executor\.partition'"),
    ],
)
def test_wrong_executors_are_refused(tmp_path, executor, message) -> None:
    with pytest.raises(RequestError, match=message):
        settings(tmp_path, "x", executor=executor)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "message"),
    [
        ("executor={name: ray, address: '127.0.0.1:9'}", "no Ray cluster at 127.0.0.1:9: ray start --head makes one"),
        ("executor={name: slurm, partition: debug}", "executor slurm needs the command scancel"),
    ],
)
def test_no_cluster_is_one_line(local, tmp_path, monkeypatch, capfd, executor, message) -> None:
    pytest.importorskip("ray").shutdown()
    (tmp_path / "c.json").write_text(local[1].model_copy(update={"out": str(tmp_path)}).model_dump_json())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["build", str(tmp_path / "c.json"), "--quiet", executor]) == 2
    *_, line = capfd.readouterr().err.splitlines()
    assert message in line
