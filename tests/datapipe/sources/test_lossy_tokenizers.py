"""Token ids of tokenizers that lose text: their documents stay the documents that they are."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epochal.datapipe.build import build
from epochal.shards.artifact import read_manifest
from epochal.shards.export import export
from epochal.shards.verify import verify
from epochal.tests.support.builds import settings, stream

WORDS = [
    "[PAD]",
    "[UNK]",
    "[SEP]",
    "[MASK]",
    "[BOS]",
    *["river", "stone", "garden", "of", "a", "letter", "in", "the", "market", "winter"],
]
TEXTS = [
    *(f"river {word} of a garden in the winter" for word in WORDS[5:]),
    *("RIVER stone", "river stone", "River Stone"),  # the same ids
    *("bridge " * n + "river" for n in range(1, 6)),  # words that it does not know
    *("bridge", "island", "forest copper", "paper silver"),
    *(f"river {' '.join(chr(0x4E00 + 7 * i + k) for k in range(12))} in the market of a letter" for i in range(6)),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    """A tokenizer of words in lower case."""
    added = [
        {"id": i, "content": WORDS[i], "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for i in range(5)
    ]
    spec = {
        "added_tokens": added,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {word: i for i, word in enumerate(WORDS)}},
    }
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(spec))
    return str(path)


def made(folder: Path, tokenizer: str, source: dict, **more) -> tuple[str, list[str]]:
    """Build a pool; return it and what was said."""
    said: list[str] = []
    config = settings(folder, source, tokenizer={"name": tokenizer}, **more)
    return build(config, quiet=True, say=said.append).pool, said


@pytest.fixture(scope="module")
def pool(tokenizer, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("pool")
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    root, said = made(folder, tokenizer, {"path": str(folder / "a.jsonl")}, deduplicate={"near": None})
    assert read_manifest(root).documents == len(TEXTS)
    assert "its model is WordLevel" in said[0]
    assert "15 documents hold text that it does not know (93 unknown tokens in their place)" in said[1]
    assert {k: v for k, v in read_manifest(root).statistics.items() if "unknown" in k} == {
        "unknown": 93,
        "with_unknown": 15,
    }
    return root


@pytest.mark.parametrize("layout", ["mds", "parquet", "megatron", "bin"])
def test_a_pool_that_is_imported_keeps_its_documents(pool, tokenizer, tmp_path, layout):
    path = pool if layout == "mds" else export(pool, layout, str(tmp_path / "export"))[0]
    path = f"{path}/text_document.bin" if layout == "megatron" else path
    source = {"format": layout, "path": path, "tokenized": {"tokenizer": tokenizer}}
    near = {} if layout == "mds" else {"near": None}
    again, said = made(tmp_path, tokenizer, source, tasks=2, deduplicate=near)
    assert [line for line in said if "documents that came as token ids are compared by their ids" in line]
    assert sorted(documents(again)) == sorted(documents(pool))
    assert verify(again) == []


def documents(root: str) -> list[tuple[int, ...]]:
    rows = pl.read_parquet(f"{root}/documents.parquet").select("start", "tokens").rows()
    return [tuple(stream(root)[start : start + n].tolist()) for start, n in rows]


def test_a_pool_imported_twice_is_that_pool(pool, tokenizer, tmp_path):
    twice = [
        {"name": name, "format": "mds", "path": pool, "tokenized": {"tokenizer": tokenizer}} for name in ("a", "b")
    ]
    roots = [
        made(tmp_path, tokenizer, {}, name=f"t{n}", tasks=n, sources=twice, deduplicate={"near": None})[0]
        for n in (1, 2)
    ]
    assert sorted(documents(roots[0])) == sorted(documents(pool))
    assert len({read_manifest(root).fingerprint for root in roots}) == 1


def test_equal_ids_of_others_are_duplicates_and_different_ones_are_none(tokenizer, tmp_path):
    """[BOS] has no text, and [UNK] stands for any."""
    rows = [[4, 5, 6], [5, 6], [1], [1, 1], [4, 5, 6], [1], [5, 1, 6]]
    pq.write_table(pa.table({"input_ids": [np.array(row, np.int32) for row in rows]}), tmp_path / "a.parquet")
    source = {"format": "parquet", "path": str(tmp_path / "a.parquet")}
    source["tokenized"] = {"tokenizer": tokenizer, "documents": "rows"}
    root, _ = made(tmp_path, tokenizer, source)
    assert sorted(documents(root)) == sorted((*row, 2) for row in [[4, 5, 6], [5, 6], [1], [1, 1], [5, 1, 6]])
