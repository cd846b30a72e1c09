"""WebDataset files: samples in tar files, for loaders that stream them.

File `shard-NNNNNN.tar` holds samples as `<number>.tokens.npy`, each an array of ids of shape (seq_len,). The last
sample of a subset (`epochal carve --format wds`) may hold PAD; in an export it is shorter instead. The bytes are the
same whenever and by whomever they are written.
"""

import io
import itertools
import math
import tarfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from ...common import storage
from ...common.publish import Sink
from ...common.unpack import decompressed
from ..manifest import Manifest
from .rows import Block, Part, Rows, Stretch, Tokens

ENDING = ".tar"
COLUMN = "tokens.npy"
SAMPLES_PER_FILE = 4096


def n_files(n_samples: int) -> int:
    """Return how many files hold `n_samples`."""
    return -(-n_samples // SAMPLES_PER_FILE)


def rows_per_file(subset: Manifest) -> int:
    """Return how many samples a file holds."""
    return SAMPLES_PER_FILE


def write(sink: Sink, rows: Iterable[Rows], subset: Manifest, stretch: Stretch) -> None:
    """Write each of `rows` as a sample."""
    import webdataset

    left = enumerate((sample for block in rows for sample in block.arrays()), stretch.start)
    for number in stretch.files(SAMPLES_PER_FILE):
        with (
            sink.create(f"shard-{number:06d}.tar") as file,
            webdataset.TarWriter(file, user="", group="", mtime=0) as writer,
        ):
            for i, sample in itertools.islice(left, SAMPLES_PER_FILE):
                writer.write({"__key__": f"{i:012d}", COLUMN: sample})


def read(path: str, part: Part) -> Iterator[Block]:
    """Yield the samples in a tar file one by one.

    Raises:
        ValueError: when one is no array of ids, or the file, which may be compressed, is not whole.
    """
    with storage.open_read(path, part.size) as file:
        try:
            yield from _samples(decompressed(file, path), part.column or COLUMN)
        except tarfile.TarError:
            raise ValueError("it ends early or is damaged") from None


class _Member(tarfile.TarInfo):
    """A member of a tar file. tarfile takes a damaged header for the end of the file."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise ValueError("it ends early or is damaged") from None


def _samples(file: Any, column: str) -> Iterator[Block]:
    sample, known = "", True
    with tarfile.open(fileobj=file, mode="r|", tarinfo=_Member) as tar:
        for member in tar:
            # The key ends at the first dot of the file's name, as in webdataset, not of a folder before it.
            folder, slash, name = member.name.rpartition("/")
            key, dot, field = name.partition(".")
            if not dot or member.isdir():
                continue
            if (whole := folder + slash + key) != sample:
                _check_sample(sample, known, column)
                sample, known = whole, False
            if column not in (field, field.lower()):
                continue
            known = True
            data = tar.extractfile(member) if member.isfile() else None
            if data is None:
                raise ValueError(f"{member.name} is a link or a folder, not a file")
            ids = _parse(data.read(), member.name)
            yield ids, np.array([len(ids)])
    _check_sample(sample, known, column)
    while file.read(1 << 20):  # a checksum may follow
        pass


def _check_sample(sample: str, known: bool, column: str) -> None:
    """Raise ValueError for a sample that has no ids: none is passed over in silence."""
    if not known:
        raise ValueError(f"its sample '{sample}' has no {column} (`column` names another)")


def _parse(data: bytes, name: str) -> Tokens:
    """Return the array in the bytes of an .npy file. Raises ValueError when there is none.

    Many arrays have the same header, whose parsing takes longer than all the rest.
    """
    if not data.startswith(b"\x93NUMPY"):
        raise ValueError(f"{name} is no .npy file")
    stop = 10 + int.from_bytes(data[8:10], "little")
    shape, dtype = _header(data[:stop])
    if len(shape) != 1 or dtype.kind not in "iu":
        raise ValueError(f"{name} is no array of token ids")
    if len(data) - stop != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{name} is cut short")
    return np.frombuffer(data, dtype, offset=stop)


@lru_cache(maxsize=64)
def _header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array is in a newer version of NumPy's format than 1.0")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        raise ValueError("an array's header is damaged") from None
    return shape, dtype
