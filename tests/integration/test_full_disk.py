"""A disk that is full while a command writes: a line that says so and where, whichever library wrote.

The limit is on the size of a file (RLIMIT_FSIZE), for which the system refuses a write as it does on a full disk; a
small file system of its own needs rights that tests do not have. tests/stress/full_disk.py uses one.
"""

import contextlib
import json
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from epochal.__main__ import main
from epochal.tests.support.pools import TINY_RUN, letters
from epochal.train import trainer  # noqa: F401  (imported before the limit, under which Python keeps parts of files)

torch.set_num_threads(1)  # these models are too small to share out


@contextlib.contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """Let no file that this process, or one that it starts, writes become larger. Python would keep parts of modules
    that it compiled meanwhile, so it writes none."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)


def refusal(words: list[str], n_bytes: int, capsys: pytest.CaptureFixture) -> str:
    """Return the line with which a command ends that may not write larger files."""
    capsys.readouterr()
    with files_of_at_most(n_bytes):
        status = main(words)
    error = capsys.readouterr().err
    assert status == 1, error
    lines = [line for line in error.splitlines() if line.startswith("epochal: ")]
    assert "failed with" not in error
    assert "Traceback" not in error
    return lines[-1]


@pytest.mark.parametrize("n_bytes", [100, 400, 900])
def test_carving_and_exporting(make_pool: Callable[..., Path], tmp_path: Path, capsys, n_bytes: int) -> None:
    pool = make_pool(3000)
    commands = [["carve", str(pool), "--unique-tokens", "1003", "--materialize", "--out"]]
    commands += [
        ["export", str(pool), "--format", name, "--out"] for name in ("wds", "parquet", "megatron", "bin", "hf")
    ]
    for words in commands:
        line = refusal([*words, str(tmp_path / "new")], n_bytes, capsys)
        assert "larger than is allowed" in line
        assert str(tmp_path) in line
        assert not (tmp_path / "new").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"artifacts"}


@pytest.mark.slow
@pytest.mark.parametrize(("n_bytes", "workers"), [(100, 1), (2000, 1), (8000, 1), (2000, 2)])
def test_building(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, n_bytes: int, workers: int) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"id": str(i), "text": f"{i} and {i * i} " * 40}) for i in range(100)]
    Path("text.jsonl").write_text("\n".join(rows))
    body = {"name": "p", "out": "out", "seq_len": 64, "tasks": workers, "workers": workers, "validation_tokens": 0}
    Path("build.yaml").write_text(yaml.safe_dump(body | {"sources": [{"name": "s", "path": "text.jsonl"}]}))
    line = refusal(["build", "build.yaml", "--quiet"], n_bytes, capsys)
    assert "larger than is allowed" in line or "could not write why: no space left" in line
    assert "out/pools" in line


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [100, 2000, 10_000, 20_000])
def test_training(make_pool: Callable[..., Path], tmp_path: Path, capsys, n_bytes: int) -> None:
    pool = make_pool(letters(1, 2003), name="toy")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(TINY_RUN))
    words = ["train", str(tmp_path / "run.yaml"), "progress_bar=false", f"save_folder={tmp_path / 'run'}"]
    words += [f"train_loader.dataset.path={pool}", f"eval_loader.dataset.path={pool}"]
    line = refusal(words, n_bytes, capsys)
    assert str(tmp_path / "run") in line
    assert any(text in line for text in ("larger than is allowed", "is there no space left?", "File too large"))
