"""What a build does before its first document: it imports nothing that it does not use, and makes nothing twice."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from epochal.datapipe.build import build
from epochal.datapipe.text.analysers import analyser_of, given_up_on_failure
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import write_jsonl
from epochal.tokenize.pieces import PieceTable
from epochal.tokenize.tokenizer import load_tokenizer

UNUSED = (
    *("pandas", "polars", "torch", "streaming", "composer", "transformers", "scipy", "matplotlib", "sklearn", "jinja2"),
    *("huggingface_hub.hf_api", "requests", "httpx", "boto3", "datasets", "spacy", "pyarrow.dataset", "sqlalchemy"),
    *("datatrove.pipeline.filters", "epochal.shards.buckets.divide"),
)

PROGRAM = """
import os, sys

def noted(name, function):
    def call(*args, **kwargs):
        with open("made", "a") as f:
            f.write(f"{name} {os.getpid()}\\n")
        return function(*args, **kwargs)
    return call

if __name__ == "__main__":
    from epochal.__main__ import main
    from epochal.datapipe.run.fork_server import set_environment
    set_environment()
    from epochal.tokenize import engines, tokenizer
    for name in ("fast_engine", "reference_engine", "mergeable_ranks"):
        setattr(tokenizer, name, noted(name, getattr(tokenizer, name)))
    assert main(["build", "c.json", "--quiet", *sys.argv[1:]]) == 0
    print(os.getpid(), *sys.modules)
"""


def documents(n: int) -> list[bytes]:
    return [
        json.dumps({"id": str(i), "text": f"The {i}th of some documents, their words mostly shared"}).encode()
        for i in range(n)
    ]


def run(tmp_path: Path, *overrides: str) -> tuple[int, set[str], list[list[str]]]:
    """Build; return the number of the main process, its modules, and what was made in which process."""
    config = settings(tmp_path, write_jsonl(tmp_path / "in", documents(40), ["a.jsonl", "b.jsonl"]))
    (tmp_path / "c.json").write_text(config.model_dump_json())
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-W", "ignore", "program.py", *overrides]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    main, *modules = done.stdout.splitlines()[-1].split()
    return int(main), set(modules), [line.split() for line in (tmp_path / "made").read_text().splitlines()]


@pytest.mark.slow
def test_a_build_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    main, modules, made = run(tmp_path)
    assert modules.isdisjoint(UNUSED)
    assert sorted(made) == [[name, str(main)] for name in ("fast_engine", "mergeable_ranks", "reference_engine")]


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not say how many threads there are")
def test_the_engines_are_made_once_for_all_tasks(tmp_path: Path) -> None:
    main, modules, made = run(tmp_path, "tasks=2", "workers=2")
    assert modules.isdisjoint(UNUSED)
    by_name = dict(made)
    assert len(made) == len(by_name) == 3
    assert by_name["mergeable_ranks"] == str(main), "tasks that read text do not need them"
    assert by_name["fast_engine"] == by_name["reference_engine"] != str(main), "the server makes the engines"


def test_a_piece_is_learnt_once_for_all_tasks_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[bytes] = []
    resolve = PieceTable._resolve
    monkeypatch.setattr(PieceTable, "_resolve", lambda self, pieces: [learnt.extend(pieces), resolve(self, pieces)][1])
    names = [f"{i}.jsonl" for i in range(4)]
    build(settings(tmp_path, write_jsonl(tmp_path / "in", documents(40), names), tasks=4), quiet=True)
    assert len(learnt) == len(set(learnt)) > 40
    assert analyser_of.cache_info().currsize == 0, "it is given up with the stage"


def test_an_analyser_is_kept_until_something_fails() -> None:
    tokenizer = load_tokenizer("gpt2")
    with given_up_on_failure():
        first = analyser_of(tokenizer, np.uint16)
    assert analyser_of(tokenizer, np.uint16) is first
    with pytest.raises(KeyError), given_up_on_failure():
        raise KeyError
    assert analyser_of(tokenizer, np.uint16) is not first
    assert analyser_of(tokenizer, np.uint32) is not analyser_of(tokenizer, np.uint16)
