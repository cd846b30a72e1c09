"""The index of a pool's documents: damage in it changes no answer."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from epochal.common.errors import RequestError
from epochal.service.document_index import HASHES_NAME, NAMES, Document, DocumentIndex, read_spans

POOL = "f" * 32
BUILT_AGAIN = f"the index of the documents of pool {POOL} is damaged: it is built again"


def answers(index: DocumentIndex, keys: list[bytes]) -> list[list[Document]]:
    return [index.by_key(key) for key in keys] + [index.by_id(f"doc{i}") for i in range(len(keys))]


@pytest.fixture
def pool(make_pool) -> Path:
    return make_pool(3000)


def keys_of(pool: Path) -> list[bytes]:
    return [key.as_py() for chunk in read_spans(str(pool)) for key in chunk["key"]]


@pytest.mark.slow
@pytest.mark.parametrize("opened", [False, True])
def test_a_flipped_bit_anywhere_is_noticed(pool: Path, tmp_path: Path, capfd, opened: bool) -> None:
    folder = tmp_path / "index"
    keys = [*keys_of(pool), b"x" * 16]
    index = DocumentIndex(str(pool), POOL, str(folder))
    right = answers(index, keys)
    random = np.random.default_rng(3)
    for name in (*(f"{name}.npy" for name in NAMES), HASHES_NAME):
        path = folder / POOL / name
        for at in random.integers(0, path.stat().st_size, 4).tolist():
            whole = path.read_bytes()
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << random.integers(0, 8))]) + whole[at + 1 :])
            found = index if opened else DocumentIndex(str(pool), POOL, str(folder))
            assert answers(found, keys) == right, (name, at)
            assert path.read_bytes() == whole
            assert BUILT_AGAIN in capfd.readouterr().err


@pytest.mark.parametrize("name", [f"{name}.npy" for name in NAMES])
def test_a_file_that_is_cut_or_gone_is_built_again(pool: Path, tmp_path: Path, capfd, name: str) -> None:
    keys = keys_of(pool)
    index = DocumentIndex(str(pool), POOL, str(tmp_path))
    right = answers(index, keys)
    path = tmp_path / POOL / name
    with path.open("r+b") as f:
        f.truncate(path.stat().st_size // 2)
    assert answers(index, keys) == right
    path.unlink()
    assert answers(index, keys) == right
    assert capfd.readouterr().err.count(BUILT_AGAIN) == 2
    shutil.rmtree(tmp_path / POOL)
    assert answers(index, keys) == right


def test_an_index_of_an_earlier_version_is_built_again(pool: Path, tmp_path: Path, capfd) -> None:
    DocumentIndex(str(pool), POOL, str(tmp_path))
    (tmp_path / POOL / HASHES_NAME).unlink()
    DocumentIndex(str(pool), POOL, str(tmp_path))
    assert "has no checksums: it is built again" in capfd.readouterr().err
    DocumentIndex(str(pool), POOL, str(tmp_path))
    assert capfd.readouterr().err == ""


def test_a_table_that_is_not_the_one_that_was_indexed_is_refused(make_pool, tmp_path: Path) -> None:
    pool, other = make_pool(3000), make_pool(3003, name="other")
    keys = keys_of(pool)
    index = DocumentIndex(str(pool), POOL, str(tmp_path))
    shutil.copy(other / "documents.parquet", pool / "documents.parquet")
    with pytest.raises(RequestError, match=r"documents\.parquet is damaged: restore it"):
        [index.by_key(key) for key in keys]
