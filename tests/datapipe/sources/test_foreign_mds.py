import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import MDSWriter

from epochal.common.errors import RequestError, WorkError
from epochal.datapipe.build import build
from epochal.datapipe.config import Build, Source
from epochal.datapipe.sources import foreign_mds
from epochal.shards.artifact import open_artifact
from epochal.tests.support.code import touch


def write(folder: Path, columns: dict[str, str], samples: list[dict[str, Any]]) -> str:
    with MDSWriter(out=str(folder), columns=columns, size_limit=300) as writer:
        for sample in samples:
            writer.write(sample)
    return str(folder)


def ids_of(root: str, column: str = "ids", dtype: str | None = None) -> list[list[int]]:
    shards = foreign_mds.read_index(root, "s", column, dtype)
    return [ids.tolist() for shard in shards for ids in foreign_mds.read_ids(root, shard, column, dtype)]


@pytest.mark.parametrize("encoding", ["ndarray", "ndarray:int64", "ndarray:uint32:3", "ndarray:int16:3", "bytes"])
def test_the_column_of_ids_is_read_whatever_lies_beside_it(tmp_path: Path, encoding: str) -> None:
    ids = [[i, 7, 300 + i] for i in range(20)]
    dtype = encoding.split(":")[1] if ":" in encoding else "uint16"
    arrays = [np.array(row, dtype) for row in ids]
    columns = {"a": "str", "ids": encoding, "n": "int", "z": "json"}
    samples = [
        {"a": "é" * i, "ids": array.tobytes() if encoding == "bytes" else array, "n": i, "z": {"k": [i]}}
        for i, array in enumerate(arrays)
    ]
    root = write(tmp_path / "in", columns, samples)
    assert ids_of(root, dtype="uint16") == ids
    index = json.loads((tmp_path / "in" / "index.json").read_text())
    assert len(index["shards"]) > 1
    index["shards"][-1]["samples"] -= 1  # as a subset's index says it
    (tmp_path / "in" / "index.json").write_text(json.dumps(index))
    assert ids_of(root, dtype="uint16") == ids[:-1]


def test_a_column_of_pickles_is_refused_by_name_before_a_shard_is_opened(tmp_path: Path) -> None:
    root = write(
        tmp_path / "in",
        {"ids": "ndarray:uint16", "meta": "pkl"},
        [{"ids": np.arange(3, dtype="u2"), "meta": touch(tmp_path / "ran")}],
    )
    (tmp_path / "in" / "shard.00000.mds").unlink()
    with pytest.raises(RequestError, match=r"column 'meta' of shard\.00000\.mds holds pickles"):
        ids_of(root)
    with pytest.raises(RequestError, match=r"column 'meta' of shard\.00000\.mds holds pickles"):
        ids_of(root, "meta")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"raw_data": {"basename": "..", "bytes": 1}},
        {"raw_data": {"basename": "../shard.00000.mds", "bytes": 1}},
        {"raw_data": {"basename": "/dev/zero", "bytes": 1}},
        {"raw_data": {"basename": "a\x1b[2J", "bytes": 1}},
        {"raw_data": {"basename": 5, "bytes": 1}},
        {"raw_data": {"basename": "shard.00000.mds", "bytes": -1}},
        {"raw_data": None},
        {"zip_data": {"basename": "shard.00000.mds.zstd", "bytes": 1}},
        {"samples": "5"},
        {"samples": True},
        {"version": 3},
        {"format": "json"},
        {"column_names": ["ids", "other"]},
        {"column_names": [["ids"]]},
        {"column_encodings": ["str"]},
        {"column_encodings": ["ndarray:float32:3"]},
        {"column_encodings": ["ndarray:__class__:3"]},
        {"column_encodings": ["pkl:3"]},
        {"column_encodings": [None]},
        {"column_sizes": [-6]},
        {"column_sizes": [1.5]},
        {"column_sizes": 6},
    ],
)
def test_an_index_that_says_something_odd_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    root = write(tmp_path, {"ids": "ndarray:uint16:3"}, [{"ids": np.arange(3, dtype="u2")}])
    index = json.loads((tmp_path / "index.json").read_text())
    index["shards"][0] |= change
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError) as caught:
        foreign_mds.read_index(root, "s", "ids", None)
    assert str(caught.value).isprintable()


def test_every_shard_that_is_cut_or_whose_offsets_are_wrong_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, {"ids": "ndarray", "a": "str"}, [{"ids": np.arange(3, dtype="u2"), "a": "xy"}] * 3)
    (shard,) = foreign_mds.read_index(root, "s", "ids", None)
    path = tmp_path / shard.name
    data = path.read_bytes()
    broken = [data[:n] for n in range(len(data))]
    broken += [data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :] for at in range(0, 20, 4)]
    for changed in broken:
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"in it|no whole"):
            list(foreign_mds.read_ids(root, shard, "ids", None))


def test_a_folder_that_is_named_from_the_current_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "some" / "in", {"ids": "ndarray:uint16"}, [{"ids": np.arange(1, 9, dtype="u2")}] * 3)
    monkeypatch.chdir(tmp_path)
    tokenized = {"tokenizer": "gpt2", "column": "ids"}
    source = Source(name="s", format="mds", path="some/in", tokenized=tokenized)
    build(Build(name="p", sources=[source], out="art", seq_len=8, validation_tokens=0))
    assert open_artifact("art/pools/p").manifest.documents == 1


@pytest.mark.parametrize("width", [4, 8])
def test_bytes_of_another_type_than_is_said_are_refused(tmp_path: Path, width: int) -> None:
    ids = np.arange(1, 20, dtype=f"u{width}")
    root = write(tmp_path / "in", {"ids": "bytes"}, [{"ids": ids.tobytes()}])
    assert ids_of(root, dtype=f"uint{8 * width}") == [ids.tolist()]
    with pytest.raises(ValueError, match="has 0 as every second id: its ids are wider than uint16"):
        ids_of(root, dtype="uint16")
    odd = write(tmp_path / "odd", {"ids": "bytes"}, [{"ids": bytes(7)}])
    with pytest.raises(ValueError, match="a sample in it has 7 bytes of ids, no multiple of 4"):
        ids_of(odd, dtype="uint32")


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "in", {"ids": "ndarray:uint16"}, [{"ids": np.arange(1, 9, dtype="u2")}] * 3)
    (tmp_path / "in" / "shard.00000.mds").unlink()
    source = Source(name="s", format="mds", path=root, tokenized={"tokenizer": "gpt2", "column": "ids"})
    with pytest.raises(WorkError, match=r"source 's': .*shard\.00000\.mds is missing: restore it"):
        build(Build(name="p", sources=[source], out=str(tmp_path / "art"), seq_len=8, validation_tokens=0))
