"""Matching and clusters in several tasks: the same bytes, whatever their number, what they hold, and when they end."""

import json
import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from epochal.datapipe import deduplicate, external_sort
from epochal.datapipe.build import BuildResult, build
from epochal.datapipe.config import Build
from epochal.datapipe.stages import components
from epochal.datapipe.stages.cluster import Clusters, Members
from epochal.datapipe.stages.components import Stars
from epochal.datapipe.stages.duplicates import Rows
from epochal.datapipe.stages.fates import Decide
from epochal.datapipe.stages.match import Deal, Match
from epochal.tests.support.builds import same_files, settings
from epochal.tests.support.corpora import real_documents, write_jsonl


def with_copies(tmp_path: Path, **more: object) -> Build:
    """Return a build of documents with exact copies, some in every field, and near ones, which form chains."""
    texts = real_documents(90)
    copies = [*texts[:20], *(text.replace("e", "E", 1) + " end" for text in texts[10:35]), *[texts[0]] * 10]
    copies += [text.replace("e", "E", 1) + " end of it" for text in texts[20:30]]
    lines = [json.dumps({"id": f"d{i}", "text": text}).encode() for i, text in enumerate([*texts, *copies])]
    lines += [json.dumps({"id": "same", "text": texts[1]}).encode()] * 2 + [b'{"id": "bad"}'] * 3
    glob = write_jsonl(tmp_path / "in", lines, ["a.jsonl", "b.jsonl"])
    return settings(tmp_path / "whole", glob, max_reject_fraction=0.5, validation_tokens=3_000, **more)


@pytest.fixture(scope="module")
def near(tmp_path_factory) -> tuple[BuildResult, Build]:
    config = with_copies(tmp_path_factory.mktemp("near"))
    return build(config, quiet=True), config


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> tuple[BuildResult, Build]:
    config = with_copies(tmp_path_factory.mktemp("exact"), deduplicate={"near": None})
    return build(config, quiet=True), config


def elsewhere(config: Build, tmp_path: Path, tasks: int) -> Build:
    return config.model_copy(update={"out": str(tmp_path / "out"), "tasks": tasks})


def check_same(a: BuildResult, b: BuildResult) -> None:
    assert same_files(a.pool, b.pool)
    assert a.validation
    assert b.validation
    assert same_files(a.validation, b.validation)


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 2, 7])
@pytest.mark.parametrize("kind", ["near", "exact"])
def test_tasks_that_hold_little_in_memory_give_the_same_bytes(request, tmp_path, monkeypatch, kind, tasks):
    built, config = request.getfixturevalue(kind)
    removed = pq.read_table(f"{built.pool}/duplicates.parquet")
    assert len(removed) >= 30
    assert ("near" in removed["kind"].to_pylist()) == (kind == "near")
    monkeypatch.setattr(deduplicate, "SMALL_DOCUMENTS", 0)
    monkeypatch.setattr(external_sort, "IN_MEMORY", 16)
    monkeypatch.setattr(external_sort, "DEALT_BYTES", 100)
    monkeypatch.setattr(components, "EDGES_AT_ONCE", 5)
    monkeypatch.setattr("epochal.datapipe.stages.parts.AT_ONCE", 7)
    monkeypatch.setattr("epochal.datapipe.stages.pack.CUTS_AT_ONCE", 1)
    monkeypatch.setattr("epochal.datapipe.stages.pack.CUTS_OF_A_FILE", 1)
    monkeypatch.setattr("epochal.datapipe.stages.fates.KEPT_OPEN", 2)
    monkeypatch.setattr(external_sort, "MERGED", 2)
    check_same(built, build(elsewhere(config, tmp_path, tasks), quiet=True))


STEPS = [Deal, Match, Stars, Members, Clusters, Rows, Decide]


def build_killed_in(step: type, config: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build in a process that is killed when the second task of a step has done its work, but is not done."""
    process = os.fork()
    if process:
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        return
    do = step.do

    def killed(self, rank: int, world_size: int) -> None:
        do(self, rank, world_size)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        step.do = killed  # type: ignore[attr-defined]
        build(config, quiet=True)
    finally:
        os._exit(1)


@pytest.mark.slow
def test_a_build_killed_in_every_stage_and_run_again_gives_the_same_bytes(near, tmp_path, monkeypatch):
    monkeypatch.setattr(deduplicate, "SMALL_DOCUMENTS", 0)
    config = elsewhere(near[1], tmp_path, 2)
    for step in STEPS:
        build_killed_in(step, config, monkeypatch)
        (work,) = (tmp_path / "out" / "pools").glob(".p.building-*")
        (division,) = work.glob("match-*")
        assert division.name.startswith("match-2-")
    check_same(near[0], build(config, quiet=True))
    assert not list((tmp_path / "out" / "pools").glob(".p.building-*"))


@pytest.mark.processes
def test_several_processes_give_the_same_bytes(near, tmp_path, monkeypatch):
    monkeypatch.setattr(deduplicate, "SMALL_DOCUMENTS", 0)
    for name in ("SMALL_TOKENS", "SMALL_TOKENS_FORKED"):
        monkeypatch.setattr(f"epochal.datapipe.build.{name}", 0)
    config = elsewhere(near[1], tmp_path, 3).model_copy(update={"workers": 2})
    check_same(near[0], build(config, quiet=True))


@pytest.mark.slow
def test_what_no_stage_wants_any_more_is_removed(near, tmp_path, monkeypatch):
    monkeypatch.setattr(deduplicate, "SMALL_DOCUMENTS", 0)
    left = []

    def stop(layouts, packed, outcome, *_):
        left.extend(sorted(os.listdir(outcome.division.folder)))
        raise KeyboardInterrupt

    monkeypatch.setattr("epochal.datapipe.build.tables_of", stop)
    with pytest.raises(KeyboardInterrupt):
        build(elsewhere(near[1], tmp_path, 2), quiet=True)
    assert left == ["candidates", "counts", "drawn", "log", "removed", "rounds", "rows"]
