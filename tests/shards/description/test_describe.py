"""Descriptions are there, vouched for, and the same whoever makes them."""

import json
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from epochal.common.errors import WorkError
from epochal.common.publish import FileInfo
from epochal.service.document_index import key_array
from epochal.shards.artifact import open_artifact, read_any_manifest, read_manifest
from epochal.shards.carve import carve
from epochal.shards.description.describe import DESCRIPTIONS
from epochal.shards.export import export
from epochal.shards.manifest import dump_manifest
from epochal.shards.verify import verify
from epochal.tests.support.corpora import real_documents
from epochal.tests.support.pools import EOD


def test_every_form_has_them_and_its_manifest_vouches_for_them(made):
    for form, folder in made.forms.items():
        assert set(DESCRIPTIONS) <= set(read_any_manifest(folder).files), form
        assert verify(folder) == [], form


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_verify_notices_a_change_in_any_of_them(made, tmp_path, name):
    folder = shutil.copytree(made.forms["copy"], tmp_path / "copy")
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert verify(str(folder)) == [f"{name} is damaged: its hash is not the manifest's"]


def test_sha256sum_agrees_about_every_file_but_the_manifest(made):
    for form, folder in made.forms.items():
        done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, (form, done.stderr)
        checked = {line.split(": ")[0] for line in done.stdout.splitlines()}
        assert checked == set(read_any_manifest(folder).files) - {"SHA256SUMS"}, form


def test_artifacts_without_descriptions_are_whole(made, tmp_path):
    """Those that were written before there were any."""
    folder = shutil.copytree(made.forms["copy"], tmp_path / "old")
    for name in (*DESCRIPTIONS, "documents.parquet"):
        (folder / name).unlink()
    m = read_manifest(str(folder))
    files = {name: info for name, info in m.files.items() if (folder / name).exists()}
    (folder / "manifest.json").write_text(dump_manifest(m.model_copy(update={"files": files})))
    assert verify(str(folder)) == []
    again, _ = export(str(folder), "bin", str(tmp_path / "bin"))
    assert verify(again) == []
    assert "documents.parquet" not in read_any_manifest(again).files


def test_what_is_made_twice_has_the_same_descriptions(made, tmp_path):
    again = {
        "copy": carve(made.pool, len(made.window), 1, str(tmp_path / "a" / Path(made.forms["copy"]).name), True)[0],
        "bin export": export(made.forms["view"], "bin", str(tmp_path / "b"))[0],
    }
    for form, folder in again.items():
        for name in DESCRIPTIONS:
            assert Path(folder, name).read_bytes() == Path(made.forms[form], name).read_bytes(), (form, name)


def test_a_copy_and_flat_exports_say_which_documents_they_hold(made):
    for form in ("copy", "megatron export", "bin export", "megatron of a copy", "bin of a copy"):
        table = pq.read_table(f"{made.forms[form]}/documents.parquet").to_pylist()
        assert read_any_manifest(made.forms[form]).documents == len(table)
        at = 0
        for row in table:
            assert row["start"] == at, form
            at += row["tokens"]
            assert at == len(made.window) or made.window[at - 1] == EOD
            assert not (made.window[row["start"] : at - 1] == EOD).any()
        assert at == len(made.window)
        first = int((made.tokens[: made.start] == EOD).sum())  # documents before the one in which the window begins
        assert [row["id"] for row in table] == [f"doc{first + i}" for i in range(len(table))]


def test_verify_notices_documents_of_a_copy_that_end_elsewhere(made, tmp_path):
    folder = shutil.copytree(made.forms["copy"], tmp_path / "copy")
    table = pq.read_table(folder / "documents.parquet")
    pq.write_table(table.slice(0, len(table) - 1), folder / "documents.parquet")
    m = read_manifest(str(folder))
    info = m.files["documents.parquet"].at(str(folder / "documents.parquet"))
    files = m.files | {"documents.parquet": info}
    (folder / "manifest.json").write_text(dump_manifest(m.model_copy(update={"files": files})))
    assert verify(str(folder)) == ["documents.parquet: its documents and tokens are not those that the manifest states"]


def test_what_a_pool_says_of_its_sources_goes_along(made):
    facts = read_manifest(made.forms["view"]).config["sources"]
    assert [source["name"] for source in facts] == ["we|b", "# books", "mail"]
    assert "path" not in facts[0]
    for form, folder in made.forms.items():
        assert "CC-BY-4.0" in Path(folder, "README.md").read_text(), form
        assert "CC-BY-4.0" in json.loads(Path(folder, "croissant.json").read_text())["license"], form


def test_a_subset_of_a_pool_that_says_nothing_has_the_manifest_that_it_had(make_pool):
    subset, _ = carve(str(make_pool(500)), 300)
    assert (read_manifest(subset).config, read_manifest(subset).statistics) == ({}, {})
    assert open_artifact(subset).manifest.tokens == 300


@pytest.mark.parametrize(
    "config",
    [
        {"sources": 3},
        {"sources": [1, {"name": 2}, {}, {"name": "a", "license": {"x": [1]}, "url": 7, "language": [None, 3]}]},
        {"sources": [{"name": "a\n---\n# b", "citation": ["x"], "pii": True, "collected": 2020}]},
    ],
)
def test_a_manifest_of_others_cannot_stop_a_carving(make_pool, config):
    pool = make_pool(500)
    m = read_manifest(str(pool)).model_copy(update={"config": config, "statistics": {"kept": {"a": 1}}})
    (pool / "manifest.json").write_text(dump_manifest(m))
    copy, _ = carve(str(pool), 300, materialize=True)
    assert verify(copy) == []
    assert yaml.safe_load(Path(copy, "README.md").read_text().split("\n---\n")[0])["size_categories"] == ["n<1K"]


def test_an_earlier_pools_keys_become_ones_that_others_read(make_pool, tmp_path):
    """Those of pools from before are binary of fixed size; the bytes are the same."""
    pool = make_pool(3001)
    table = pq.read_table(pool / "documents.parquet")
    keys = table["key"].cast(pa.binary(16))
    pq.write_table(table.set_column(0, "key", keys), pool / "documents.parquet", row_group_size=7)
    m = read_manifest(str(pool))
    files = m.files | {"documents.parquet": FileInfo.at(str(pool / "documents.parquet"))}
    (pool / "manifest.json").write_text(dump_manifest(m.model_copy(update={"files": files})))
    copy, _ = carve(str(pool), 2001, materialize=True)
    assert verify(str(pool)) == verify(copy) == []
    found = pq.read_table(f"{copy}/documents.parquet")
    assert found.schema.field("key").type == pa.binary()
    assert found["key"].to_pylist() == keys.to_pylist()[: len(found)]
    assert key_array(keys).tolist() == key_array(table["key"]).tolist() == [bytes(key) for key in keys.to_pylist()]
    assert key_array(table["key"].slice(3, 5)).tolist() == keys.to_pylist()[3:8]


def test_a_key_of_another_length_is_damage():
    with pytest.raises(WorkError, match="a key is not 16 bytes long"):
        key_array(pa.chunked_array([pa.array([b"0" * 16, b"0" * 15])]))


@pytest.mark.slow
def test_a_build_describes_its_pools(tmp_path):
    from epochal.datapipe.build import build
    from epochal.tests.support.builds import settings

    lines = [json.dumps({"text": text, "id": f"d{i}"}) for i, text in enumerate(real_documents(40))]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, lines[0], "[1]"]))
    asked = settings(tmp_path, str(tmp_path / "a.jsonl"), validation_tokens=2000, max_reject_fraction=1)
    built = build(asked, quiet=True)
    for pool in (built.pool, built.validation):
        assert set(DESCRIPTIONS) <= set(read_manifest(pool).files)
        assert verify(pool) == []
        done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=pool, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert str(tmp_path) not in "".join(Path(pool, name).read_text() for name in DESCRIPTIONS)
    card = Path(built.pool, "README.md").read_text()
    assert "| exact duplicates | -1 |" in card
    assert "seq_len: 64" in card
