"""The catalogue: names that move, and folders that requests cannot reach."""

import json
import os
import shutil
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from epochal.common.errors import RequestError
from epochal.common.hashing import digest
from epochal.service import catalogue
from epochal.service.client.client import Client
from epochal.service.service import Service
from epochal.shards.manifest import _text
from epochal.tests.support.servers import serving, until
from epochal.tests.support.service_calls import refused


@pytest.mark.slow
def test_a_name_moves_and_a_fingerprint_does_not(client: Client, root: Path, make_pool):
    before = client.get("/artifacts/toy")
    (root / "pools" / "toy").rename(root / "pools" / "older")
    make_pool(4000)
    service_sees_it(client, 4000)
    now = client.get("/artifacts/toy")
    assert [h["fingerprint"] for h in now["history"]] == [before["fingerprint"], now["fingerprint"]]
    assert client.get(f"/artifacts/{before['fingerprint']}")["manifest"] == before["manifest"]
    tokens = [a["tokens"] for a in client.get("/artifacts", name="to", least_tokens=3500)["artifacts"]]
    assert tokens == [4000]
    assert len(client.get("/artifacts", fingerprint=before["fingerprint"][:5], tokenizer="byt")["artifacts"]) == 1
    assert client.get("/artifacts", name="o%")["artifacts"] == []


def service_sees_it(client: Client, tokens: int) -> None:
    """Return when the service has looked at its folder again."""
    until(lambda: client.get("/artifacts", least_tokens=tokens)["artifacts"], "the new pool was found")


def test_an_unchecked_name_never_reaches_the_file_system(root: Path, tmp_path: Path):
    (root / "subsets").symlink_to(tmp_path)
    with serving(root) as client:
        assert "leads out of" in str(refused(client.carve, "toy", 100, name="x"))
    assert not (tmp_path / "x").exists()
    (root / "pools" / "linked").symlink_to(tmp_path)
    assert Service(str(root))._scanner.scan()[0].manifest.name == "toy"


def odd_manifest(root: Path, text: str) -> None:
    """Write the manifest of a folder beside the good pool."""
    folder = root / "pools" / "odd"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))


def changed(root: Path, **values: Any) -> str:
    """Return the good pool's manifest with other values and a checksum that is right for them."""
    body = json.loads((root / "pools" / "toy" / "manifest.json").read_text()) | values
    del body["checksum"]
    return _text(body | {"checksum": digest(body)})


def test_what_sources_say_of_themselves_is_shown_of_a_pool_and_its_subsets(root: Path):
    sources = [{"name": "web", "license": "MIT", "language": ["en"], "pii": 3}, {"name": "said nothing"}, 5]
    text = changed(root, config={"sources": sources})
    (root / "pools" / "toy" / "manifest.json").write_text(text)
    with serving(root) as client:
        client.carve("toy", 100, name="x")
        said = {"web": {"license": "MIT", "language": ["en"]}}
        assert client.get("/artifacts/toy")["sources"] == said == client.get("/artifacts/x")["sources"]


def nested(root: Path, value: str) -> str:
    """Return the same with `value`, JSON text that no checksum can be made of, among its statistics."""
    text = (root / "pools" / "toy" / "manifest.json").read_text()
    return text.replace('"statistics": {', f'"statistics": {{"x": {value}, "y": {{', 1).replace("}\n", "}}\n", 1)


ODD: dict[str, Callable[[Path], str]] = {
    "not a number": lambda root: nested(root, "NaN"),
    "infinite": lambda root: nested(root, "1e999999999"),
    "half a surrogate": lambda root: nested(root, r'"\ud800"'),
    "raw half a surrogate": lambda root: nested(root, '"\ud800"'),
    "deep": lambda root: nested(root, "[" * 100_000 + "]" * 100_000),
    "deep with a checksum": lambda root: changed(root, statistics={"x": reduce(lambda x, _: [x], range(300), [])}),
    "an integer of 64 bits": lambda root: changed(root, tokens=2**63),
    "a larger integer": lambda root: changed(root, statistics={"x": 2**64}),
    "many digits": lambda root: nested(root, "9" * 5000),
    "a long name": lambda root: changed(root, name="n" * 501),
    "a name with a NUL": lambda root: changed(root, name="a\0b"),
    "a long fingerprint": lambda root: changed(root, fingerprint="f" * 33),
    "a list": lambda root: "[]",
    "nothing": lambda root: "",
    "too large": lambda root: "x" * 5000,
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_manifest_is_a_line_in_the_catalogue(kind: str, root: Path, monkeypatch: pytest.MonkeyPatch):
    odd_manifest(root, ODD[kind](root))
    if kind == "too large":
        monkeypatch.setattr(catalogue, "MOST_MANIFEST", 4999)
    with serving(root) as client:
        found = client.get("/artifacts")
        assert [artifact["name"] for artifact in found["artifacts"]] == ["toy"]
        ((path, reason),) = found["problems"].items()
        assert path == str(root / "pools" / "odd")
        assert str(root / "pools" / "odd" / "manifest.json") in reason
        assert "\n" not in reason
        assert len(reason) < 500


def test_odd_folders_are_lines_in_the_catalogue(root: Path):
    shutil.copytree(root / "pools" / "toy", root / "pools" / os.fsdecode(b"not\xffunicode"))
    (root / "pools" / "pipe").mkdir()
    os.mkfifo(root / "pools" / "pipe" / "manifest.json")
    (root / "subsets").write_text("no folder")
    with serving(root) as client:
        found = client.get("/artifacts")
        assert [artifact["name"] for artifact in found["artifacts"]] == ["toy"]
        assert list(found["problems"]) == [str(root / "pools" / "not\\udcffunicode")]
    with pytest.raises(RequestError, match="holds no artifact"):
        catalogue.read_artifact(str(root / "pools" / "pipe"))
