"""Manifests as somebody might write them who means harm: checksums right, names and numbers not."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from epochal.__main__ import main
from epochal.common.errors import EpochalError
from epochal.common.hashing import digest
from epochal.shards.artifact import open_artifact
from epochal.shards.carve import carve
from epochal.shards.manifest import _text, parse_manifest


def rewrite(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest at `root` and make its checksum right again."""
    body = json.loads((root / "manifest.json").read_text())
    body.pop("checksum")
    change(body)
    (root / "manifest.json").write_text(_text(body | {"checksum": digest(body)}))


def _put(*path: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(body: dict[str, Any]) -> None:
        for key in path[:-1]:
            body = body[key]
        body[path[-1]] = value

    return change


FILE = {"bytes": 0, "xxh64": "0" * 16}
DEEP: Any = []
for _ in range(80):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "change",
    [
        *[_put("name", value=name) for name in ("../../x", "/x", "", "..", "a/b", "a\nb", "\x1b]0;x\x07", "x" * 300)],
        *[_put("files", n, value=FILE) for n in ("../x", "/etc/passwd", "a//b", "./a", "a/../../b", "a\nb", "", "x/")],
        *[_put("files", n, value=FILE) for n in (".git/config", "a/.x", "numpy.py", "json/__init__.PYC", "x.abi3.so")],
        *[_put("tokens", value=n) for n in (2**63, 10**30, -1, 0, True, 1.5, "1")],
        _put("tokenizer", "vocab_size", value=2**70),
        _put("seed", value=-1),
        _put("statistics", value={"x": DEEP}),
        _put("unknown", value=1),
    ],
)
def test_a_manifest_with_odd_values_is_refused(make_pool, change, capsys) -> None:
    root = make_pool(300)
    rewrite(root, change)
    with pytest.raises(EpochalError):
        open_artifact(str(root))
    for command in (["show", str(root)], ["verify", str(root)], ["carve", str(root), "--unique-tokens", "100"]):
        assert main(command) in (1, 2)
        said = capsys.readouterr()
        lines = [line for line in (said.out + said.err).splitlines() if line]
        assert lines
        assert not any(c in said.out + said.err for c in "\x1b\x07\r")
    assert [p.name for p in (root.parent.parent).iterdir()] == ["pools"]


@pytest.mark.parametrize("value", ["[" * 100_000, "NaN", "1e999", '"\\ud800"', "9" * 5000, "9" * 30])
def test_odd_json_is_damage(value: str) -> None:
    with pytest.raises(EpochalError) as caught:
        parse_manifest(f'{{"format": "epochal", "a": {value}}}', "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["http://127.0.0.1:9/pool", "https://x.invalid/p", "ftp://x/p", "github://a:b@/p"])
def test_no_server_is_asked_because_a_file_names_it(make_pool, tmp_path, place: str, monkeypatch, capsys) -> None:
    pool = make_pool(300)
    assert main(["carve", str(pool), "--unique-tokens", "100", "--out", str(tmp_path / "s")]) == 0
    old = json.loads((tmp_path / "s/manifest.json").read_text())["parent"]["path"]
    rewrite(tmp_path / "s", _put("parent", "path", value=place))
    index = (tmp_path / "s/index.json").read_text()
    (tmp_path / "s/index.json").write_text(index.replace(old, place))
    monkeypatch.setattr("fsspec.filesystem", lambda *a, **k: pytest.fail("a file system was made"))
    capsys.readouterr()
    assert main(["show", str(tmp_path / "s"), "--json"]) in (0, 2)
    assert main(["verify", str(tmp_path / "s")]) in (1, 2)
    assert "no server is asked" in "".join(capsys.readouterr())


def test_a_flipped_bit_in_the_hash_of_a_shard_is_the_indexs(make_pool, tmp_path, capsys) -> None:
    root = make_pool(300)
    carve(str(root), 100, out=str(tmp_path / "s"))
    index = tmp_path / "s/index.json"
    body = json.loads(index.read_text())
    hashes = body["shards"][0]["raw_data"]["hashes"]
    hashes["xxh64"] = ("0" if hashes["xxh64"][0] != "0" else "1") + hashes["xxh64"][1:]
    index.write_text(json.dumps(body))
    assert main(["export", str(tmp_path / "s"), "--format", "bin", "--out", str(tmp_path / "e")]) == 1
    assert f"{index} is damaged: its hash is not the manifest's; restore it" in capsys.readouterr().err


def test_what_is_no_regular_file_is_a_problem(make_pool, capsys) -> None:
    root = make_pool(300)
    os.unlink(root / "documents.parquet")
    os.mkfifo(root / "documents.parquet")
    assert main(["verify", str(root)]) == 1
    assert "no regular file" in "".join(capsys.readouterr())
    os.unlink(root / "manifest.json")
    os.mkfifo(root / "manifest.json")
    assert main(["show", str(root)]) == 2
    assert "no regular file" in "".join(capsys.readouterr())


def test_files_that_do_not_belong_are_named(make_pool, capsys) -> None:
    root = make_pool(300)
    (root / "more.parquet").write_bytes(b"x")
    (root / "deep").mkdir()
    (root / "deep/.hidden").write_bytes(b"x")
    assert main(["verify", str(root)]) == 1
    said = "".join(capsys.readouterr())
    assert "more.parquet does not belong" in said
    assert "deep/.hidden does not belong" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_put("tokens", value=10**18), "do not make"),
        (_put("samples", value=2**62), "do not make"),
        (_put("seq_len", value=2**40), "do not make"),
        (_put("shards", value=10**7), "shards and lists"),
        (
            _put("files", value={f"f{i}": {"bytes": 0, "xxh64": "0" * 16} for i in range(1100)}),
            "files beside its shards",
        ),
    ],
)
def test_numbers_that_cannot_be_true_together_are_damage(make_pool, change, message: str) -> None:
    root = make_pool(300)
    rewrite(root, change)
    with pytest.raises(EpochalError, match=message):
        open_artifact(str(root))


@pytest.mark.parametrize("entry", ["{}", "[]", "1", '{"a": 1}'])
def test_an_index_of_more_shards_than_there_are_is_refused_unparsed(make_pool, entry: str) -> None:
    root = make_pool(300)
    (root / "index.json").write_text('{"version": 2, "shards": [' + f"{entry}," * 10**7 + "1]}")
    with pytest.raises(EpochalError, match=r"more than [0-9]+ values"):
        open_artifact(str(root))
