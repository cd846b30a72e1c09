"""Other ways to read the same tokens in random order, samples of one length: for `benchmarks.loader`.

Each is set up as its own documentation says. Those whose package is not installed are left out, by name.
"""

import importlib.util
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Maker = Callable[[int], Iterable[Any]]
"""From a number of workers to an iterable of batches that has not begun."""


class Windows:
    """Samples of a flat file of uint16 as int64 tensors (seq_len,): a map-style dataset as many people write it."""

    def __init__(self, path: str, seq_len: int) -> None:
        self.path, self.seq_len = path, seq_len
        self.tokens = np.memmap(path, np.uint16, "r")

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.tokens) // self.seq_len

    def __getitem__(self, index: int) -> Any:
        """Return sample `index`, int64 (seq_len,)."""
        import torch

        begin = int(index) * self.seq_len
        return torch.from_numpy(self.tokens[begin : begin + self.seq_len].astype(np.int64))


class Arrays(Windows):
    """The same as NumPy arrays, which is what Grain batches."""

    def __getitem__(self, index: int) -> Any:
        """Return sample `index`, int64 (seq_len,)."""
        begin = int(index) * self.seq_len
        return self.tokens[begin : begin + self.seq_len].astype(np.int64)


def _memmap(tokens: Path, folder: Path, seq_len: int, batch: int) -> Maker:
    from torch.utils.data import DataLoader

    return lambda workers: DataLoader(Windows(str(tokens), seq_len), batch, shuffle=True, num_workers=workers)  # type: ignore[arg-type]


def _grain(tokens: Path, folder: Path, seq_len: int, batch: int) -> Maker:
    import grain

    def make(workers: int) -> Iterable[Any]:
        data = grain.MapDataset.source(Arrays(str(tokens), seq_len)).shuffle(seed=0).repeat().batch(batch)
        options = grain.ReadOptions(num_threads=0) if workers == 0 else None
        iterated = data.to_iter_dataset(options)
        return iterated.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers)) if workers else iterated

    return make


def _litdata(tokens: Path, folder: Path, seq_len: int, batch: int) -> Maker:
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader, optimize

    os.environ.setdefault("DATA_OPTIMIZER_CACHE_FOLDER", str(folder / "litdata-cache"))
    out = str(folder / "litdata")
    count = os.path.getsize(tokens) // 2
    pieces = [(begin, min(begin + 2048 * seq_len, count)) for begin in range(0, count, 2048 * seq_len)]
    optimize(
        fn=partial(_piece, str(tokens)),
        inputs=pieces,
        output_dir=out,
        chunk_bytes="64MB",
        item_loader=TokensLoader(block_size=seq_len),
        num_workers=1,
    )

    def make(workers: int) -> Iterable[Any]:
        data = StreamingDataset(out, item_loader=TokensLoader(block_size=seq_len), shuffle=True, drop_last=True)
        return StreamingDataLoader(data, batch_size=batch, num_workers=workers)

    return make


def _piece(path: str, piece: tuple[int, int]) -> Any:
    import torch

    yield torch.from_numpy(np.fromfile(path, np.uint16, piece[1] - piece[0], offset=2 * piece[0]))


RIVALS: dict[str, tuple[str, Callable[[Path, Path, int, int], Maker]]] = {
    "memmap": ("numpy", _memmap),
    "Grain": ("grain", _grain),
    "LitData": ("litdata", _litdata),
}
"""Name in the table; the package; from a flat file, a folder for what it writes, seq_len and batch to a maker."""


def rivals(tokens: Path, folder: Path, seq_len: int, batch: int) -> tuple[dict[str, Maker], list[str]]:
    """Return the makers of the rivals that are installed, and the names of those that are not."""
    here = {name for name, (package, _) in RIVALS.items() if importlib.util.find_spec(package)}
    makers = {name: make(tokens, folder, seq_len, batch) for name, (_, make) in RIVALS.items() if name in here}
    return makers, [name for name in RIVALS if name not in here]
