"""Code planted in every kind of file that a command reads from others: it is refused or passed over, and never run.

The marker is a file that the planted code would make. What is refused is said in one line.
"""

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from epochal.__main__ import main
from epochal.common.publish import FileInfo
from epochal.service.document_index import DocumentIndex
from epochal.tests.support.code import pickled, touch
from epochal.tests.support.pools import TINY_RUN
from epochal.train.checkpoint import ModelCard, save_model
from epochal.train.model.transformer import ModelConfig, Transformer

torch.set_num_threads(1)  # these models are too small to share out

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return `run(*words)`: the exit status of a command that ran no planted code and said what it had to in a line."""
    monkeypatch.chdir(tmp_path)

    def status(*words: str) -> int:
        code = main(list(words))
        error = capsys.readouterr().err
        assert not Path("ran").exists(), words
        assert code in (0, 1, 2)
        assert "Traceback" not in error
        assert "failed with" not in error
        return code

    return status


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def build(source: dict[str, Any]) -> list[str]:
    """Return the words of a small build of one source."""
    config = {"name": "p", "out": "out", "seq_len": 16, "tasks": 1, "workers": 1, "sources": [{"name": "s", **source}]}
    Path("build.yaml").write_text(yaml.safe_dump(config | {"deduplicate": {"near": None}, "validation_tokens": 0}))
    return ["build", "build.yaml", "--quiet"]


def extension(marker: Path, column: pa.Array, name: str) -> pa.Table:
    """Return a table whose column says that it is of a type to be unpickled."""
    metadata = {"ARROW:extension:name": b"arrow.py_extension_type", "ARROW:extension:metadata": pickled(marker)}
    return pa.table([column], schema=pa.schema([pa.field(name, column.type, metadata=metadata)]))


def npy(marker: Path) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([touch(marker)], object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.slow
def test_sources_of_a_build(run: Run, marker: Path) -> None:
    from streaming import MDSWriter

    tokenized = {"tokenized": {"tokenizer": "gpt2"}}
    with MDSWriter(out="mds", columns={"tokens": "ndarray:uint16", "more": "pkl"}) as writer:
        writer.write({"tokens": np.arange(5, dtype="u2"), "more": touch(marker)})
    assert run(*build({"format": "mds", "path": "mds", **tokenized})) == 2
    with tarfile.open("a.tar", "w") as tar:
        member = tarfile.TarInfo("0.tokens.npy")
        member.size = len(npy(marker))
        tar.addfile(member, io.BytesIO(npy(marker)))
    assert run(*build({"format": "wds", "path": "a.tar", **tokenized})) == 1
    texts, ids = pa.array(["some text"]), pa.array([[1, 2, 3]], pa.list_(pa.uint16()))
    pq.write_table(extension(marker, texts, "text"), "text.parquet")
    assert run(*build({"format": "parquet", "path": "text.parquet"})) == 0
    pq.write_table(extension(marker, ids, "input_ids"), "ids.parquet")
    run(*build({"format": "parquet", "path": "ids.parquet", **tokenized}), "name=q")
    table = extension(marker, ids, "input_ids")
    with pa.ipc.new_stream("ids.arrow", table.schema) as stream:
        stream.write_table(table)
    run(*build({"format": "hf", "path": "ids.arrow", **tokenized}), "name=r")
    Path("build.yaml").write_text(f"name: !!python/object/apply:builtins.open ['{marker}', w]\n")
    assert run("build", "build.yaml") == 2


@pytest.mark.slow
def test_a_data_set_with_a_script(run: Run, marker: Path) -> None:
    pytest.importorskip("datasets", reason="the package datasets is missing (extra 'hf')")
    Path("script").mkdir()
    Path("script", "script.py").write_text(f"open({str(marker)!r}, 'w')\n")
    assert main(build({"format": "hub", "path": str(marker.parent / "script")})) != 0
    assert not marker.exists()


def test_artifacts(run: Run, marker: Path, make_pool: Callable[..., Path]) -> None:
    pool = make_pool(500)
    documents = pq.read_table(pool / "documents.parquet")
    fields = [
        f.with_metadata(
            {"ARROW:extension:name": b"arrow.py_extension_type", "ARROW:extension:metadata": pickled(marker)}
        )
        for f in documents.schema
    ]
    pq.write_table(documents.cast(pa.schema(fields)), pool / "documents.parquet")
    manifest = json.loads((pool / "manifest.json").read_text())
    manifest["files"]["documents.parquet"] = FileInfo.at(str(pool / "documents.parquet")).model_dump()
    (pool / "manifest.json").write_text(json.dumps(manifest))
    for words in (["verify"], ["show"], ["plan", "--total-tokens", "1k"], ["carve", "--unique-tokens", "100"]):
        run(words[0], str(pool), *words[1:])
    run("export", str(pool), "--format", "parquet", "--out", "exported")
    folder = marker.parent / "index" / "x"
    folder.mkdir(parents=True)
    for name in ("key", "start", "tokens", "key_prefix", "key_row", "id_hash", "id_row", "group"):
        (folder / f"{name}.npy").write_bytes(npy(marker))
    with contextlib.suppress(Exception):  # refused, or made anew
        DocumentIndex(str(pool), "x", str(folder.parent))
    assert not marker.exists()


@pytest.mark.slow
def test_models(run: Run, marker: Path) -> None:
    info = {"name": "gpt2", "fingerprint": "0" * 32, "vocab_size": 259, "eod": 256, "pad": 257, "mask": 258}
    shape = ModelConfig(259, 1, 16, 2, 24, True)
    save_model("model", Transformer(shape).state_dict(), ModelCard(shape, {}, "nll", info, 16, {}))
    weights = Path("model", "model.safetensors")
    for name in ("pytorch_model.bin", "model.safetensors"):
        torch.save({"state": touch(marker)}, Path("model", name))
        for words in (
            ["evaluate", "model", "--tasks", "hellaswag", "--data", "."],
            ["generate", "model"],
            ["export-model", "model", "--out", "hf"],
        ):
            status = run(*words)
            assert status or name != "model.safetensors"
        weights.unlink()
        Path("model", "hashes.json").unlink(missing_ok=True)


@pytest.mark.slow
def test_checkpoints(run: Run, marker: Path, make_pool: Callable[..., Path]) -> None:
    make_pool(2000, name="toy")
    Path("run.yaml").write_text(yaml.safe_dump(TINY_RUN))
    train = ["train", "run.yaml", f"train_loader.dataset.path={marker.parent}/artifacts/pools/toy", "eval_loader=null"]
    train += ["max_duration=1ep", "progress_bar=false"]
    torch.save({"state": {"model": touch(marker)}}, "other.pt")
    assert run(*train, "save_folder=a", "load_path=other.pt") == 2
    folder = Path("b")
    folder.mkdir()
    os.rename("other.pt", folder / "ba3-rank0.pt")
    os.symlink("ba3-rank0.pt", folder / "latest-rank0.pt")
    assert run(*train, "save_folder=b", "autoresume=true") == 2
    info = FileInfo.at("b/ba3-rank0.pt").model_dump()
    store, state = fsspec.filesystem("memory"), {"checkpoint": "ba3-rank0.pt", "files": {"ba3-rank0.pt": info}}
    store.put_file("b/ba3-rank0.pt", "/planted/ba3-rank0.pt")
    store.pipe_file("/planted/published.json", json.dumps(state | {"service_sent": None}).encode())
    cache = "train_loader.dataset.cache=cache"
    assert run(*train, cache, "save_folder=memory://planted", "autoresume=true") == 2
    assert run(*train, "save_folder=c", "load_path=memory://planted/ba3-rank0.pt") == 2
    Path("run.yaml").write_text(f"seed: !!python/object/apply:builtins.open ['{marker}', w]\n")
    assert run("train", "run.yaml") == 2
    assert run("crossover", "run.yaml") == 2
