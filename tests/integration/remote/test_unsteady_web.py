"""A store that for a time sends something wrong changes no result; one that goes on is named, in one line."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epochal.common.errors import EpochalError
from epochal.common.remote import patience
from epochal.datapipe.build import build
from epochal.service.document_index import DocumentIndex
from epochal.shards.artifact import open_artifact, read_any_manifest
from epochal.shards.carve import carve
from epochal.shards.export import export
from epochal.shards.loader.dataset import RepeatedDataset
from epochal.shards.loader.sample_reader import SampleReader
from epochal.shards.order.plan import Plan
from epochal.shards.verify import verify
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents, write_jsonl
from epochal.tests.support.web import TROUBLES, Web, web
from epochal.tokenize.tokenizer import load_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

Read = Callable[[str, Path], Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Web, Path]]:
    """Serve a built pool, a subset and exports of it, and the text it was made of; yield the server and the folder."""
    folder = tmp_path_factory.mktemp("served")
    lines = [json.dumps({"id": f"d{i}", "text": text}).encode() for i, text in enumerate(real_documents(40))]
    write_jsonl(folder / "in", lines, ["a.jsonl", "b.jsonl"])
    pool = build(settings(folder, f"{folder}/in/*.jsonl", samples_per_shard=64), quiet=True).pool
    carve(pool, 5_001, out=f"{folder}/out/subsets/s", materialize=True)
    for layout in ("parquet", "wds", "hf", "bin", "megatron"):
        export(pool, layout, f"{folder}/out/exports/{layout}")
    (folder / "flat").mkdir()
    shutil.copy(folder / "out/exports/bin/train.bin", folder / "flat")
    with web(folder) as server:
        yield server, folder


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)


def loaded(root: str, scratch: Path) -> Any:
    dataset = RepeatedDataset(root, _plan(root), global_batch=8, cache=str(scratch / "cache"))
    return [sample["tokens"].tolist() for sample in dataset]


def _plan(root: str) -> Plan:
    m = open_artifact(root).manifest
    return Plan.for_artifact(m, m.tokens, 0, "reshuffle")


def validated(root: str, scratch: Path) -> Any:
    artifact = open_artifact(root)
    return SampleReader.of(artifact, str(scratch / "cache")).read(np.arange(artifact.manifest.samples)).tolist()


def carved(root: str, scratch: Path) -> Any:
    return read_any_manifest(carve(root, 5_001, out=str(scratch / "carved"), materialize=True)[0]).fingerprint


def exported(root: str, scratch: Path) -> Any:
    return read_any_manifest(export(root, "parquet", str(scratch / "exported"))[0]).fingerprint


FILES = {"parquet": "/data/*.parquet", "wds": "/*.tar", "bin": "/*.bin"}
"""Patterns of an export's files: not every web server lists a folder."""


def imported(format: str) -> Read:
    def read(root: str, scratch: Path) -> Any:
        source: dict[str, Any] = {"name": "s", "path": f"{root}{FILES.get(format, '')}", "format": format}
        if root.endswith(("parquet", "flat")):
            source["tokenized"] = {} if format == "parquet" else {"tokenizer": "gpt2"}
        return read_any_manifest(build(settings(scratch, source, samples_per_shard=64), quiet=True).pool).fingerprint

    return read


def built(root: str, scratch: Path) -> Any:
    return read_any_manifest(
        build(settings(scratch, f"{root}/a.jsonl", samples_per_shard=64), quiet=True).pool
    ).fingerprint


def found(root: str, scratch: Path) -> Any:
    index = DocumentIndex(root, "f" * 32, str(scratch / "index"))
    return [index.by_id(f"d{i}") for i in range(40)]


POOL, SUBSET, EXPORTS = "out/pools/p", "out/subsets/s", "out/exports"
READERS: dict[str, tuple[str, Read]] = {
    "verify a pool": (POOL, lambda root, _: verify(root)),
    "verify a subset": (SUBSET, lambda root, _: verify(root)),
    **{
        f"verify {name}": (f"{EXPORTS}/{name}", lambda root, _: verify(root))
        for name in ("parquet", "wds", "hf", "bin", "megatron")
    },
    "load": (SUBSET, loaded),
    "validate": (POOL, validated),
    "carve": (POOL, carved),
    "export": (SUBSET, exported),
    "import a pool": (POOL, imported("mds")),
    "import parquet": (f"{EXPORTS}/parquet", imported("parquet")),
    "import wds": (f"{EXPORTS}/wds", imported("wds")),
    "import bin": (f"{EXPORTS}/bin", imported("bin")),
    "plan": (POOL, lambda root, _: _plan(root).fingerprint),
    "tokenizer": (POOL, lambda root, _: load_tokenizer(root).info),
    "find": (POOL, found),
}
"""By name: what is read, and how."""

WITHOUT_HASHES: dict[str, tuple[str, Read]] = {
    "build": ("in", built),
    "import flat files": ("flat", imported("bin")),
}
"""The same where no hash says what is right: an answer that is none is noticed, and a size that is not the listed."""


BUILDS = {name for name in READERS if name.startswith("import")}
"""What takes seconds, and reads through what the others read through: a third of the troubles is for these."""

STAY = [
    (reader, trouble, name)
    for reader in READERS
    for trouble in ("a page", "404")
    for name in ("manifest.json", "shard.00001.mds", "documents.parquet", ".tar")
    if reader not in BUILDS or (trouble, name) in {("404", "manifest.json"), ("a page", "shard.00001.mds")}
]


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_troubles_that_pass_change_nothing(served: tuple[Web, Path], tmp_path: Path, reader: str) -> None:
    server, folder = served
    where, read = READERS[reader]
    server.make("", 0)
    right = read(f"{folder}/{where}", tmp_path / "here")
    for trouble in list(TROUBLES)[:: 3 if reader in BUILDS else 1]:
        server.make(trouble, 2)
        assert read(f"http://{server.address}/{where}", tmp_path / trouble) == right, trouble


@pytest.mark.slow
@pytest.mark.parametrize("reader", WITHOUT_HASHES)
@pytest.mark.parametrize("after", [0, 1])
def test_what_has_no_hash_has_a_size(served: tuple[Web, Path], tmp_path: Path, reader: str, after: int) -> None:
    server, folder = served
    where, read = WITHOUT_HASHES[reader]
    server.make("", 0)
    right = read(f"{folder}/{where}", tmp_path / "here")
    for trouble in ("a page", "a long page"):  # the first time a file is read for its digest
        server.make(trouble, 2, after=after)
        assert read(f"http://{server.address}/{where}", tmp_path / trouble) == right, trouble
    server.make("a long page", 10**9, after=after)
    with pytest.raises(EpochalError, match=r"it has [\d,]+ bytes now, where it had [\d,]+"):
        read(f"http://{server.address}/{where}", tmp_path / "never")


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "trouble", "name"), STAY)
def test_troubles_that_stay_end_in_a_line(
    served: tuple[Web, Path], tmp_path: Path, reader: str, trouble: str, name: str
) -> None:
    server, folder = served
    where, read = READERS[reader]
    if not any(name in path.name for path in (folder / where).rglob("*")):
        pytest.skip("it has no such file")
    server.make(trouble, 10**9, name)
    message, result = "", None
    try:
        result = read(f"http://{server.address}/{where}", tmp_path / "there")
    except EpochalError as error:
        message = str(error)
    if reader.startswith("verify") and result is not None:
        assert len(result) >= 1
        message = result[0]
    elif result is not None:
        assert not any(server.asked.values())  # it does not need that file
        assert result == read(f"{folder}/{where}", tmp_path / "here")
        return
    assert len(message.splitlines()) == 1
    assert name in message or "does not exist" in message or "manifest" in message, message
    assert not list((tmp_path / "there").glob(f"cache/**/*{name}"))
