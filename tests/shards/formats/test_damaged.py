"""A file of token ids that ends early or is damaged is never taken for a whole one, wherever that happens."""

import gzip
import tarfile
from pathlib import Path

import pytest

from epochal.shards.carve import carve
from epochal.shards.export import export
from epochal.shards.formats import arrow_tables
from epochal.shards.formats.registry import FORMATS
from epochal.shards.formats.rows import Part


@pytest.fixture
def exported(make_pool, tmp_path, monkeypatch):
    """Return `exported(layout)`: the path of the one file of ids of an export, in several groups."""
    monkeypatch.setattr(arrow_tables, "GROUP_BYTES", 20 * 32)

    def make(layout: str) -> Path:
        subset, _ = carve(str(make_pool(1501)), 1000)
        out, _ = export(subset, layout, str(tmp_path / "export"))
        (path,) = Path(out).rglob(f"*{FORMATS[layout].ENDING}")
        return path

    return make


def n_ids(layout: str, path: Path) -> int:
    return sum(len(ids) for ids, _ in FORMATS[layout].read(str(path), Part()))


@pytest.mark.parametrize("layout", ["wds", "parquet", "megatron", "hf"])
def test_every_cut_is_noticed(exported, layout):
    path = exported(layout)
    data = path.read_bytes()
    assert n_ids(layout, path) == 1000
    end = len(data.rstrip(b"\0")) if layout == "wds" else len(data)  # of the zeros at a tar's end none matters
    for cut in {*range(0, end, 97), *range(0, end, 512), end - 8, end - 1}:
        path.write_bytes(data[:cut])
        with pytest.raises((ValueError, OSError)):
            n_ids(layout, path)


def test_a_tar_file_whose_member_has_no_header_is_not_taken_for_a_whole_one(exported):
    path = exported("wds")
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        start = tar.getmembers()[5].offset
    path.write_bytes(data[:start] + b"x" * 512 + data[start + 512 :])
    with pytest.raises(ValueError, match="it ends early or is damaged"):
        n_ids("wds", path)


def test_a_compressed_tar_file_is_read_to_its_checksum(exported):
    path = exported("wds")
    packed = gzip.compress(path.read_bytes())
    path.write_bytes(packed)
    assert n_ids("wds", path) == 1000
    for damaged in (packed[:-1], packed[: len(packed) // 2], packed[:-8] + bytes(8), packed + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"early|damaged"):
            n_ids("wds", path)
