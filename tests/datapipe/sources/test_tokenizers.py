"""Whose ids a source of ids holds: its manifest says it, or the configuration must."""

import json
from pathlib import Path

import numpy as np
import pytest

from epochal.common.config import validate
from epochal.common.errors import RequestError
from epochal.datapipe.build import build
from epochal.datapipe.config import Build, Source
from epochal.datapipe.sources.tokenizers import carried_tokenizer
from epochal.examples.demo import small_tokenizer
from epochal.shards.artifact import read_manifest
from epochal.shards.export import export
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents, write_jsonl


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return two pools of other tokenizers."""
    folder = tmp_path_factory.mktemp("pools")
    lines = [json.dumps({"text": text}).encode() for text in real_documents(6, 300)]
    glob = write_jsonl(folder / "in", lines, ["a.jsonl"])
    made = []
    for ids in (300, 400):
        path = folder / f"{ids}.json"
        path.write_text(json.dumps(small_tokenizer(ids)))
        made.append(build(settings(folder, glob, name=f"p{ids}", tokenizer={"name": str(path)}), quiet=True).pool)
        path.unlink()
    return made


def sources(*paths: str, **more: object) -> list[dict]:
    return [{"name": f"s{i}", "format": "mds", "path": path} | more for i, path in enumerate(paths)]


def test_formats_of_ids_need_no_section(pools: list[str], tmp_path: Path) -> None:
    assert Source(format="mds", path="x").tokenized is not None
    assert Source(format="parquet", path="x").tokenized is None
    said: list[str] = []
    config = settings(tmp_path, sources(pools[1])[0])
    again = read_manifest(build(config, quiet=True, say=said.append).pool)
    assert said == [f"tokenizer: that of {pools[1]}"]
    assert again.fingerprint == read_manifest(pools[1]).fingerprint
    assert again.tokenizer == read_manifest(pools[1]).tokenizer


def test_text_beside_ids_gets_the_tokenizer_of_the_ids(pools: list[str], tmp_path: Path) -> None:
    lines = [json.dumps({"text": "a text that is in no pool"}).encode()]
    text = {"name": "text", "path": write_jsonl(tmp_path / "in", lines, ["a.jsonl"])}
    config = settings(tmp_path, text, sources=[text, *sources(pools[0])])
    m = read_manifest(build(config, quiet=True, say=lambda _: None).pool)
    assert m.tokenizer == read_manifest(pools[0]).tokenizer
    assert m.documents == read_manifest(pools[0]).documents + 1


def test_the_folder_is_found_from_files_in_it(pools: list[str], tmp_path: Path) -> None:
    out, _ = export(pools[0], "parquet", str(tmp_path / "e"))
    for path in (out, f"{out}/data", f"{out}/data/*.parquet"):
        assert carried_tokenizer([Source(format="parquet", path=path, tokenized={})]) == out  # type: ignore[arg-type]
    assert carried_tokenizer([Source(format="parquet", path=out, tokenized={"tokenizer": "gpt2"})]) is None  # type: ignore[arg-type]


def test_files_of_others_must_name_it(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"of": "another program"}')
    np.arange(5, dtype=np.uint16).tofile(tmp_path / "train.bin")
    source = {"name": "s", "format": "bin", "path": str(tmp_path / "train.bin")}
    with pytest.raises(RequestError, match="no manifest beside them says whose: name their tokenizer"):
        build(settings(tmp_path, source), quiet=True)


def test_sources_of_several_tokenizers_are_refused(pools: list[str], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"'s1': its manifest says another tokenizer.* eod 400, not 300"):
        build(settings(tmp_path, None, sources=sources(*pools)), quiet=True, say=lambda _: None)


def test_a_tokenizer_that_is_named_is_the_one(pools: list[str], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"another tokenizer than the build's.*tokenizer\.name={pools[0]} takes"):
        build(settings(tmp_path, sources(pools[0])[0], tokenizer={"name": "gpt2"}), quiet=True)


def test_a_configuration_that_names_its_tokenizer_is_written_as_before() -> None:
    """So a pool that was built before artifacts carried theirs is still known as built."""
    source = {"format": "mds", "path": "x", "tokenized": {"tokenizer": "gpt2"}}
    config = validate(Build, {"name": "p", "sources": [source]}, "test").identity()
    assert config["tokenizer"] == {"name": "gpt2", "eod": None, "pad": None, "mask": None}
    unused = {"documents": None, "column": None, "dtype": None}
    assert config["sources"][0]["tokenized"] == {"tokenizer": "gpt2"} | unused  # type: ignore[index]


def test_another_pool_at_the_same_path_has_its_own_tokenizer(pools: list[str], tmp_path: Path, monkeypatch) -> None:
    """Also in one process, and where the path is one from the current folder."""
    for i, pool in enumerate(pools):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "pool").symlink_to(pool)
        monkeypatch.chdir(tmp_path / str(i))
        again = build(settings(tmp_path / str(i), sources("pool")[0]), quiet=True).pool
        assert read_manifest(again).tokens == read_manifest(pool).tokens
    here = tmp_path / "here"
    for pool in pools:
        here.unlink(missing_ok=True)
        here.symlink_to(pool)
        config = settings(tmp_path / pool[-3:], sources(str(here))[0])
        assert read_manifest(build(config, quiet=True).pool).tokens == read_manifest(pool).tokens
