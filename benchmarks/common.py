"""What the benchmarks share: the machine's name, the files of results, pools of random tokens."""

import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal.common.hashing import xxh64
from epochal.common.publish import FileInfo
from epochal.shards import mds
from epochal.shards.manifest import Content, Manifest, TokenizerInfo, dump_manifest, fingerprint

GPT2_IDS = TokenizerInfo(name="gpt2", fingerprint="0" * 32, vocab_size=50269, eod=50256, pad=50258, mask=50257)
"""Ids as GPT-2's tokenizer has them, for pools that were never text."""


def machine() -> str:
    """Return the processor's name and the number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()}-core {names[0] if names else platform.processor()}"


def result_path(name: str) -> Path:
    """Return where a benchmark's results go unless it is told otherwise."""
    return Path(__file__).parent / "results" / f"{name}.json"


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write the results of a benchmark as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write `manifest` with the fingerprint that its content demands into `folder`; return it."""
    manifest = manifest.model_copy(update={"fingerprint": fingerprint(manifest)})
    (folder / "manifest.json").write_text(dump_manifest(manifest))
    return manifest


def write_pool(
    folder: Path,
    shards: Iterable[NDArray[np.unsignedinteger]],
    ids: TokenizerInfo,
    name: str = "benchmark",
    tokens: int | None = None,
    documents: int = 1,
    files: Mapping[str, FileInfo] | None = None,
) -> Manifest:
    """Write a pool into the folder at `folder`, which exists; return its manifest.

    Args:
        shards: the samples of each shard, (samples, seq_len) of uint16 or uint32.
        tokens: how many there are without the PAD that fills up the last sample; all, if not given.
        files: of the pool that lie in the folder already.
    """
    entries, content, listed = [], [], dict(files or {})
    for number, block in enumerate(shards):
        data, shard = mds.encode_shard(block), mds.shard_name(number)
        info = FileInfo(bytes=len(data), xxh64=xxh64(data))
        (folder / shard).write_bytes(data)
        seq_len, dtype = block.shape[1], str(block.dtype)
        entries.append(mds.index_entry(shard, len(block), info.bytes, info.xxh64, seq_len, dtype))
        content.append(Content(xxh64=info.xxh64, samples=len(block)))
        listed[shard] = info
    index = mds.dump_index(entries).encode()
    (folder / "index.json").write_bytes(index)
    listed["index.json"] = FileInfo(bytes=len(index), xxh64=xxh64(index))
    samples = sum(part.samples for part in content)
    manifest = Manifest(
        kind="pool",
        name=name,
        fingerprint="",
        documents=documents,
        tokens=samples * seq_len if tokens is None else tokens,
        samples=samples,
        shards=len(entries),
        seq_len=seq_len,
        dtype=dtype,  # type: ignore[arg-type]
        seed=0,
        tokenizer=ids,
        content=content,
        files=listed,
    )
    return write_manifest(folder, manifest)


def random_pool(
    folder: Path, samples: int, per_shard: int, seq_len: int, ids: TokenizerInfo = GPT2_IDS, document_tokens: int = 0
) -> str:
    """Write a pool of random uint16 tokens below EOD into the folder at `folder`, which exists; return its path.

    Args:
        document_tokens: of a document on average; 0: EOD does not occur.
    """
    write_pool(folder, _random_shards(samples, per_shard, seq_len, ids.eod, document_tokens), ids)
    return str(folder)


def _random_shards(
    samples: int, per_shard: int, seq_len: int, eod: int, document_tokens: int
) -> Iterator[NDArray[np.uint16]]:
    rng = np.random.default_rng(0)
    for start in range(0, samples, per_shard):
        shape = (min(per_shard, samples - start), seq_len)
        block = rng.integers(0, eod, shape, dtype=np.uint16)
        if document_tokens:
            block[rng.random(shape) < 1 / document_tokens] = eod
        yield block
