"""Exports and imports against each format's own writer and reader, in one run: `python -m epochal.benchmarks.formats`.

Writes benchmarks/results/formats.json and prints a table of tokens/s. Export: `epochal export` of a pool, from reading
and checking its shards to the published manifest, against the format's own writer given the same samples in memory.
Import: from the export's files to documents, as a build reads them, against the format's own reader to samples (for a
flat file: numpy, cutting at EOD).
`ratio` is the lowest of ours / theirs. All warm, in one process, the best of some rounds in turns. Megatron-LM's side
is measured where megatron-core can be imported.
"""

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from epochal.datapipe.config import Source, Tokenized, TokenizerChoice
from epochal.datapipe.sources.base import Intake
from epochal.datapipe.sources.registry import list_source
from epochal.datapipe.sources.tokens import TokenizedReader
from epochal.shards import mds
from epochal.shards.artifact import open_artifact
from epochal.shards.export import export
from epochal.shards.manifest import ExportLayout

from .common import machine, random_pool, result_path, write_result

SEQ_LEN, EOD = 2048, 50256
DOCUMENT_TOKENS = 800


def samples_of(pool: str) -> np.ndarray:
    """Return all samples of a pool in memory, (samples, SEQ_LEN) uint16."""
    artifact = open_artifact(pool)
    return np.concatenate([mds.open_shard(s.path, SEQ_LEN, "uint16")[: s.samples] for s in artifact.shards])


# -- theirs: write(folder, samples), read(folder) -> tokens ---------------------------------------------------------


def write_wds(folder: Path, samples: np.ndarray) -> None:
    """Write samples as WebDataset tar files, by the other side's own writer."""
    import webdataset

    with webdataset.ShardWriter(f"{folder}/shard-%06d.tar", maxcount=4096, verbose=0) as writer:
        for i, sample in enumerate(samples):
            writer.write({"__key__": f"{i:012d}", "tokens.npy": sample})


def read_wds(folder: Path) -> int:
    """Read the ids in WebDataset tar files by the other side's own reader."""
    import webdataset

    urls = sorted(str(p) for p in folder.glob("*.tar"))
    return sum(
        len(s["tokens.npy"]) for s in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
    )


def _table(samples: np.ndarray) -> Any:
    import pyarrow as pa

    offsets = np.arange(len(samples) + 1, dtype=np.int32) * SEQ_LEN
    return pa.table({"input_ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(samples.reshape(-1)))})


def write_parquet(folder: Path, samples: np.ndarray) -> None:
    """Write samples as Parquet, by the other side's own writer."""
    import pyarrow.parquet as pq

    pq.write_table(_table(samples), folder / "x.parquet", compression="zstd", row_group_size=1024)


def read_parquet(folder: Path) -> int:
    """Read the ids in Parquet by the other side's own reader."""
    import pyarrow.parquet as pq

    files = sorted(folder.glob("data/*.parquet")) or sorted(folder.glob("*.parquet"))
    return sum(len(pq.read_table(f)["input_ids"].combine_chunks().values) for f in files)


def write_hf(folder: Path, samples: np.ndarray) -> None:
    """Write samples as a data set's Arrow files, by the other side's own writer."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    Dataset(_table(samples)).save_to_disk(str(folder))


def read_hf(folder: Path) -> int:
    """Read the ids in a data set's Arrow files by the other side's own reader."""
    from datasets import load_from_disk

    data = load_from_disk(str(folder)).with_format("numpy")
    return sum(len(row) for batch in data.iter(1000) for row in batch["input_ids"])


def write_bin(folder: Path, samples: np.ndarray) -> None:
    """Write samples as a flat file, by the other side's own writer."""
    out = np.memmap(folder / "train.bin", np.uint16, "w+", shape=(samples.size,))
    for start in range(0, len(samples), 1024):  # as nanoGPT's prepare.py does
        block = samples[start : start + 1024].reshape(-1)
        out[start * SEQ_LEN : start * SEQ_LEN + block.size] = block
    out.flush()


def read_bin(folder: Path) -> int:
    """Read the ids in a flat file by the other side's own reader."""
    stream = np.memmap(folder / "train.bin", np.uint16, "r")  # the format has no documents: one cuts at EOD oneself
    return sum(len(d) for d in np.split(stream, np.flatnonzero(stream == EOD) + 1))


def write_megatron(folder: Path, samples: np.ndarray) -> None:
    """Write samples as Megatron-LM's .bin and .idx, by the other side's own writer."""
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(folder / "text_document.bin"), dtype=np.uint16)
    stream = samples.reshape(-1)
    for document in np.split(stream, np.flatnonzero(stream == EOD) + 1):
        builder.add_document(torch.from_numpy(document.astype(np.int32)), [len(document)])
    builder.finalize(str(folder / "text_document.idx"))


def read_megatron(folder: Path) -> int:
    """Read the ids in Megatron-LM's .bin and .idx by the other side's own reader."""
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    data = IndexedDataset(str(folder / "text_document"))
    return sum(len(data[i]) for i in range(len(data)))


THEIRS: dict[ExportLayout, tuple[str, Callable[[Path, np.ndarray], None], Callable[[Path], int]]] = {
    "wds": ("webdataset", write_wds, read_wds),
    "parquet": ("pyarrow", write_parquet, read_parquet),
    "hf": ("datasets", write_hf, read_hf),
    "bin": ("numpy", write_bin, read_bin),
    "megatron": ("megatron", write_megatron, read_megatron),
}


# -- ours -----------------------------------------------------------------------------------------------------------


def documents(layout: ExportLayout, folder: Path) -> Iterator[np.ndarray]:
    """Yield the documents of an export as a build's task reads them, ids only."""
    path = str(folder / "text_document.bin") if layout == "megatron" else str(folder)
    source = Source(name="s", format=layout, path=path, tokenized=Tokenized(tokenizer="gpt2"))
    (listing,) = list_source(0, source)
    reader = TokenizedReader(listing, source, Intake(), TokenizerChoice())
    for number in range(len(listing.files)):
        yield from reader._documents_of(number)


def measure(pool: str, folder: Path, layout: ExportLayout, rounds: int) -> dict[str, dict[str, float | None]]:
    """Return tokens/s of export and import, ours and theirs; theirs null where their package is missing."""
    package, write, read = THEIRS[layout]
    there = importlib.util.find_spec(package) is not None
    samples = samples_of(pool)
    n = samples.size
    next(documents(layout, _fresh(folder / "warm", lambda f: export(pool, layout, str(f)))))  # loads the tokenizer
    found: dict[str, list[float]] = {"export": [], "write": [], "import": [], "read": []}
    for _ in range(rounds):
        ours, theirs = folder / "ours", folder / "theirs"
        found["export"].append(_seconds(lambda: _fresh(ours, lambda f: export(pool, layout, str(f)))))  # noqa: B023
        if there:
            theirs.mkdir()
            found["write"].append(_seconds(lambda: write(theirs, samples)))  # noqa: B023
            shutil.rmtree(theirs)
            found["read"].append(_seconds(lambda: read(ours)))  # noqa: B023
        found["import"].append(_seconds(lambda: sum(map(len, documents(layout, ours)))))  # noqa: B023
    shutil.rmtree(folder / "ours")
    shutil.rmtree(folder / "warm")
    rates = {name: n / min(times) if times else None for name, times in found.items()}
    return {
        "export": _row(rates["export"], rates["write"]),
        "import": _row(rates["import"], rates["read"]),
    }


def _row(ours: float | None, theirs: float | None) -> dict[str, float | None]:
    return {"ours": ours, "theirs": theirs, "ratio": ours / theirs if ours and theirs else None}


def _fresh(folder: Path, make: Callable[[Path], Any]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    make(folder)
    return folder


def _seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> int:
    """Measure, print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=16_000, help="samples of the pool (4 kB each)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="one format")
    parser.add_argument("--out", type=Path, default=result_path("formats"))
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    folder = Path(tempfile.mkdtemp(prefix="epochal-formats-"))
    try:
        (folder / "pool").mkdir()
        pool = random_pool(folder / "pool", args.samples, 4000, SEQ_LEN, document_tokens=DOCUMENT_TOKENS)
        rows = {name: measure(pool, folder, name, args.rounds) for name in THEIRS if args.only in ("", name)}
    finally:
        shutil.rmtree(folder)
    ratios = [row["ratio"] for formats in rows.values() for row in formats.values() if row["ratio"] is not None]
    result = {"machine": machine(), "samples": args.samples, "seq_len": SEQ_LEN, "tokens_per_second": rows}
    result |= {"ratio": min(ratios)}
    write_result(args.out, result)
    show(result)
    return 0


def show(result: dict[str, Any]) -> None:
    """Print the table as Markdown."""
    print(f"{result['machine']}; {result['samples']} samples of {SEQ_LEN} tokens, documents of {DOCUMENT_TOKENS}\n")
    print("| million tokens/s | export | its own writer | ratio | import | its own reader | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, row in result["tokens_per_second"].items():
        cells = [row[way][who] for way in ("export", "import") for who in ("ours", "theirs", "ratio")]
        shown = ["-" if v is None else f"{v:.2f}" if i % 3 == 2 else f"{v / 1e6:,.0f}" for i, v in enumerate(cells)]
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    sys.exit(main())
