"""MosaicML Streaming's MDS format for samples of one fixed width: bytes of a shard, its index entry, reading.

A shard file is `n: uint32 | offsets: uint32[n + 1] | configuration JSON | samples`. All samples have the same size,
so a shard is one array and a sample is found by arithmetic. `tests/shards/test_mds.py` holds the bytes equal to
MDSWriter's.
"""

import json
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common.errors import WorkError
from .file_array import FileArray

COLUMN = "tokens"
SHARD_NAME = re.compile(r"shard\.[0-9]{5,}\.mds")

Samples = NDArray[np.uint16] | NDArray[np.uint32]


def shard_name(i: int) -> str:
    """Return the file name of shard `i`."""
    return f"shard.{i:05d}.mds"


def shard_config(seq_len: int, dtype: str) -> dict[str, Any]:
    """Return what every shard and index entry says of the samples: one column `tokens` of shape (seq_len,)."""
    return {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": ["xxh64"],
        "size_limit": None,
        "column_names": [COLUMN],
        "column_encodings": [f"ndarray:{dtype}:{seq_len}"],
        "column_sizes": [seq_len * np.dtype(dtype).itemsize],
    }


def header_bytes(n_samples: int, seq_len: int, dtype: str) -> int:
    """Return where the samples begin in a shard file of `n_samples`."""
    return 4 + 4 * (n_samples + 1) + len(_config_text(seq_len, dtype))


def max_samples_per_shard(seq_len: int, dtype: str) -> int:
    """Return how many samples a shard can hold: its offsets are 32 bits wide."""
    size = seq_len * np.dtype(dtype).itemsize
    return (2**32 - 1 - 8 - len(_config_text(seq_len, dtype))) // (size + 4)


def _config_text(seq_len: int, dtype: str) -> bytes:
    return json.dumps(shard_config(seq_len, dtype), sort_keys=True).encode()


def encode_shard(samples: Samples) -> bytes:
    """Return the shard file that holds `samples`, an array (n_samples, seq_len) of uint16 or uint32."""
    n, seq_len = samples.shape
    dtype = samples.dtype.name
    start = header_bytes(n, seq_len, dtype)
    offsets = start + np.arange(n + 1, dtype=np.uint64) * (seq_len * samples.dtype.itemsize)
    assert offsets[-1] < 2**32, "a shard's offsets are 32 bits wide"
    data = np.ascontiguousarray(samples, samples.dtype.newbyteorder("<"))
    parts = (np.uint32(n).tobytes(), offsets.astype("<u4").tobytes(), _config_text(seq_len, dtype), data.tobytes())
    return b"".join(parts)


def index_entry(
    basename: str, n_samples: int, n_bytes: int, file_hash: str, seq_len: int, dtype: str
) -> dict[str, Any]:
    """Return a shard's entry in index.json. `n_samples` may be fewer than the file holds: readers serve a prefix."""
    raw = {"basename": basename, "bytes": n_bytes, "hashes": {"xxh64": file_hash}}
    return shard_config(seq_len, dtype) | {"raw_data": raw, "zip_data": None, "samples": n_samples}


def dump_index(entries: list[dict[str, Any]]) -> str:
    """Return the text of index.json."""
    return json.dumps({"version": 2, "shards": entries}, sort_keys=True)


def decode_shard(data: bytes, seq_len: int, dtype: str) -> Samples:
    """Return all samples in the bytes of a whole shard file, shape (n_samples, seq_len); a view, not a copy."""
    n = int(np.frombuffer(data[:4], "<u4")[0])
    start = header_bytes(n, seq_len, dtype)
    flat: Samples = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), offset=start)
    return flat.reshape(n, seq_len)


def open_shard(path: str, seq_len: int, dtype: str) -> FileArray:
    """Return all samples in the shard at `path`, shape (n_samples, seq_len), to be read from there.

    Raises:
        WorkError: when the file is not a whole shard of this form.
    """
    with open(path, "rb") as f:
        head = f.read(4)
        n = int(np.frombuffer(head, "<u4")[0]) if len(head) == 4 else 0
        start = header_bytes(n, seq_len, dtype)
        f.seek(4 + 4 * (n + 1))
        config = f.read(start - 4 - 4 * (n + 1)) if n else b""
        size = f.seek(0, 2)
    width = seq_len * np.dtype(dtype).itemsize
    if not n or config != _config_text(seq_len, dtype) or size != start + n * width:
        raise WorkError(f"shard {path} is damaged: it is not a whole shard of {seq_len} x {dtype} samples")
    return FileArray(path, np.dtype(dtype).newbyteorder("<"), (n, seq_len), start, f"shard {path}")
