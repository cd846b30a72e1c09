"""Parts of a build whose files are cut: named in a line, also while they are read."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from epochal.common.errors import WorkError
from epochal.datapipe.stages.cluster import Corpus
from epochal.datapipe.stages.match import read_edges
from epochal.datapipe.stages.pack import Cuts, Fates, write_cuts, write_fates
from epochal.datapipe.stages.parts import DOCUMENT, Batch, Part, PartWriter, read_spans

RUN, BUCKETS, HASHES = 3000, 3, 2
N = 2 * RUN


def write_part(folder: Path) -> np.ndarray:
    """Write a part of two runs; return its signatures, (documents, buckets * hashes), in the order of its rows."""
    writer = PartWriter(str(folder), "uint16", 4, BUCKETS, HASHES, 1)  # each batch is a run
    written = []
    for first in (0, RUN):
        numbers = np.arange(first, first + RUN)
        records = np.zeros(RUN, DOCUMENT)
        records["place_hi"] = np.arange(RUN, dtype=np.uint64) << np.uint64(52)
        records["raw"], records["tokens"] = numbers, 2
        ids = [f"document {i}".encode() for i in numbers.tolist()]
        records["id_bytes"] = [len(identifier) for identifier in ids]
        signatures = np.arange(RUN * BUCKETS * HASHES, dtype=np.uint32).reshape(RUN, -1) + np.uint32(first)
        tokens = [np.array([i % 1000, 0], np.uint16) for i in numbers.tolist()]
        writer.add(Batch(records, ids, tokens, signatures))
        written.append(signatures)
    writer.close({})
    return np.concatenate(written)


def test_what_is_taken_is_what_was_written(tmp_path: Path) -> None:
    signatures = write_part(tmp_path / "part-00000")
    part = Part(str(tmp_path / "part-00000"))
    assert [run.documents for run in part.runs] == [RUN, RUN]
    numbers = np.random.default_rng(0).integers(0, N, 500)
    corpus = Corpus([part], ["s"])
    records = corpus.records(numbers)
    assert records["raw"].tolist() == numbers.tolist()
    assert corpus.ids(numbers, records) == [f"document {i}" for i in numbers.tolist()]
    assert (corpus.signatures(numbers) == signatures[numbers]).all()
    for bucket in range(BUCKETS):
        found = np.concatenate([hashes for _, _, hashes in part.bucket(bucket)])
        assert (found == signatures[:, bucket * HASHES : (bucket + 1) * HASHES]).all()


READS: dict[str, Callable[[Part], object]] = {
    "documents": lambda part: part.documents.take(np.array([5, N - 1])),
    "ids": lambda part: part.ids(part.documents[N - 2 : N]),
    "signatures": lambda part: part.signatures(np.array([N - 1])),
    "tokens": lambda part: read_spans("tokens", [(part, 0, 2 * N)]),
    "cuts": lambda part: part.cuts(),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_file_that_is_cut_is_named(tmp_path: Path, name: str, meanwhile: bool) -> None:
    write_part(tmp_path / "part-00000")
    part = Part(str(tmp_path / "part-00000"))
    path = part.path(name)
    if meanwhile:
        READS[name](part)
    os.truncate(path, os.path.getsize(path) // 2)
    with pytest.raises(WorkError) as refused:
        READS[name](part)
    message = str(refused.value)
    assert message.startswith(f"{path} is damaged: it ")
    assert message.endswith("; remove the work folder it lies in and build again")


def test_fates_and_cuts_that_are_cut_are_named(tmp_path: Path) -> None:
    write_part(tmp_path / "part-00000")
    part = Part(str(tmp_path / "part-00000"))
    write_fates(str(tmp_path), np.ones(N, np.uint8))
    write_cuts(str(tmp_path), [part])
    fates, cuts = Fates(str(tmp_path)), Cuts(str(tmp_path))
    assert fates.read([(0, N)])[0].tolist() == [1] * N
    assert cuts.read(3, 2) == part.cuts()[:, 3:5].tolist()
    for name, read in (("fates.bin", lambda: fates.read([(0, N)])), ("cuts.bin", lambda: cuts.read(3, 2))):
        os.truncate(tmp_path / name, 10)
        with pytest.raises(WorkError, match=f"{name} is damaged: it was cut"):
            read()


def test_links_that_are_cut_are_named(tmp_path: Path) -> None:
    (tmp_path / "edges").mkdir()
    links = np.arange(6, dtype=np.int64)
    (tmp_path / "edges" / "00000.bin").write_bytes(links.tobytes())
    assert np.concatenate(list(read_edges(str(tmp_path)))).tolist() == links.reshape(-1, 2).tolist()
    os.truncate(tmp_path / "edges" / "00000.bin", 40)
    with pytest.raises(WorkError, match=r"edges/00000.bin is damaged: it was cut; remove the work folder"):
        list(read_edges(str(tmp_path)))
