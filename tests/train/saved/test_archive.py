import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epochal.common.errors import EpochalError, RequestError, WorkError
from epochal.tests.support.code import Call, touch
from epochal.train.saved import archive


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def rewritten(path: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]], compression: int = 0) -> Path:
    """Write an archive anew, each member as what `change` makes of it."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_suffix(".new"), "w", compression) as new:
        for name in old.namelist():
            for changed, data in change(name, old.read(name)):
                new.writestr(changed, data)
    return path.with_suffix(".new")


def with_pickle(path: Path, data: bytes) -> Path:
    return rewritten(path, lambda name, old: [(name, data if name.endswith("/data.pkl") else old)])


def refusal(path: Path) -> str:
    with pytest.raises(EpochalError) as caught:
        archive.load(path, "x.pt")
    assert str(caught.value).startswith("x.pt ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(v, w) for v, w in zip(a, b, strict=True))
    return a == b


def test_what_a_run_saves_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    matrix = torch.arange(24.0).reshape(4, 6)
    value = {
        "state": OrderedDict(a=matrix, b=matrix.T[1:3], c=matrix.bfloat16(), d=torch.empty(0, 3), e=torch.tensor(7)),
        "times": [timedelta(1, 2, 3), 1.5, -(2**62), 2**63, None, True, ("é", b"\xff\x00")],
        "rng": [{"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}],
        "version": torch.__version__,
        3: {},
    }
    path = saved(tmp_path / "a.pt", value)
    mine, theirs = archive.load(path, "x.pt"), torch.load(path, weights_only=False)
    assert equal(theirs, mine)
    assert type(mine["version"]) is str
    assert mine["state"]["a"].data_ptr() == mine["state"]["b"].data_ptr() - 4  # views of one storage remain views


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Call(os.system, "touch ran"), "posix.system"),
        (Call(open, "ran", "w"), f"{open.__module__}.open"),
        (Call(eval, "open('ran', 'w')"), "__builtin__.eval"),
        (Call(getattr, "", "join"), "__builtin__.getattr"),
        (Call(torch.load, "other.pt"), "torch.serialization.load"),
        (Call(torch.hub.load, "a/b", "c"), "torch.hub.load"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    ],
)
def test_code_is_named_and_not_run(call: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (call, {"state": {"model": {"a": torch.zeros(2)}, "b": [call]}}):
        assert f"holds code ({name})" in refusal(saved(tmp_path / "a.pt", value))
    assert "an array of 'O8'" in refusal(saved(tmp_path / "a.pt", np.array([Call(open, "ran", "w")], object)))
    assert not (tmp_path / "ran").exists()


def test_a_name_that_is_known_makes_nothing_but_what_it_is_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"a": torch.zeros(4)})
    known = {
        b"\x80\x02ctorch\nFloatStorage\n(U\x01atR.": "opcode SHORT_BINSTRING",
        b"\x80\x02ctorch\nFloatStorage\n)R.": "a call of a _StorageType",
        b"\x80\x02ctorch\nFloatStorage\n.": "a _StorageType",
        b"\x80\x02ccollections\nOrderedDict\n.": "a Maker",
        b"\x80\x02ccollections\nOrderedDict\n}(X\x04\x00\x00\x00makeNub.": "a state for a Maker",
        b"\x80\x02cnumpy._core.multiarray\n_reconstruct\n)R.": "a _NumpyArray",
        b"\x80\x02]q\x00h\x00a.": "nested without end",
        b"\x80\x02" + b"(" * 9 + b"N" + b"t" * 9 + b".": "",
        b"\x80\x02N" + b"\x85" * 100_000 + b".": "nested without end",
        b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.": "a key that is a tuple",
        b"\x80\x04N.": "protocol 4",
        b"cposix\nsystem\n.": "posix.system",
        b"\x80\x02.": "damaged",
        b"\x80\x02h\x05.": "damaged",
        b"\x80\x02t.": "damaged",
        b"": "damaged",
    }
    for data, expected in known.items():
        changed = with_pickle(path, data)
        if expected:
            assert expected in refusal(changed)
        else:
            archive.load(changed, "x.pt")


def test_a_tensor_is_within_what_the_archive_holds(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", torch.zeros(4, 3))
    with zipfile.ZipFile(path) as old:
        data = old.read("a/data.pkl")
    size, elements = b"K\x04K\x03\x86", b"K\x0ct"
    assert data.count(size) == data.count(elements) == 1
    for wrong in (b"K\x04K\x04\x86", b"K\xffK\x03\x86", b"J\xff\xff\xff\xffK\x03\x86", b"K\x04\x85q\x09K\x03\x86"):
        assert "damaged" in refusal(with_pickle(path, data.replace(size, wrong)))
    assert "not as long as it says" in refusal(with_pickle(path, data.replace(elements, b"M\x00\x10t")))
    stride = b"K\x03K\x01\x86"
    assert data.count(stride) == 1
    assert "larger than" in refusal(with_pickle(path, data.replace(stride, b"K\x00K\x7f\x86")))
    short = rewritten(path, lambda name, old: [(name, old[:-4] if name == "a/data/0" else old)])
    assert "not as long as it says" in refusal(short)
    gone = rewritten(path, lambda name, old: [] if name == "a/data/0" else [(name, old)])
    assert "damaged" in refusal(gone)


def test_an_archive_as_torch_never_writes_it_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"a": torch.zeros(4)})
    evil = pickle.dumps(touch(tmp_path / "ran"), 2)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = rewritten(path, lambda n, d: [(n, d)] + ([(n, evil)] if n.endswith("data.pkl") else []))
    assert "'data.pkl' twice" in refusal(twice)
    beside = rewritten(path, lambda n, d: [(n, d)] + ([("b/data/9", evil)] if n.endswith("data.pkl") else []))
    assert "more than one folder" in refusal(beside)
    for extra in ("a/../../x", "a/code/__torch__.py", "a/constants.pkl", "/a", "a\\b"):
        odd = rewritten(path, lambda n, d, extra=extra: [(n, d)] + ([(extra, b"")] if n == "a/version" else []))
        assert "a file '" in refusal(odd)
    assert "compressed" in refusal(rewritten(path, lambda n, d: [(n, d)], zipfile.ZIP_DEFLATED))
    assert "another byte order" in refusal(rewritten(path, lambda n, d: [(n, b"big" if n == "a/byteorder" else d)]))
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "jit.pt"))
    assert "a file 'jit/" in refusal(tmp_path / "jit.pt")
    assert not (tmp_path / "ran").exists()


def test_what_is_no_archive_is_refused_unread(tmp_path: Path) -> None:
    torch.save(touch(tmp_path / "ran"), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(touch(tmp_path / "ran")))
    (tmp_path / "empty.pt").write_bytes(b"")
    whole = saved(tmp_path / "a.pt", {"a": torch.zeros(400)}).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("legacy.pt", "pickle.pt", "empty.pt", "cut.pt"):
        assert "is no checkpoint, or one that was cut short" in refusal(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_flipped_bit_in_a_value_or_tensor_is_noticed_without_a_hash(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"a": torch.arange(100.0), "b": "text"})
    with zipfile.ZipFile(path) as opened:
        spans = [(i.header_offset, i.file_size) for i in opened.infolist() if i.filename in ("a/data.pkl", "a/data/0")]
    data = path.read_bytes()
    for offset, size in spans:
        name, extra = struct.unpack("<HH", data[offset + 26 : offset + 30])
        start = offset + 30 + name + extra
        for place in range(start, start + size, 7):
            flipped = io.BytesIO(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises((WorkError, RequestError)):
                archive.load(flipped, "x.pt")
