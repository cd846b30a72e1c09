from pathlib import Path

import numpy as np
import pytest

from epochal.common.errors import RequestError
from epochal.datapipe.config import Source
from epochal.datapipe.sources.flat_files import check_flat_files
from epochal.datapipe.sources.tokens import assumed_dtype, list_tokenized
from epochal.shards.manifest import TokenizerInfo

SMALL = TokenizerInfo(name="t", fingerprint="0" * 32, vocab_size=50_259, eod=50_256, pad=50_258, mask=50_257)
LARGE = SMALL.model_copy(update={"vocab_size": 100_300, "eod": 100_257})


def said(tmp_path: Path, data: bytes, info: TokenizerInfo = SMALL, dtype: str | None = None) -> list[str]:
    (tmp_path / "train.bin").write_bytes(data)
    source = Source(name="s", format="bin", path=str(tmp_path), tokenized={"tokenizer": "gpt2", "dtype": dtype})
    return list(check_flat_files([source], [list_tokenized(0, source)], info))


def ids(info: TokenizerInfo, dtype: str, n: int = 2_000) -> bytes:
    values = np.random.default_rng(0).integers(0, info.eod, n)
    values[99::100] = info.eod
    return values.astype(dtype).tobytes()


def test_the_type_that_is_assumed_is_said():
    assert (assumed_dtype(SMALL), assumed_dtype(LARGE)) == ("uint16", "uint32")


def test_ids_that_fit_are_read_as_the_assumed_type(tmp_path):
    assert "they are read as uint16 (tokenized.dtype)" in said(tmp_path, ids(SMALL, "<u2"))[0]
    assert "they are read as uint32" in said(tmp_path, ids(LARGE, "<u4"), LARGE)[0]
    assert said(tmp_path, ids(SMALL, "<u4"), dtype="uint32") == []


@pytest.mark.parametrize(
    ("data", "info", "dtype", "message"),
    [
        (ids(SMALL, "<u2") + b"x", SMALL, None, "has 4,001 bytes, no multiple of 2"),
        (ids(SMALL, "<u4"), SMALL, None, "has 0 as every second id"),
        (ids(SMALL, "<u4"), SMALL, "uint16", "has 0 as every second id"),
        (ids(LARGE, "<i8"), LARGE, "uint32", "has 0 as every second id"),
        (ids(LARGE, "<u2"), LARGE, None, "the vocabulary 100,300 ids"),
        (ids(LARGE, "<u4"), SMALL, None, "the vocabulary 50,259 ids"),
        (bytes(2 << 20), SMALL, None, r"has no EOD \(50256\) among its first 1,048,576 ids"),
        (np.int32([20240520, 1, 1000]).tobytes() + bytes(1012) + ids(SMALL, "<u2"), SMALL, "uint16", "llm.c's header"),
        (b"\x93NUMPY\x01\x00" + ids(SMALL, "<u2"), SMALL, None, "numpy's header"),
    ],
)
def test_a_file_that_cannot_be_what_it_is_taken_for_is_refused(tmp_path, data, info, dtype, message):
    with pytest.raises(RequestError, match=message) as error:
        said(tmp_path, data, info, dtype)
    assert "tokenized.dtype" in str(error.value)
    assert "\n" not in str(error.value)
