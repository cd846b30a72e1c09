"""The same artifacts to each kind of target and back: equal, whole, found there the second time, never replaced."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from epochal.common import storage
from epochal.common.errors import RequestError, WorkError
from epochal.shards.artifact import open_artifact, read_any_manifest
from epochal.shards.carve import carve
from epochal.shards.export import export
from epochal.shards.loader.sample_reader import SampleReader
from epochal.shards.transfer.transfer import pull, push
from epochal.shards.verify import verify
from epochal.tests.support.stores import new_bucket


def files_of(root: str) -> dict[str, bytes]:
    """Return the bytes of all files below a folder or URL, but those that the hub adds."""
    names = [name for name in storage.files_below(root) if name != ".gitattributes"]
    return {name: storage.read_bytes(storage.join(root, name)) for name in names}


@pytest.fixture(params=["folder", "s3", "hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where to push to, of each kind."""
    if request.param == "folder":
        return str(tmp_path / "there")
    request.getfixturevalue("s3" if request.param == "s3" else "the_hub")
    return new_bucket("push") if request.param == "s3" else "hf://datasets/me/data@dev/deep"


def test_a_pool_there_and_back_is_the_same_bytes(pool: str, place: str, tmp_path: Path) -> None:
    sent = push(pool, f"{place}/pool")
    assert (sent.new, sent.kept, sent.files) == (True, 0, len(files_of(pool)) - 1)
    assert files_of(f"{place}/pool") == files_of(pool)
    assert verify(f"{place}/pool") == []
    again = push(pool, f"{place}/pool")
    assert not again.new
    back = pull(f"{place}/pool", str(tmp_path / "back"))
    assert files_of(back.root) == files_of(pool)
    assert not pull(f"{place}/pool", back.root).new


@pytest.mark.parametrize("layout", ["wds", "parquet", "megatron", "bin", "hf"])
def test_exports_too(view: str, place: str, tmp_path: Path, layout: str) -> None:
    out = export(view, layout, str(tmp_path / "out"))[0]
    push(out, f"{place}/export")
    pull(f"{place}/export", str(tmp_path / "back"))
    assert files_of(str(tmp_path / "back")) == files_of(out)
    assert verify(f"{place}/export") == verify(str(tmp_path / "back")) == []


def test_a_view_becomes_the_copy_that_carve_makes(pool: str, view: str, place: str, tmp_path: Path) -> None:
    copy = carve(pool, 901, out=str(tmp_path / "copies" / "toy-901"), materialize=True)[0]
    push(view, f"{place}/toy-901")
    pull(f"{place}/toy-901", str(tmp_path / "back" / "toy-901"))
    for root in (f"{place}/toy-901", str(tmp_path / "back" / "toy-901")):
        assert verify(root) == []
        pushed = files_of(root)
        manifest = json.loads(pushed.pop("manifest.json"))
        expected = files_of(copy)
        carved = json.loads(expected.pop("manifest.json"))
        assert pushed == expected
        for body in (manifest, carved):
            body.pop("checksum")
            body["parent"].pop("path")  # as seen from another place
        assert manifest == carved


def test_a_view_refers_to_the_pool_that_was_pushed(pool: str, view: str, place: str, tmp_path: Path) -> None:
    push(pool, f"{place}/pool")
    push(view, f"{place}/view", refer=f"{place}/pool")
    assert verify(f"{place}/view") == []
    there = open_artifact(f"{place}/view")
    assert not there.manifest.materialized
    assert there.manifest.fingerprint == open_artifact(view).manifest.fingerprint
    assert "shard.00001.mds" not in storage.names(f"{place}/view")
    assert pull(f"{place}/view", str(tmp_path / "copy")).manifest.fingerprint == there.manifest.fingerprint
    pull(f"{place}/view", str(tmp_path / "view"), refer=pool)
    samples = [
        SampleReader.of(open_artifact(str(root)), str(tmp_path / "cache")).read([0, 30, 56]).tolist()
        for root in (view, tmp_path / "copy", tmp_path / "view")
    ]
    assert samples[0] == samples[1] == samples[2]
    assert verify(str(tmp_path / "copy")) == verify(str(tmp_path / "view")) == []


def test_something_else_is_never_replaced(pool: str, view: str, place: str, make_pool: Callable[..., Path]) -> None:
    push(pool, f"{place}/pool")
    before = files_of(f"{place}/pool")
    for other in (str(make_pool(2000, name="other")), view):
        with pytest.raises(RequestError, match="holds something else: choose another place or remove it"):
            push(other, f"{place}/pool")
    with pytest.raises(RequestError, match="holds something else"):
        push(pool, place)  # a folder with a folder in it
    assert files_of(f"{place}/pool") == before


def test_a_view_and_a_copy_of_it_are_two_forms(pool: str, view: str, place: str) -> None:
    push(pool, f"{place}/pool")
    push(view, f"{place}/x", refer=f"{place}/pool")
    with pytest.raises(RequestError, match="holds something else"):
        push(view, f"{place}/x")
    assert not push(view, f"{place}/x", refer=f"{place}/pool").new


def test_a_damaged_source_is_not_published(pool: str, place: str) -> None:
    shard = Path(pool, "shard.00008.mds")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(WorkError, match=r"shard\.00008\.mds is damaged: its hash is not the manifest's; restore it"):
        push(pool, f"{place}/pool")
    assert not storage.exists(f"{place}/pool/manifest.json")
    shard.unlink()
    with pytest.raises(WorkError, match=r"shard\.00008\.mds is missing: restore it"):
        push(pool, f"{place}/pool")
    data[-1] ^= 1
    shard.write_bytes(data)
    again = push(pool, f"{place}/pool")
    assert again.kept > 0  # what had gone there before the damage was met
    assert verify(f"{place}/pool") == []


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "index.json",
            lambda text: text.replace('"samples": 8', '"samples": 7', 1),
            "disagree about shards or samples",
        ),
        ("manifest.json", lambda text: text.replace('"tokens": 1500', '"tokens": 1499'), "checksum does not match"),
    ],
)
def test_a_source_that_contradicts_itself_is_refused(pool: str, tmp_path: Path, name: str, change, said: str) -> None:
    path = Path(pool, name)
    changed = change(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(WorkError, match=said):
        push(pool, str(tmp_path / "there"))


def test_the_wrong_pool_is_refused(
    pool: str, view: str, s3: str, tmp_path: Path, make_pool: Callable[..., Path]
) -> None:
    url = new_bucket("refer")
    other = str(make_pool(2000, name="other"))
    cases = [
        (view, f"{url}/v", other, "cannot refer to a pool on this machine"),
        (view, str(tmp_path / "v"), other, "is not the pool of this subset"),
        (view, f"{url}/v", "s3://user:secret@bucket/pool", "would hold its password"),
        (pool, f"{url}/p", f"{url}/pool", "is no view of a pool"),
        (view, f"{url}/v", f"{url}/none", "does not exist"),
    ]
    for source, target, refer, said in cases:
        with pytest.raises(RequestError, match=said) as caught:
            push(source, target, refer=refer)
        assert "secret" not in str(caught.value)
    assert storage.names(url) == []


def test_a_manifest_with_a_password_is_not_published(pool: str, s3: str) -> None:
    from epochal.shards.manifest import Manifest, dump_manifest

    m = read_any_manifest(pool)
    assert isinstance(m, Manifest)
    config = {"sources": [{"path": "https://host/a.jsonl?token=verysecret"}]}
    Path(pool, "manifest.json").write_text(dump_manifest(m.model_copy(update={"config": config})))
    with pytest.raises(RequestError, match=r"holds a password or a signature in a URL \(config\.sources\.0\.path\)"):
        push(pool, f"{new_bucket('secret')}/pool")
