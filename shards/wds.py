"""WebDataset files: a subset's samples in tar files, for loaders that stream them.

File `shard-NNNNNN.tar` holds samples as `<number>.tokens.npy`, each an array (seq_len,) of the subset's dtype; only the
last sample may hold PAD. The bytes are the same whenever and by whomever they are written.
"""

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from . import storage
from .mds import Samples

SAMPLES_PER_FILE = 4096


def n_files(n_samples: int) -> int:
    """Return how many files hold `n_samples`."""
    return -(-n_samples // SAMPLES_PER_FILE)


def write(folder: str, blocks: Iterable[Samples]) -> None:
    """Write the samples in `blocks` to `folder`."""
    import webdataset

    for number, group in enumerate(_groups(blocks)):
        path = os.path.join(folder, f"shard-{number:06d}.tar")
        with webdataset.TarWriter(path, user="", group="", mtime=0) as writer:
            for i, sample in enumerate(group):
                writer.write({"__key__": f"{number * SAMPLES_PER_FILE + i:012d}", "tokens.npy": sample})


def _groups(blocks: Iterable[Samples]) -> Iterator[Samples]:
    waiting: Samples | None = None
    for block in blocks:
        waiting = block if waiting is None else np.concatenate([waiting, block])
        while len(waiting) >= SAMPLES_PER_FILE:
            yield waiting[:SAMPLES_PER_FILE]
            waiting = waiting[SAMPLES_PER_FILE:]
    if waiting is not None and len(waiting):
        yield waiting


def count_tokens(root: str, names: Sequence[str], pad: int) -> int:
    """Return how many tokens that are not PAD the tar files `names` below `root` hold."""
    total = 0
    for name in names:
        with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(storage.join(root, name)))) as tar:
            for member in tar:
                data = tar.extractfile(member)
                assert data is not None, "the files hold nothing but samples"
                total += int((np.load(io.BytesIO(data.read())) != pad).sum())
    return total
