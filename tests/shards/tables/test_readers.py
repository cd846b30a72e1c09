"""Every reader of the table of documents finds in several files what it finds in one, and copies have the same form."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from epochal.common.errors import WorkError
from epochal.service.document_index import DocumentIndex, read_spans
from epochal.shards import commands
from epochal.shards.artifact import open_artifact, read_manifest
from epochal.shards.buckets.divide import divide
from epochal.shards.buckets.split import Split
from epochal.shards.carve import carve
from epochal.shards.documents import DocumentStarts, iter_documents, rows
from epochal.shards.export import export
from epochal.shards.order.contents import contents, documents_of, places
from epochal.shards.order.plan import Plan
from epochal.shards.tables import names
from epochal.shards.transfer.transfer import push
from epochal.shards.verify import verify
from epochal.shards.without.found import find
from epochal.tests.support.pools import in_several_files, planted
from epochal.tokenize.commands import _documents
from epochal.train.memorisation.documents import documents_in

CONDITION = "lang = 'de' OR quality < 0.2"


@pytest.fixture
def pools(make_pool: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A pool of 200 and some documents, and the same pool with its table in files of 50; copies get such files too."""
    one = planted(make_pool, 6000)
    several = shutil.copytree(one, tmp_path / "several" / "artifacts" / "pools" / "toy")
    monkeypatch.setattr(names, "FILE_ROWS", 50)
    return one, in_several_files(several)


def table_of(root: str) -> pl.DataFrame:
    """Return the table of documents of an artifact, and check the form of its files."""
    files = names.names_in(read_manifest(root).files, "documents")
    sizes = [len(pl.read_parquet(f"{root}/{name}")) for name in files]
    assert sizes[:-1] == [50] * (len(sizes) - 1)
    assert files == names.file_names("documents", sum(sizes)) or files == ["documents.parquet"]
    return pl.read_parquet([f"{root}/{name}" for name in files])


def test_what_looks_into_the_table_finds_the_same(pools, tmp_path):
    found = [list(_looked_up(root, tmp_path / str(i))) for i, root in enumerate(pools)]
    assert len(read_manifest(pools[1]).files) > len(read_manifest(pools[0]).files) + 3
    assert found[0] == found[1]


def _looked_up(root: str, folder: Path) -> Iterator[Any]:
    artifact = open_artifact(root)
    m = artifact.manifest
    plan = Plan.for_artifact(m, 2 * m.tokens, 1)
    table = [documents_of(artifact)]
    yield contents(plan, table, range(0, plan.positions, 7))
    yield places(plan, table, "doc120", range(plan.positions))
    documents = DocumentStarts(root, m.files)
    yield documents.edges(37, m.tokens - 5).tolist()
    yield [documents.at(position) for position in range(0, m.tokens, 311)]
    yield [documents.rows(start, start + 700) for start in range(0, m.tokens, 600)]
    yield list(rows(root, 44, 157))
    yield np.concatenate([part["tokens"] for part in iter_documents(root, ["tokens"])]).tolist()
    yield list(_documents(artifact, 48, 60))
    yield find(open_artifact(root), [], CONDITION).table.to_pydict()
    index = DocumentIndex(root, m.fingerprint, str(folder))
    yield [index.by_id(f"doc{i}") for i in (0, 49, 50, 123)], index.by_key((51).to_bytes(16, "big"))
    yield np.concatenate([part["start"] for part in read_spans(root)]).tolist()
    yield documents_in(artifact, 20).samples.tolist()
    yield commands.describe(root)


@pytest.mark.parametrize(("without", "replicate"), [(None, 1), ("quality < 0.1", 0)])
def test_subsets_are_the_same_and_copies_have_files_of_the_same_size(pools, tmp_path, without, replicate):
    made = []
    for i, root in enumerate(pools):
        view = carve(root, 2001, replicate, str(tmp_path / f"view{i}"), without_matching=without)[0]
        copy = carve(root, 2001, replicate, str(tmp_path / f"copy{i}"), materialize=True, without_matching=without)[0]
        pushed = push(view, str(tmp_path / f"pushed{i}")).root
        flat = export(copy, "bin", str(tmp_path / f"flat{i}"))[0]
        assert [verify(path) for path in (view, copy, pushed, flat)] == [[]] * 4
        made.append((read_manifest(view).fingerprint, *(table_of(path) for path in (copy, pushed))))
        rows_of_export = names.names_in({p.name for p in Path(flat).iterdir()}, "documents")
        assert sum(len(pl.read_parquet(f"{flat}/{name}")) for name in rows_of_export) == len(made[-1][1])
    assert made[0][0] == made[1][0]
    for a, b in zip(made[0][1:], made[1][1:], strict=True):
        assert len(a) > 50
        assert a.equals(b)
        assert a.equals(made[0][1])


def test_buckets_are_the_same(pools):
    divided = [divide(root, Split(by="good")) for root in pools]
    for (a, m), (b, n) in zip(divided[0].pools, divided[1].pools, strict=True):
        assert (m.content, m.documents, n.documents > 50) == (n.content, n.documents, True)
        assert table_of(a).equals(table_of(b))
        assert verify(b) == []


def test_verify_notices_a_flipped_byte_in_the_second_file_and_rows_that_are_elsewhere(pools):
    root = Path(pools[1])
    assert verify(str(root)) == []
    path = root / "documents-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:9] + bytes([whole[9] ^ 1]) + whole[10:])
    assert verify(str(root)) == ["documents-00001.parquet is damaged: its hash is not the manifest's"]
    with pytest.raises(WorkError, match=r"documents-00001.parquet is damaged"):
        carve(str(root), 4000, out=str(root.parent / "copy"), materialize=True)
    with pytest.raises(WorkError, match=r"documents-00001.parquet is damaged"):
        divide(str(root), Split(by="good"))
    path.unlink()
    assert verify(str(root)) == ["documents-00001.parquet is missing"]


@pytest.mark.slow
def test_tools_read_all_files_by_what_descriptions_name(pools, tmp_path, monkeypatch):
    import datasets
    import mlcroissant

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    root = carve(pools[1], 4000, out=str(tmp_path / "copy"), materialize=True)[0]
    starts = table_of(root)["start"].to_list()
    described = mlcroissant.Dataset(f"{root}/croissant.json")
    assert not described.metadata.ctx.issues.errors
    assert sorted(int(row["documents/start"]) for row in described.records("documents")) == starts
    assert datasets.load_dataset(root, split="train")["start"][:] == starts


def test_descriptions_name_all_files(pools, tmp_path):
    root = carve(pools[1], 4000, out=str(tmp_path / "copy"), materialize=True)[0]
    view = carve(pools[1], 4000, out=str(tmp_path / "view"))[0]
    card = Path(root, "README.md").read_text()
    assert "path: documents-*.parquet" in card
    assert "polars.scan_parquet('documents-*.parquet')" in card
    assert "several/artifacts/pools/toy/documents-*.parquet" in Path(view, "README.md").read_text()
    described = json.loads(Path(root, "croissant.json").read_text())
    (of_files,) = (f for f in described["distribution"] if f["@id"] == "document-files")
    assert of_files["includes"] == "documents-*.parquet"
    fields = described["recordSet"][0]["field"]
    assert {json.dumps(field["source"]["fileSet"]) for field in fields} == {'{"@id": "document-files"}'}
