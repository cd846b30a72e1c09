"""What artifacts carry of their tokenizer, and that it is checked before use."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epochal.common.errors import WorkError
from epochal.common.hashing import digest
from epochal.common.publish import FileInfo
from epochal.shards.artifact import read_any_manifest, read_manifest
from epochal.shards.carve import carve
from epochal.shards.commands import describe
from epochal.shards.export import export
from epochal.shards.manifest import dump_manifest, fingerprint
from epochal.shards.tokenizer_file import TOKENIZER_NAME, artifact_tokenizer, dump_tokenizer, tokenizer_fingerprint
from epochal.shards.verify import verify

SPEC = {"model": {"type": "WordLevel", "vocab": {"<eos>": 0, "é": 1}, "unk_token": "é"}, "added_tokens": []}


def carry(pool: Path, spec: Any = SPEC) -> bytes:
    """Make a toy pool one that carries SPEC, its manifest whole, but with what `spec` is in the file."""
    data = dump_tokenizer(spec)
    (pool / TOKENIZER_NAME).write_bytes(data)
    m = read_manifest(str(pool))
    info = m.tokenizer.model_copy(update={"fingerprint": tokenizer_fingerprint(SPEC)})
    m = m.model_copy(update={"tokenizer": info, "files": m.files | {TOKENIZER_NAME: FileInfo.of(data)}})
    m = m.model_copy(update={"fingerprint": fingerprint(m)})
    (pool / "manifest.json").write_text(dump_manifest(m))
    return data


def test_the_bytes_are_canonical_json_whatever_the_order_of_keys() -> None:
    turned = json.loads(json.dumps({k: SPEC[k] for k in reversed(SPEC)}, indent=2))
    expected = '{"added_tokens":[],"model":{"type":"WordLevel","unk_token":"é","vocab":{"<eos>":0,"é":1}}}\n'
    assert dump_tokenizer(SPEC) == dump_tokenizer(turned) == expected.encode()


CONTROL = {chr(point): point for point in [*range(0x20), 0x22, 0x5C, 0x7F, 0xFF, 0x2028, 0xFFFF, 0x1F600]}


@pytest.mark.parametrize(
    "model",
    [
        {"vocab": {f"{i}\u00e9\U0001f600": i for i in range(1500)} | CONTROL, "merges": ["a b", '" \\'] * 800},
        {"vocab": {chr(i): 2**63 - i for i in range(0xD7FF, 0xC000, -1)}, "merges": [["a", "\n"], ["\x7f", "c"]] * 800},
        {"vocab": [["a", -1e-05], ["b", -0.1]] * 800},
        {"vocab": {str(i): float(i) for i in range(1500)} | {"x": 1e16}},
        {"vocab": {str(i): 2**64 + i for i in range(1500)}},
        {"vocab": {str(i): i > 5 for i in range(1500)}, "merges": [["a", None]] * 1500},
        {"vocab": {str(i): i for i in range(1500)}, "merges": [["a", ["b"]]] * 1500, "dropout": 1e-7},
        None,
    ],
)
def test_the_fingerprint_is_the_digest_of_canonical_json(model: Any) -> None:
    spec = {"model": model, "normalizer": None, "added_tokens": [{"content": "é", "id": 3}], "version": "not part"}
    parts = {key: spec.get(key) for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    assert tokenizer_fingerprint(spec) == digest(parts)


def test_copies_and_exports_carry_it_a_view_has_its_pools(make_pool: Callable[..., Path], tmp_path: Path) -> None:
    pool = make_pool(700)
    before = len(read_manifest(str(pool)).files)
    data = carry(pool)
    assert verify(str(pool)) == []
    view = carve(str(pool), 333)[0]
    made = [
        carve(str(pool), 333, materialize=True)[0],
        carve(str(pool), 333, layout="wds")[0],
        export(str(pool), "bin", str(tmp_path / "bin"))[0],
        export(view, "parquet", str(tmp_path / "parquet"))[0],
    ]
    for root in made:
        assert Path(root, TOKENIZER_NAME).read_bytes() == data
        assert read_any_manifest(root).files[TOKENIZER_NAME] == FileInfo.of(data)
    assert not Path(view, TOKENIZER_NAME).exists()
    for root in (view, *made):
        assert artifact_tokenizer(root, read_any_manifest(root)) == data
        assert verify(root) == []
    assert describe(str(tmp_path / "bin"))["shards"] == 1
    assert len(read_manifest(str(pool)).files) == before + 1


def test_a_pool_of_an_older_version_has_none_and_what_is_made_of_it_neither(
    make_pool: Callable[..., Path], tmp_path: Path
) -> None:
    pool = make_pool(700)
    for root in (
        str(pool),
        carve(str(pool), 333, materialize=True)[0],
        export(str(pool), "hf", str(tmp_path / "e"))[0],
    ):
        assert artifact_tokenizer(root, read_any_manifest(root)) is None
        assert verify(root) == []


@pytest.mark.parametrize("what", ["pool", "view", "copy", "export"])
def test_a_changed_byte_is_noticed_by_every_reader(make_pool: Callable[..., Path], tmp_path: Path, what: str) -> None:
    pool = make_pool(700)
    carry(pool)
    root = {
        "pool": lambda: str(pool),
        "view": lambda: carve(str(pool), 333)[0],
        "copy": lambda: carve(str(pool), 333, materialize=True)[0],
        "export": lambda: export(str(pool), "bin", str(tmp_path / "bin"))[0],
    }[what]()
    path = (pool if what == "view" else Path(root)) / TOKENIZER_NAME
    path.write_bytes(path.read_bytes().replace("é".encode(), "è".encode()))
    problems = verify(root)
    assert len(problems) == 1
    assert "tokenizer.json is damaged" in problems[0]
    with pytest.raises(WorkError, match=r"tokenizer\.json is damaged: its hash is not the manifest's"):
        artifact_tokenizer(root, read_any_manifest(root))
    if what in ("pool", "view"):
        with pytest.raises(WorkError, match=r"tokenizer\.json is damaged"):
            export(root, "bin", str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spec", [SPEC | {"normalizer": {"type": "NFC"}}, {"model": 1}, [1], "x"])
def test_another_tokenizer_is_noticed_even_where_the_manifest_lists_its_hash(
    make_pool: Callable[..., Path], spec: Any
) -> None:
    pool = make_pool(700)
    carry(pool, spec)
    assert any("is not the tokenizer that made the ids" in problem for problem in verify(str(pool)))
    with pytest.raises(WorkError, match=r"tokenizer\.json is not the tokenizer that made the ids"):
        carve(str(pool), 333, materialize=True)


def test_a_missing_file_is_noticed(make_pool: Callable[..., Path]) -> None:
    pool = make_pool(700)
    carry(pool)
    (pool / TOKENIZER_NAME).unlink()
    assert verify(str(pool)) == ["tokenizer.json is missing"]
