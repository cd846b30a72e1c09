"""Models and checkpoints in a store that for a time sends something wrong: the same figures, or a line that says it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from epochal.__main__ import main
from epochal.common.remote import patience
from epochal.datapipe.build import build
from epochal.shards.loader.cache import CACHE_VARIABLE
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents, write_jsonl
from epochal.tests.support.pools import TINY_RUN
from epochal.tests.support.web import TROUBLES, Web, web
from epochal.train.checkpoint import load_model
from epochal.train.config import TrainConfig
from epochal.train.trainer import train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:This DataLoader will create")]

torch.set_num_threads(1)  # these models are too small to share out


def run_of(folder: Path, save_folder: Path, **changes: Any) -> TrainConfig:
    base = json.loads(json.dumps(TINY_RUN)) | {"max_duration": "3072tok", "seed": 3, "progress_bar": False}
    base["train_loader"]["dataset"]["path"] = str(folder / "out/pools/p")
    base["eval_loader"]["dataset"]["path"] = str(folder / "out/pools/p-val")
    return TrainConfig.model_validate(base | {"save_folder": str(save_folder), "run_name": "run"} | changes)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Web, Path]]:
    """Serve a pool and a run on it; yield the server and the folder."""
    folder = tmp_path_factory.mktemp("served")
    lines = [json.dumps({"id": f"d{i}", "text": text}).encode() for i, text in enumerate(real_documents(40))]
    glob = write_jsonl(folder / "in", lines, ["a.jsonl"])
    build(settings(folder, glob, samples_per_shard=64, validation_tokens=1000), quiet=True)
    train(run_of(folder, folder / "run"))
    with web(folder) as server:
        yield server, folder


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


Read = Callable[[str, Path, Path, Any], Any]


def said(words: list[str], capsys: pytest.CaptureFixture) -> Any:
    """Return what a command prints as JSON, or the line that it ends with."""
    capsys.readouterr()
    status = main(words)
    out, error = capsys.readouterr()
    if status:
        assert "Traceback" not in error
        return error.splitlines()[-1]
    return json.loads(out)


def evaluated(root: str, folder: Path, scratch: Path, capsys: Any) -> Any:
    words = ["evaluate", f"{root}/run", "--loss", f"{folder}/out/pools/p-val", "--loss-samples", "4", "--json"]
    found = said([*words, "--out", str(scratch / "evaluated")], capsys)
    return found if isinstance(found, str) else found["likelihoods"]


def generated(root: str, folder: Path, scratch: Path, capsys: Any) -> Any:
    return said(["generate", f"{root}/run/final", "def f(", "--max-new-tokens", "4", "--json"], capsys)


def gone_on(root: str, folder: Path, scratch: Path, capsys: Any) -> Any:
    train(run_of(folder, scratch / "gone on", load_path=f"{root}/run/ba5-rank0.pt"))
    return json.loads((scratch / "gone on/result.json").read_text())["result"]["validation"]


def started(root: str, folder: Path, scratch: Path, capsys: Any) -> Any:
    train(run_of(folder, scratch / "started", max_duration="512tok", init_from=f"{root}/run/final"))
    return [p.sum().item() for p in load_model(str(scratch / "started/final"))[0].parameters()]


READERS: dict[str, Read] = {"evaluate": evaluated, "generate": generated, "load_path": gone_on, "init_from": started}
"""By name: what is read, and how. They take seconds, and meet some of the troubles."""


@pytest.mark.parametrize("reader", READERS)
def test_troubles_that_pass_change_nothing(served: tuple[Web, Path], tmp_path: Path, capsys, reader: str) -> None:
    server, folder = served
    read = READERS[reader]
    right = read(str(folder), folder, tmp_path / "here", capsys)
    assert not isinstance(right, str), right
    for trouble in list(TROUBLES)[:: 2 if reader in ("evaluate", "generate") else 4]:
        server.make(trouble, 2)
        assert read(f"http://{server.address}", folder, tmp_path / trouble, capsys) == right, trouble


def test_weights_are_what_was_saved_each_time_they_are_read(served: tuple[Web, Path], tmp_path: Path, capsys) -> None:
    server, folder = served
    right = evaluated(str(folder), folder, tmp_path / "here", capsys)
    server.make("other bytes", 1, "final/model.safetensors", after=1)  # for the digest that noise follows from
    assert evaluated(f"http://{server.address}", folder, tmp_path / "there", capsys) == right


@pytest.mark.parametrize(
    ("trouble", "name"),
    [
        ("other bytes", "model.safetensors"),
        ("404", "model.safetensors"),
        ("a long page", "config.json"),
        ("a long page", "hashes.json"),
        ("404", "hashes.json"),
    ],
)
def test_troubles_that_stay_end_in_a_line(
    served: tuple[Web, Path], tmp_path: Path, capsys, trouble: str, name: str
) -> None:
    server, folder = served
    server.make(trouble, 10**9, f"final/{name}")
    line = generated(f"http://{server.address}", folder, tmp_path, capsys)
    if (trouble, name) == ("404", "hashes.json"):  # what has none is read, after a line
        assert isinstance(line, dict)
        return
    assert line.startswith("epochal: ")
    assert name in line or "holds no model" in line
