"""Faults that users met in 0.1.0, each with the small input that showed it, through the command line."""

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from epochal.__main__ import main
from epochal.shards.artifact import open_artifact
from epochal.tests.support.builds import stream
from epochal.tests.support.corpora import HELLASWAG, real_documents
from epochal.tests.tokenize import kinds

TEXTS = real_documents(60, 300)
LINES = [json.dumps({"id": f"d{i}", "text": text}).encode() + b"\n" for i, text in enumerate(TEXTS)]
WHOLE = b"".join(LINES)
MARK = b"\xef\xbb\xbf"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> Callable[..., tuple[int, str]]:
    """Return `build(source, *overrides)`: the number of documents in the pool (-1: there is none), what was said."""
    monkeypatch.chdir(tmp_path)

    def build(source: str, *overrides: str) -> tuple[int, str]:
        small = ["name=p", "out=art", "seq_len=64", "validation_tokens=0", "deduplicate.near=null", "tasks=1"]
        status = main(["build", "folder", f"sources.0.path={source}", *small, "workers=1", *overrides])
        said = "".join(capfd.readouterr())
        return (open_artifact("art/pools/p").manifest.documents if status == 0 else -1), said

    return build


def put(path: str, data: bytes) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)
    return str(Path(path).parent)


def test_links_are_followed(built) -> None:
    put("elsewhere/b.jsonl", b"".join(LINES[30:]))
    put("in/a.jsonl", b"".join(LINES[:30]))
    Path("in/b.jsonl").symlink_to("../elsewhere/b.jsonl")
    assert built("in")[0] == 60


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl.zst", zstandard.compress(WHOLE)[: -len(WHOLE) // 20]),
        ("a.jsonl.gz", gzip.compress(WHOLE)[:-200]),
        ("a.jsonl.xz", lzma.compress(WHOLE)[:-200]),
        ("a.jsonl", WHOLE[:-20]),
        ("a.jsonl.gz", gzip.compress(WHOLE)[:400] + b"\xff" * 60 + gzip.compress(WHOLE)[460:]),
    ],
)
def test_a_damaged_file_is_named(built, name: str, data: bytes) -> None:
    put("in/b.jsonl", WHOLE)
    documents, said = built(put(f"in/{name}", data))
    assert documents == -1
    assert name in said


def test_a_long_window_of_zst_is_read(built) -> None:
    settings = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=28, enable_ldm=True, write_content_size=False
    )
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    assert built(put("in/a.jsonl.zst", packer.compress(WHOLE) + packer.flush()))[0] == 60


@pytest.mark.parametrize(
    ("spec", "text", "eod"),
    [
        (kinds.unigram, "<p> Price: <s>{} dollars</s> now <pad></p>", None),
        (kinds.wordlevel, "river [MASK] stone [SEP] garden [PAD] number {}", None),
    ],
)
def test_what_spells_a_special_token_is_text(built, spec, text: str, eod: str | None) -> None:
    Path("t.json").write_text(json.dumps(spec()))
    rows = "".join(json.dumps({"text": text.format(i)}) + "\n" for i in range(20))
    assert built(put("in/a.jsonl", rows.encode()), "tokenizer.name=t.json")[0] > 0
    manifest, tokens = open_artifact("art/pools/p").manifest, stream("art/pools/p")
    special = manifest.tokenizer
    counts = [int(np.count_nonzero(tokens == i)) for i in (special.eod, special.pad, special.mask)]
    assert counts == [manifest.documents, 0, 0]
    assert main(["verify", "art/pools/p"]) == 0


def test_an_expression_that_engines_read_differently_is_left_to_the_reference(built) -> None:
    spec = kinds.byte_level(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++|\s")
    Path("t.json").write_text(json.dumps(spec))
    assert "encoding with the reference" in built(put("in/a.jsonl", WHOLE), "tokenizer.name=t.json")[1]


def test_a_tokenizer_that_encodes_at_random_is_refused(built) -> None:
    spec = kinds.byte_level(None)
    spec["model"]["dropout"] = 0.1
    Path("t.json").write_text(json.dumps(spec))
    documents, said = built(put("in/a.jsonl", WHOLE), "tokenizer.name=t.json")
    assert documents == -1
    assert "dropout" in said


def test_a_byte_order_mark_is_no_text(built) -> None:
    put("in/b.jsonl", MARK + b"".join(LINES[:30]))
    item = put("ev/items.jsonl.zst", zstandard.compress(MARK + json.dumps(HELLASWAG).encode()))
    source = put("in/a.jsonl", MARK + b"".join(LINES[30:]))
    assert built(source, f"decontaminate.files=[{item}/items.jsonl.zst]", "max_reject_fraction=0")[0] == 60


def test_a_name_is_taken_to_the_letter(built) -> None:
    put("dump/a.jsonl", b"".join(LINES[:5]))
    assert built(put("dump #3/a.jsonl", WHOLE))[0] == 60


def test_a_number_is_a_name(built) -> None:
    assert built(put("2024/a.jsonl", WHOLE))[0] == 60


def test_parquet_text_without_a_mark_is_read(built) -> None:
    Path("in").mkdir()
    ids, texts = [b"d%d" % i for i in range(60)], [text.encode() for text in TEXTS]
    pq.write_table(pa.table({"id": pa.array(ids), "text": pa.array(texts, pa.binary())}), "in/a.parquet")
    assert built("in", "sources.0.format=parquet")[0] == 60


def test_a_pool_of_a_lossy_tokenizer_is_imported_whole(built) -> None:
    Path("t.json").write_text(json.dumps(kinds.wordpiece()))
    unknown = ["".join(chr(0x4E00 + (i * 37 + k) % 5000) for k in range(20)) for i in range(20)]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, *unknown])
    documents, _ = built(put("in/a.jsonl", rows.encode()), "tokenizer.name=t.json")
    again, said = built("art/pools/p", "name=q", "sources.0.format=mds", "sources.0.tokenized={}")
    assert documents == 80
    assert open_artifact("art/pools/q").manifest.documents == 80, said
    assert again == 80


def test_what_a_filter_takes_is_in_a_table(built) -> None:
    bad = [json.dumps({"id": f"bad{i}", "text": "same line\n" * 40}).encode() + b"\n" for i in range(5)]
    put("in/a.jsonl", WHOLE + b"".join(bad))
    built("in", "filters=[{name: RegexFilter, regex_exp: same line}]")
    assert sorted(pl.read_parquet("art/pools/p/filtered.parquet")["id"]) == [f"bad{i}" for i in range(5)]
