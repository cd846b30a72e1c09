"""A store that says for a moment that there is no such file: nothing is written over, nothing is made anew."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from epochal.common import storage
from epochal.common.errors import RequestError
from epochal.common.remote import patience
from epochal.datapipe.build import build
from epochal.shards.artifact import read_manifest
from epochal.shards.carve import carve
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents, write_jsonl
from epochal.tests.support.pools import letters
from epochal.train.run_folder import RunFolder
from epochal.train.saved import hashes

TIMES = 2
"""How often a store says so of each file; asked three times, it is believed."""


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Yield what makes the store at memory:// forget each of its files, TIMES times."""
    store = MemoryFileSystem()
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.001)
    asked: Counter[str] = Counter()

    def forget() -> None:
        for name in ("info", "cat_file", "ls"):
            whole = getattr(MemoryFileSystem, name)

            def answer(self: Any, path: str, *rest: Any, whole: Any = whole, name: str = name, **more: Any) -> Any:
                asked[f"{name} {path}"] += 1
                if asked[f"{name} {path}"] <= TIMES:
                    raise FileNotFoundError(path)
                return whole(self, path, *rest, **more)

            monkeypatch.setattr(MemoryFileSystem, name, answer)

    yield forget
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def test_what_is_there_is_found(forgetful: Callable[[], None]) -> None:
    storage.write_atomic("memory://a/b", b"text")
    forgetful()
    assert storage.exists("memory://a/b")
    assert storage.read_bytes("memory://a/b", may_lack=True) == b"text"
    assert not storage.exists("memory://a/c")
    assert storage.names("memory://a") == ["b"]
    assert storage.names("memory://c") == []


def test_a_subset_is_not_written_over(make_pool: Callable[..., Path], forgetful: Callable[[], None]) -> None:
    pool = str(make_pool(letters(1, 4003), 32, name="toy"))
    carve(pool, 1003, out="memory://carved/s", materialize=True)
    forgetful()
    with pytest.raises(RequestError, match="memory://carved/s exists and holds something else"):
        carve(pool, 2003, out="memory://carved/s", materialize=True)
    assert read_manifest("memory://carved/s").tokens == 1003


@pytest.mark.slow
def test_a_pool_is_not_built_again(tmp_path: Path, forgetful: Callable[[], None]) -> None:
    lines = [json.dumps({"id": f"d{i}", "text": text}).encode() for i, text in enumerate(real_documents(20))]
    config = settings(tmp_path, write_jsonl(tmp_path / "in", lines, ["a.jsonl"]), out="memory://built/out", workers=1)
    assert build(config, quiet=True).new
    forgetful()
    assert not build(config, quiet=True).new


def test_a_run_is_not_taken_for_a_new_one(tmp_path: Path, forgetful: Callable[[], None]) -> None:
    storage.write_atomic("memory://runs/r/run.json", b"{}")
    hashes.write("memory://runs/r", {})
    forgetful()
    assert RunFolder("memory://runs/r", str(tmp_path)).read("run.json") == b"{}"
    assert storage.exists("memory://runs/r/hashes.json")
