"""Files of token ids as other programs leave them: nothing in one is passed over, and what is refused says why."""

import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from epochal.shards.formats import arrow_tables, megatron, webdataset
from epochal.shards.formats.rows import Part

SEQUENCES = [[1, 2, 9], [3, 9], [4, 5, 6, 9]]


def write_megatron(path: Path, bounds: list[int], extra: bytes = b"", cut: int = 0) -> Path:
    """Write the .bin at `path` and its index, in which `bounds` say where documents begin and end."""
    path.write_bytes(b"".join(np.array(s, "<u2").tobytes() for s in SEQUENCES) + extra)
    lengths = np.array([len(s) for s in SEQUENCES])
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, len(lengths), len(bounds))
    starts = (np.cumsum(lengths) - lengths) * 2
    index = head + lengths.astype("<i4").tobytes() + starts.astype("<i8").tobytes() + np.array(bounds, "<i8").tobytes()
    path.with_suffix(".idx").write_bytes(index[: len(index) - cut])
    return path


@pytest.mark.parametrize("bounds", [[0, 1, 2, 3], [0, 1, 1, 3], [0, 3]])
def test_all_sequences_of_an_index_are_read(tmp_path: Path, bounds: list[int]) -> None:
    path = write_megatron(tmp_path / "a.bin", bounds)
    read = np.concatenate([ids for ids, _ in megatron.read(str(path), Part())])
    assert read.tolist() == [i for sequence in SEQUENCES for i in sequence]


@pytest.mark.parametrize("bounds", [[], [0], [1, 3], [0, 1, 2], [0, 2, 1, 3]])
def test_an_index_whose_documents_leave_sequences_out_is_refused(tmp_path: Path, bounds: list[int]) -> None:
    path = write_megatron(tmp_path / "a.bin", bounds)
    with pytest.raises(ValueError, match="its document bounds do not cover its sequences"):
        list(megatron.read(str(path), Part()))


def test_an_index_that_is_cut_within_a_number_says_so(tmp_path: Path) -> None:
    path = write_megatron(tmp_path / "a.bin", [0, 1, 2, 3], cut=3)
    with pytest.raises(ValueError, match="the index is shorter than its header says"):
        list(megatron.read(str(path), Part()))


def write_tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def npy(ids: object) -> bytes:
    data = io.BytesIO()
    np.save(data, np.array(ids))
    return data.getvalue()


def test_what_lies_in_a_tar_beside_samples_and_their_ids_does_no_harm(tmp_path: Path) -> None:
    members = {"README": b"x", "a.json": b"{}", "a.tokens.npy": npy([1]), "a.txt": b"x", "b.TOKENS.NPY": npy([2])}
    read = [ids.tolist() for ids, _ in webdataset.read(write_tar(tmp_path / "a.tar", members), Part())]
    assert read == [[1], [2]]


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"a.tokens.npy": npy([1]), "x/b.txt": b"x", "c.tokens.npy": npy([1])}, "its sample 'x/b' has no tokens.npy"),
        ({"a.tokens.npy": npy([1]), "b.txt": b"x"}, "its sample 'b' has no tokens.npy"),
        ({"a.tokens.npy": b"[1]"}, "a.tokens.npy is no .npy file"),
        ({"a.tokens.npy": npy(["text"])}, "a.tokens.npy is no array of token ids"),
        ({"a.tokens.npy": npy([[1]])}, "a.tokens.npy is no array of token ids"),
        ({"a.tokens.npy": npy([1, 2])[:-1]}, "a.tokens.npy is cut short"),
        ({"a.tokens.npy": npy([1]).replace(b"descr", b"\xff\x00(}[")}, "an array's header is damaged"),
    ],
)
def test_a_sample_that_has_no_ids_is_named(tmp_path: Path, members: dict[str, bytes], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        list(webdataset.read(write_tar(tmp_path / "a.tar", members), Part()))


@pytest.mark.parametrize("lists", [[[1, None], [2]], [[1, 2], None]])
def test_nulls_among_ids_are_counted(lists: list[object]) -> None:
    with pytest.raises(ValueError, match="column 'c' holds 1 nulls"):
        arrow_tables.lists(pa.array(lists), "c")
