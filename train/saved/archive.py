"""What `torch.save` writes, read by our own hand: an archive of a pickle of plain values, and of tensors beside it."""

import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...common.errors import RequestError, WorkError, one_line
from . import pickles
from .pickles import Maker, NotPlainError, Unfinished

_MEMBER = re.compile(r"data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id")
_STORAGE = re.compile(r"data/[0-9]+")

_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


@dataclass(frozen=True)
class _Storage:
    """The numbers that tensors are views of."""

    values: Tensor


class _NumpyType(Unfinished):
    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[biuf][1248]", code):
            raise NotPlainError(f"an array of '{code[:20]}', not of numbers")
        self.dtype = np.dtype(code)

    def finish(self, state: Any) -> "_NumpyType":
        if state[1] not in ("<", "|", "="):
            raise ValueError("its arrays have another byte order")
        return self


class _NumpyArray(Unfinished):
    def __init__(self, *_: Any) -> None:
        pass

    def finish(self, state: Any) -> NDArray[Any]:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _NumpyType) or not isinstance(data, bytes) or fortran:
            raise ValueError("an array in it is damaged")
        return np.frombuffer(data, dtype.dtype).reshape(shape).copy()


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError("its bytes are written in another way")
    return text.encode("latin1")


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """Return a view of a storage, which must hold all of it."""
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise ValueError("a tensor in it is damaged")
    if any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise ValueError("a tensor in it is damaged")
    end, elements = offset, 1
    for n, step in zip(size, stride, strict=True):
        end += (n - 1) * step
        elements *= n
    if elements and (end >= storage.values.numel() or elements > storage.values.numel()):
        raise ValueError("a tensor in it is larger than what it holds of it")
    return torch.as_strided(storage.values, size, stride, offset) if elements else storage.values.new_empty(size)


NAMES: Mapping[str, Any] = {
    "collections OrderedDict": Maker(lambda: OrderedDict()),
    "torch._utils _rebuild_tensor_v2": Maker(_tensor),
    **{f"torch {name}Storage": _StorageType(dtype) for name, dtype in _DTYPES.items()},
    "torch.torch_version TorchVersion": Maker(lambda version: str(version)),
    "datetime timedelta": Maker(lambda days, seconds, microseconds: timedelta(days, seconds, microseconds)),
    "_codecs encode": Maker(_latin1),
    "numpy ndarray": None,
    "numpy dtype": Maker(_NumpyType),
    "numpy._core.multiarray _reconstruct": Maker(_NumpyArray),
    "numpy.core.multiarray _reconstruct": Maker(_NumpyArray),
}
"""All that a checkpoint names, and what answers for it here: a run's state, its random generators and its times."""


def load(file: str | os.PathLike[str] | IO[bytes], where: str) -> Any:
    """Return what was saved: plain values and tensors on the CPU. `where` names the file in errors.

    Raises:
        RequestError: when it holds code, or is no file of torch.save's.
        WorkError: when it is damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            value = _load(archive)
        pickles.check_plain(value, (Tensor, np.ndarray, timedelta))
        return value
    except NotPlainError as error:
        what = f"holds code ({error.name})" if error.name else f"holds {error}"
        raise RequestError(
            f"{where} {what}: a checkpoint is numbers, text and tensors, and this one was not loaded"
        ) from None
    except zipfile.BadZipFile as error:
        if "magic number" in str(error) or "not a zip file" in str(error):
            raise RequestError(
                f"{where} is no checkpoint, or one that was cut short: checkpoints are archives as torch.save "
                "writes them; others may run code and are not loaded"
            ) from None
        raise WorkError(f"{where} is damaged: {one_line(error)}") from None
    except (ValueError, NotImplementedError, EOFError, RuntimeError) as error:
        raise WorkError(f"{where} is damaged: {one_line(error)}") from None


def _load(archive: zipfile.ZipFile) -> Any:
    members = _members(archive)
    if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
        raise ValueError("it was written on a machine of another byte order")
    return pickles.read(archive.read(members["data.pkl"]), NAMES, _storages(archive, members))


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the archive's members by their names in its one folder; nothing may be there twice, or packed."""
    found: dict[str, zipfile.ZipInfo] = {}
    roots = {info.filename.partition("/")[0] for info in archive.infolist()}
    for info in archive.infolist():
        name = info.filename.partition("/")[2]
        if not _MEMBER.fullmatch(name) and not _STORAGE.fullmatch(name):
            raise NotPlainError(f"a file '{info.filename[:100]}' as torch.save never writes it")
        if name in found:
            raise NotPlainError(f"'{name}' twice")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise NotPlainError(f"'{name}' compressed")
        found[name] = info
    if len(roots) > 1:
        raise NotPlainError("more than one folder")
    if "data.pkl" not in found:
        raise NotPlainError("no values")
    if sum(info.file_size for info in found.values()) > archive.start_dir:
        raise NotPlainError("files that lie in one another")
    return found


def _storages(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> Callable[[Any], _Storage]:
    """Return what reads the storage that a persistent id stands for, each once."""
    read: dict[str, _Storage] = {}

    def refer(identifier: Any) -> _Storage:
        kind, of, key, _, elements = identifier
        if kind != "storage" or not isinstance(of, _StorageType):
            raise ValueError("a tensor in it is damaged")
        if key not in read:
            read[key] = _Storage(_numbers(archive, members[f"data/{key}"], of.dtype))
        storage = read[key]
        if storage.values.dtype != of.dtype or storage.values.numel() != elements:
            raise ValueError("a tensor in it is not as long as it says")
        return storage

    return refer


def _numbers(archive: zipfile.ZipFile, info: zipfile.ZipInfo, dtype: torch.dtype) -> Tensor:
    if info.file_size % dtype.itemsize:
        raise ValueError("a tensor in it is not as long as it says")
    data = bytearray(archive.read(info))
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
