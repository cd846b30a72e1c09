"""Small pools written straight from arrays of tokens, and the settings of a tiny run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from epochal.benchmarks import common
from epochal.common.hashing import xxh64
from epochal.common.publish import FileInfo
from epochal.shards import mds
from epochal.shards.artifact import read_manifest
from epochal.shards.documents import KEPT_TYPES, SCHEMA, schema_with
from epochal.shards.manifest import TokenizerInfo, dump_manifest
from epochal.shards.without.cut import Cut

EOD, PAD, MASK, VOCAB = 256, 257, 258, 259
"""Special ids of the byte-level test vocabulary."""


def random_documents(n_tokens: int) -> NDArray[np.uint16]:
    """Return a stream of `n_tokens` random bytes in documents of 1 to 60 tokens, each ended by EOD."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 256, n_tokens).astype(np.uint16)
    ends = np.cumsum(rng.integers(1, 61, n_tokens)) - 1
    tokens[ends[ends < n_tokens]] = EOD
    tokens[-1] = EOD
    return tokens


def write_documents(root: Path, tokens: NDArray[np.uint16], files: dict[str, FileInfo], first: int = 0) -> None:
    """Write the documents.parquet of a stream whose documents end with EOD, numbered from `first`."""
    ends = np.flatnonzero(tokens == EOD) + 1
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    columns = {
        "key": [int(i).to_bytes(16, "big") for i in range(first, first + len(ends))],
        "id": [f"doc{i}" for i in range(first, first + len(ends))],
        "source": pa.array(["toy"] * len(ends)).dictionary_encode(),
        "start": starts,
        "tokens": ends - starts,
    }
    rows = max(7, len(ends) // 100)  # several groups in the least, and not thousands in the largest
    pq.write_table(pa.table(columns, schema=SCHEMA), root / "documents.parquet", row_group_size=rows)
    data = (root / "documents.parquet").read_bytes()
    files["documents.parquet"] = FileInfo(bytes=len(data), xxh64=xxh64(data))


def write_pool(
    folder: Path,
    tokens: NDArray[np.uint16] | int,
    seq_len: int = 16,
    samples_per_shard: int = 8,
    name: str = "toy",
    dtype: str = "uint16",
    first_document: int = 0,
) -> Path:
    """Write a pool below `folder`/artifacts/pools; return its folder.

    Args:
        tokens: the stream, or its length.
        first_document: number that keys and ids of documents count from: pools with the same numbers share documents.
    """
    if isinstance(tokens, int):
        tokens = random_documents(tokens)
    root = folder / "artifacts" / "pools" / name
    root.mkdir(parents=True)
    n = -(-len(tokens) // seq_len)
    samples = np.full(n * seq_len, PAD, dtype)
    samples[: len(tokens)] = tokens
    samples = samples.reshape(n, seq_len)
    shards = (samples[start : start + samples_per_shard] for start in range(0, n, samples_per_shard))
    files: dict[str, FileInfo] = {}
    write_documents(root, tokens, files, first_document)
    ids = TokenizerInfo(name="bytes", fingerprint="0" * 32, vocab_size=VOCAB, eod=EOD, pad=PAD, mask=MASK)
    common.write_pool(root, shards, ids, name, len(tokens), int((tokens == EOD).sum()), files)
    return root


def with_columns(root: Path, columns: dict[str, tuple[str, list[Any]]]) -> Path:
    """Add kept columns, each (type, values), to the table of documents of a pool; return its folder."""
    kept = {name: kind for name, (kind, _) in columns.items()}
    table = pq.read_table(root / "documents.parquet")
    for name, (kind, values) in columns.items():
        table = table.append_column(name, pa.array(values, KEPT_TYPES[kind]))
    pq.write_table(table.cast(schema_with(kept)), root / "documents.parquet", row_group_size=97)
    m = read_manifest(str(root))
    files = m.files | {"documents.parquet": FileInfo.at(str(root / "documents.parquet"))}
    changed = m.model_copy(update={"files": files, "statistics": m.statistics | {"kept": kept}})
    (root / "manifest.json").write_text(dump_manifest(changed))
    return root


def in_several_files(root: Path | str, rows: int = 50) -> str:
    """Have the table of documents of a pool lie in files of `rows` rows each, 20 a row group; return its folder."""
    root = Path(root)
    table = pq.read_table(root / "documents.parquet")
    m = read_manifest(str(root))
    files = {name: info for name, info in m.files.items() if name != "documents.parquet"}
    for number, start in enumerate(range(0, len(table), rows)):
        path = root / f"documents-{number:05d}.parquet"
        pq.write_table(table.slice(start, rows), path, row_group_size=20)
        files[path.name] = FileInfo.at(str(path))
    (root / "documents.parquet").unlink()
    (root / "manifest.json").write_text(dump_manifest(m.model_copy(update={"files": files})))
    return str(root)


def planted(make_pool: Callable[..., Path], tokens: int = 20_000, name: str = "toy") -> str:
    """Return a pool whose documents have a quality (null for each ninth) and a language."""
    pool = make_pool(tokens, name=name)
    n = read_manifest(str(pool)).documents
    quality = np.random.default_rng(7).permutation(n) / n
    values = {
        "quality": ("float", [None if i % 9 == 4 else float(q) for i, q in enumerate(quality)]),
        "lang": ("text", ["de" if i % 3 else "en" for i in range(n)]),
        "good": ("bool", [bool(i % 2) for i in range(n)]),
    }
    return str(with_columns(pool, values))


TINY_RUN: dict[str, Any] = {
    "model": {"layers": 1, "hidden": 16, "heads": 2, "ffn": 24},
    "objective": {"name": "ar"},
    "train_loader": {"dataset": {"path": "???"}},
    "eval_loader": {"dataset": {"path": "???", "samples": 8}, "noise_samples": 2},
    "optimizer": {"lr": 3e-3},
    "scheduler": {"name": "constant_with_warmup", "t_warmup": "2ba"},
    "max_duration": "1ep",
    "global_train_batch_size": 8,
    "device_train_microbatch_size": 8,
    "eval_interval": "5ba",
    "save_interval": "5ba",
    "device": "cpu",
}


def tiny_run(data: str | Path, validation: str | Path | None = None, **changes: Any) -> dict[str, Any]:
    """Return the settings of a tiny run on `data`, not validated unless that is named; `changes` are whole sections."""
    held_out = TINY_RUN["eval_loader"]["dataset"] | {"path": str(validation)}
    evaluated = (
        {"eval_loader": TINY_RUN["eval_loader"] | {"dataset": held_out}} if validation else {"eval_loader": None}
    )
    return TINY_RUN | {"train_loader": {"dataset": {"path": str(data)}}, "progress_bar": False} | evaluated | changes


def walk_left(cut: Cut) -> list[int]:
    """Return the pool's position of each token that is left: a second implementation, shard after shard."""
    width = cut.per_shard * cut.seq_len
    gone = {i for a, b in zip(cut.removed.starts, cut.removed.stops, strict=True) for i in range(a, b)}
    out: list[int] = []
    stretch: list[int] = []
    for low in range(cut.first * width, cut.tokens, width):
        shard = range(low, min(low + width, cut.tokens))
        left = [i for i in shard if i not in gone]
        if len(left) < len(shard):
            stretch += left
            continue
        out += stretch[: len(stretch) // cut.seq_len * cut.seq_len] + left
        stretch = []
    return out + stretch


def letters(seed: int, n: int) -> np.ndarray:
    """Return documents of 50 tokens over eight letters, ended by EOD (256)."""
    tokens = np.random.default_rng(seed).integers(0, 8, n).astype(np.uint16)
    tokens[49::50] = tokens[-1] = 256
    return tokens


def flip_bit(pool: Path | str, shard: int) -> str:
    """Change one bit of the last token in a shard of a pool, which no look at its form can notice; return its name."""
    path = Path(pool) / mds.shard_name(shard)
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    return path.name
