"""Parts of a build whose files are cut: named in a line, also while they are read."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from epochal.common.errors import WorkError
from epochal.datapipe.stages import pack
from epochal.datapipe.stages import parts as module
from epochal.datapipe.stages.division import Corpus, open_parts
from epochal.datapipe.stages.fates import Fates, write_fates
from epochal.datapipe.stages.pack import Cuts, WriteCuts, cut_groups
from epochal.datapipe.stages.parts import DOCUMENT, Batch, Part, PartWriter, read_spans
from epochal.datapipe.text.signatures import buckets_of

RUN, BUCKETS, HASHES = 3000, 3, 2
N = 2 * RUN


def identifier(number: int) -> str:
    return f"document {number}" if number % 7 else ""


def write_part(folder: Path) -> np.ndarray:
    """Write a part of two runs; return its signatures, (documents, buckets * hashes), in the order of its rows."""
    writer = PartWriter(str(folder), "uint16", 4, BUCKETS, HASHES, 1)  # each batch is a run
    written = []
    for first in (0, RUN):
        numbers = np.arange(first, first + RUN)
        records = np.zeros(RUN, DOCUMENT)
        records["place_hi"] = np.arange(RUN, dtype=np.uint64) << np.uint64(52)
        records["raw"], records["tokens"] = numbers, numbers % 3 + 1
        ids = [identifier(i).encode() for i in numbers.tolist()]
        records["id_bytes"] = list(map(len, ids))
        signatures = np.arange(RUN * BUCKETS * HASHES, dtype=np.uint32).reshape(RUN, -1) + np.uint32(first)
        came = np.random.default_rng(first).permutation(RUN)
        tokens = np.concatenate([np.full(i % 3 + 1, i % 1000, np.uint16) for i in numbers[came].tolist()])
        mine = signatures[came]
        some = Batch(records[came], b"".join([ids[i] for i in came]), tokens, mine, buckets_of(mine, BUCKETS))
        writer.add(some)
        written.append(signatures)
    writer.close({})
    return np.concatenate(written)


@pytest.mark.parametrize("at_once", [1 << 20, 700])
def test_what_is_read_is_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    signatures = write_part(tmp_path / "part-00000")
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    part = Part(str(tmp_path / "part-00000"))
    assert [run.documents for run in part.runs] == [RUN, RUN]
    rows = np.random.default_rng(0).integers(0, N, 500)
    assert (part.signatures(part.whole("documents")[0:N].take(rows)) == signatures[rows]).all()
    tokens, of = part.whole("tokens")[0 : 2 * N], part.whole("documents")[0:N]
    assert tokens.tolist() == [i % 1000 for i in range(N) for _ in range(i % 3 + 1)]
    assert of["token_start"].tolist() == [0, *np.cumsum(of["tokens"]).tolist()[:-1]]
    corpus = Corpus([part, part], ["s"])
    start, stop = RUN - 5, N + RUN + 7
    numbers = []
    for some in corpus.some(start, stop):
        mine = np.arange(some.first, some.first + len(some.documents))
        numbers += mine.tolist()
        assert some.documents["raw"].tolist() == (mine % N).tolist()
        ids = [identifier(i % N) for i in mine.tolist()]
        assert part.texts(some.documents).decode() == "".join(ids)
        found = np.stack([some.bucket(b) for b in range(BUCKETS)], axis=1)
        assert (found == buckets_of(signatures[mine % N], BUCKETS)).all()
    assert numbers == list(range(start, stop))


READS: dict[str, Callable[[Part], object]] = {
    "documents": lambda part: list(part.stretches(5, N)),
    "ids": lambda part: part.texts(part.whole("documents")[N - 2 : N]),
    "signatures": lambda part: part.signatures(part.whole("documents")[0:N]),
    "buckets": lambda part: list(part.bucket(BUCKETS - 1, part.runs[1], 0, RUN)),
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
    write_part(tmp_path / "parts" / "part-00000")
    part = Part(str(tmp_path / "parts" / "part-00000"))
    for stretch in range(2):
        write_fates(str(tmp_path), stretch, np.arange(RUN, dtype=np.uint8) + np.uint8(stretch))
    list(WriteCuts(str(tmp_path), cut_groups([part])).run())
    fates, cuts = Fates(str(tmp_path), RUN), Cuts(str(tmp_path), [part])
    whole = np.concatenate([np.arange(RUN, dtype=np.uint8) + np.uint8(stretch) for stretch in range(2)])
    spans = [(0, N), (RUN - 1, RUN), (RUN, RUN + 1), (7, 7), (RUN - 9, RUN + 9), (N - 1, N)]
    assert [found.tolist() for found in fates.read(spans)] == [whole[a:b].tolist() for a, b in spans]
    assert cuts.read(3) == part.cuts()[:, 3:5].tolist()
    for name, read in (("fates/00001.bin", lambda: fates.read([(0, N)])), ("cuts/00000.bin", lambda: cuts.read(3))):
        os.truncate(tmp_path / name, 10)
        with pytest.raises(WorkError, match=f"{name} is damaged: it was cut"):
            read()


@pytest.mark.parametrize("tasks", [1, 2])
def test_cuts_in_several_files_are_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: int) -> None:
    for number in range(3):
        write_part(tmp_path / "parts" / f"part-{number:05d}")
    parts = open_parts(str(tmp_path))
    monkeypatch.setattr(pack, "CUTS_OF_A_FILE", 15)
    assert cut_groups(parts) == [(0, 1), (1, 3)]
    for rank in range(tasks):
        list(WriteCuts(str(tmp_path), cut_groups(parts)).run(rank=rank, world_size=tasks))
    cuts = Cuts(str(tmp_path), parts)
    for partition in range(4):
        assert cuts.read(partition) == [
            row for part in parts for row in part.cuts()[:, partition : partition + 2].tolist()
        ]
