"""Sources that hold token ids already: MDS, WebDataset, Megatron-LM, flat files, Parquet, Arrow.

A document's ids are taken as they are. Its text is decoded from them: it gives the document's key, and so its place in
the pool, and is what filters, decontamination and deduplication look at. So an export of a pool becomes the same pool
again. Where the tokenizer does not make the same ids of the text, they give the key (see stages/ingest.py).

Rows are not documents: a sample may begin in the middle of one. The ids of all files, in order, are one stream, cut at
EOD. Different tasks read the files, so one rule decides which file a document belongs to: the one that holds the EOD
before it (the first file has the very first document too). Its reader goes on into later files until the document ends.
"""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from datatrove.data import Document
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import RequestError, WorkError, one_line
from ...common.json_text import strict_json
from ...common.publish import MANIFEST_NAME, FileInfo, fetched
from ...shards import mds
from ...shards.artifact import open_artifact
from ...shards.formats import megatron
from ...shards.formats.registry import FORMATS, in_order
from ...shards.formats.rows import Block, Part, Tokens
from ...shards.loader.sample_reader import read_shard
from ...shards.manifest import ExportManifest, TokenizerInfo
from ...tokenize.tokenizer import Decoder, decoder, load_tokenizer
from ..config import Source, Tokenized, TokenizerChoice
from . import foreign_mds
from .base import Intake, Reader
from .listing import InputFile, Listing, list_files
from .tokenizers import manifest_beside

_GIVEN, DISTINCT = "_tokenized", "_distinct"
_IDS_AT_ONCE = 1 << 18

PART_BYTES = 64 << 20
"""Bytes of a flat or Megatron-LM file that one task reads, about; a multiple of every id's size."""
ENDINGS = {name: (module.ENDING,) for name, module in FORMATS.items()} | {"wds": (".tar", ".tar.gz", ".tgz")}
"""Of the files that ids are read from, by format."""


def given_ids(batch: Sequence[Document]) -> list[NDArray[np.uint32] | None]:
    """Return the ids that each document came with; None when it came as text, or a filter has changed its text."""
    return [
        None if (given := document.metadata.get(_GIVEN)) is None or given[0] != document.text else given[1]
        for document in batch
    ]


# -- which files ----------------------------------------------------------------------------------------------------


def list_tokenized(number: int, source: Source) -> Listing:
    """Return the files of a tokenized source, in the order of their token stream.

    Raises:
        RequestError: for a wrong request.
    """
    if source.format == "mds":
        return _list_mds(number, source)
    listing = list_files(number, source)
    endings = ENDINGS[source.format]
    named = {file.name: file for file in listing.files if file.name.endswith(endings)}
    if not named:
        raise RequestError(f"source '{source.name}': no file at {source.path} ends in {' or '.join(endings)}")
    if source.format == "hf":
        named = _without_caches(named, listing, source)
    if source.format == "megatron":
        indices = {file.name for file in listing.files}
        lone = next((n for n in named if f"{n.removesuffix('.bin')}.idx" not in indices), None)
        if lone is not None and not storage.exists(f"{storage.join(listing.root, lone).removesuffix('.bin')}.idx"):
            raise RequestError(f"source '{source.name}': {lone} has no .idx beside it")
    files = [named[name] for name in in_order(named)]
    _check_sizes(files, source)
    if source.format in ("bin", "megatron"):
        files = [part for file in files for part in _parts(listing.root, file, source)]
    return replace(listing, files=files)


def _check_sizes(files: list[InputFile], source: Source) -> None:
    """Raise WorkError when a file has another size than the manifest of its export says: one of bare ids does not show
    where it ends."""
    manifest = manifest_beside(source)
    sizes = {} if manifest is None else {f"/{name}": info.bytes for name, info in manifest.files.items()}
    for file in files:
        size = next((size for name, size in sizes.items() if name.endswith(f"/{file.name}")), file.size)
        if size != file.size:
            raise WorkError(
                f"source '{source.name}': {file.name} has {file.size:,} bytes, not {size:,}, as its manifest says: "
                "fetch it again"
            )


def _without_caches(named: dict[str, InputFile], listing: Listing, source: Source) -> dict[str, InputFile]:
    """Return the files of data sets written by `save_to_disk`: those that the state.json beside them lists. The library
    leaves what it computed from them in the same folder, in files of the same ending.

    Raises:
        RequestError: when a file is missing.
    """
    for state in (file.name for file in listing.files if os.path.basename(file.name) == "state.json"):
        folder = state.removesuffix("state.json")
        listed = {folder + name for name in _saved_files(storage.join(listing.root, state), state, source)}
        if missing := sorted(listed - named.keys()):
            raise RequestError(f"source '{source.name}': {missing[0]}, which {state} lists, is missing: restore it")
        named = {n: f for n, f in named.items() if n in listed or os.path.dirname(n) != folder.rstrip("/")}
    return named


def _saved_files(path: str, name: str, source: Source) -> list[str]:
    """Return the files that a state.json lists. Raises RequestError when it is none, or when they hold more than the
    data set: versions of `datasets` before 2.0 saved a selection of rows beside all rows."""
    try:
        state = strict_json(storage.read_bytes(path))
        files = [entry["filename"] for entry in state["_data_files"]]
        selected = state.get("_indices_data_files") or state.get("_indices_files")
    except (ValueError, KeyError, TypeError):
        files, selected = [], None
    if not files or not all(isinstance(file, str) for file in files):
        raise RequestError(f"source '{source.name}': {name} lists no files of a data set: save it again")
    if selected:
        raise RequestError(
            f"source '{source.name}': {name} says that only some rows belong to the data set: save it again with "
            "`flatten_indices().save_to_disk`"
        )
    return files


def _parts(root: str, file: InputFile, source: Source) -> Iterator[InputFile]:
    """Yield the parts that a large file is divided into, so that it is shared out among tasks."""
    if source.format == "bin":
        starts = range(0, file.size, PART_BYTES)
        sizes = [min(PART_BYTES, file.size - start) for start in starts]
    else:
        documents = max(1, _megatron_documents(megatron.index_path(storage.join(root, file.path)), source))
        step = max(1, documents * PART_BYTES // max(file.size, 1))
        starts = range(0, documents, step)
        sizes = [file.size * min(step, documents - start) // documents for start in starts]
    for start, size in zip(starts, sizes, strict=True):
        name = file.name if len(sizes) == 1 else f"{file.name}@{start}"
        yield InputFile(file.path, name, size, start, file.stamp, file.size)


def _megatron_documents(path: str, source: Source) -> int:
    """Return how many documents an .idx file says. Raises WorkError when it is none."""
    try:
        with storage.open_read(path) as index:
            return megatron.read_index(index).documents
    except (ValueError, OSError) as error:
        name = path.rpartition("/")[2]
        raise WorkError(f"source '{source.name}': {name} cannot be read: {one_line(error)}") from None


def _list_mds(number: int, source: Source) -> Listing:
    root = storage.absolute(str(source.path))
    if storage.exists(storage.join(root, MANIFEST_NAME)):
        shards = open_artifact(root).shards
        return Listing(number, root, [InputFile(s.path, s.basename, s.bytes) for s in shards])
    foreign = foreign_mds.read_index(root, source.name, *_ids_column(source))
    return Listing(number, root, [InputFile(s.name, s.name, s.bytes) for s in foreign])


def assumed_dtype(info: TokenizerInfo) -> str:
    """Return the type of the ids of a flat file where nothing says it: the one that exports have."""
    return "uint16" if info.vocab_size <= 1 << 16 else "uint32"


# -- reading --------------------------------------------------------------------------------------------------------


class TokenizedReader(Reader):
    """Reads token ids, a document at a time; `choice` is the build's tokenizer, which made them."""

    name = "token ids"

    def __init__(self, listing: Listing, source: Source, intake: Intake, choice: TokenizerChoice) -> None:
        super().__init__(listing, source, intake)
        self._choice = choice

    @property
    def _settings(self) -> Tokenized:
        assert self._source.tokenized is not None, "only tokenized sources are read by this"
        return self._source.tokenized

    @cached_property
    def _encoding(self) -> "_Encoding":
        info, decode = _loaded(self._choice)
        manifest = manifest_beside(self._source)
        dtype = manifest.dtype if isinstance(manifest, ExportManifest) else None
        files = {} if manifest is None else {name.rpartition("/")[2]: info for name, info in manifest.files.items()}
        return _Encoding(info, decode, dtype, manifest is not None, files)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_encoding", "_numbers")}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Where in the listing each file is, by name."""
        return {file.name: i for i, file in enumerate(self._listing.files)}

    def _rows(self, file: InputFile) -> Generator[tuple[int, Tokens], None, None]:
        """Yield (number of the document from 0, its ids) for the documents that belong to a file."""
        yield from enumerate(self._documents_of(self._numbers[file.name]))
        self.intake.bytes_read += file.size

    def _document(self, ids: Tokens, file: InputFile) -> Document | str:
        """Return the document of some ids, or the reason why there is none."""
        info = self._encoding.info
        if int(ids.min()) < 0 or int(ids.max()) >= info.vocab_size or (ids == info.mask).any():
            return "ids outside the vocabulary"
        text = self._encoding.decode(ids)
        if text is None:
            return "not UTF-8"
        if "\x00" in text:
            return "NUL character"
        metadata = {"_source": self._listing.source, _GIVEN: (text, ids.astype("u4"))}
        return Document(text=text, id="", metadata=metadata | {DISTINCT: self._encoding.distinct})

    def _documents_of(self, number: int) -> Iterator[Tokens]:
        """Yield the ids, EOD taken off, of the documents that belong to file `number`; empty ones are left out."""
        info = self._encoding.info
        rows_end = (self._settings.documents or ("rows" if self._source.format == "megatron" else "eod")) == "rows"
        if rows_end:
            for ids, lengths in self._blocks(number):
                padded = (ids == info.pad).any()
                for document in cut_rows(ids, lengths, info.eod):
                    kept = _without(document, info.pad) if padded else document
                    if len(kept):
                        yield kept
            return
        here = (_without(ids, info.pad) for ids in _coalesced(self._blocks(number)))
        later = (block for i in range(number + 1, len(self._listing.files)) for block in self._blocks(i))
        yield from file_documents(here, (_without(ids, info.pad) for ids, _ in later), info.eod, first=number == 0)

    def _blocks(self, number: int) -> Iterator[Block]:
        """Yield what is in file `number`. Raises WorkError when it is not what it should be."""
        try:
            yield from self._read(number)
        except (ValueError, OSError) as error:
            name = self._listing.files[number].name
            raise WorkError(f"source '{self._source.name}': {name} cannot be read: {one_line(error)}") from None

    def _read(self, number: int) -> Iterator[Block]:
        file = self._listing.files[number]
        if self._source.format == "mds":
            yield from _read_mds(self._listing.root, file, self._source)
            return
        after = self._listing.files[number + 1 : number + 2]
        stop = after[0].start if after and after[0].path == file.path else None
        dtype = self._encoding.dtype or self._settings.dtype or assumed_dtype(self._encoding.info)
        part = Part(self._settings.column, dtype, file.start, stop, file.known_size)
        path, listed = (
            storage.join(self._listing.root, file.path),
            self._encoding.files.get(file.path.rpartition("/")[2]),
        )
        read = FORMATS[self._source.format].read
        if listed is None or not storage.is_url(path) or self._source.format in ("bin", "megatron"):
            yield from read(path, part)  # of these, a task reads a part of a file
            return
        with fetched(path, listed) as copy:
            yield from read(copy, part)


def _loaded(choice: TokenizerChoice) -> tuple[TokenizerInfo, Decoder]:
    """Return a tokenizer; the one that was read before only where its file is still the same."""
    path = storage.absolute(choice.name)
    files = (os.path.join(path, name) if name else path for name in ("", "tokenizer.json", MANIFEST_NAME))
    state = () if storage.is_url(path) else tuple(storage.stamp(file) for file in files if os.path.exists(file))
    return _read_tokenizer(choice, path, state)


@lru_cache(maxsize=2)
def _read_tokenizer(choice: TokenizerChoice, path: str, state: tuple[str, ...]) -> tuple[TokenizerInfo, Decoder]:
    tokenizer = load_tokenizer(choice.name, choice.eod, choice.pad, choice.mask, fast=False)
    return tokenizer.info, decoder(tokenizer)


@dataclass(frozen=True)
class _Encoding:
    """How a source's ids are read: special ids, the function that decodes, the type that a manifest names, if any,
    whether it is an artifact: its build has removed duplicates, and what its manifest says of its files, by name."""

    info: TokenizerInfo
    decode: Decoder
    dtype: str | None
    distinct: bool
    files: dict[str, FileInfo]


def file_documents(here: Iterable[Tokens], after: Iterable[Tokens], eod: int, first: bool) -> Iterator[Tokens]:
    """Yield the documents of one file of a stream: those whose preceding EOD is in it.

    Args:
        here: the file's ids, in blocks.
        after: those of the files that follow, read only as far as the first EOD.
        first: whether the file begins the stream, and with it a document.
    """
    yield from _cut(_file_stream(here, after, eod, first), eod, end=True)


def _file_stream(here: Iterable[Tokens], after: Iterable[Tokens], eod: int, first: bool) -> Iterator[Tokens]:
    begun = first
    for ids in here:
        if not begun:
            ends = np.flatnonzero(ids == eod)
            if not len(ends):
                continue
            begun, ids = True, ids[ends[0] + 1 :]
        yield ids
    if not begun:
        return
    for ids in after:
        ends = np.flatnonzero(ids == eod)
        if len(ends):
            yield ids[: ends[0] + 1]
            return
        yield ids


def _cut(blocks: Iterable[Tokens], eod: int, end: bool) -> Iterator[Tokens]:
    """Yield what lies between EODs in a stream of blocks; what is left after the last one too, if `end`."""
    waiting: list[Tokens] = []
    for ids in blocks:
        stops = np.flatnonzero(ids == eod).tolist()
        start = 0
        for stop in stops:
            document = ids[start:stop] if not waiting else np.concatenate([*waiting, ids[:stop]])
            start, waiting = stop + 1, []
            if len(document):
                yield document
        if start < len(ids):
            waiting.append(ids[start:])
    if end and waiting:
        yield np.concatenate(waiting)


def cut_rows(ids: Tokens, lengths: NDArray[np.int64], eod: int) -> Iterator[Tokens]:
    """Yield the documents in some rows, each of which ends with its row, and at every EOD in it."""
    if not len(ids):
        return
    ends = np.cumsum(lengths)
    marks = np.flatnonzero(ids == eod) + 1
    inside = marks[ends[np.searchsorted(ends, marks)] != marks]
    stops = np.union1d(ends, inside) if len(inside) else ends
    starts = np.concatenate([[0], stops[:-1]])
    ended = (stops > starts) & (ids[stops - 1] == eod)
    for start, stop in zip(starts.tolist(), (stops - ended).tolist(), strict=True):
        if stop > start:
            yield ids[start:stop]


def _without(ids: Tokens, pad: int) -> Tokens:
    kept = ids != pad
    return ids if kept.all() else ids[kept]


def _coalesced(blocks: Iterable[Block]) -> Iterator[Tokens]:
    """Yield the ids of blocks, small ones joined: what follows costs as much for a block as for many ids."""
    waiting: list[Tokens] = []
    n = 0
    for ids, _ in blocks:
        waiting.append(ids)
        n += len(ids)
        if n >= _IDS_AT_ONCE:
            yield np.concatenate(waiting) if waiting[1:] else ids
            waiting, n = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _read_mds(root: str, file: InputFile, source: Source) -> Iterator[Block]:
    """Yield the rows of an MDS shard: ours at once, of others' the one column that is asked for."""
    if storage.exists(storage.join(root, MANIFEST_NAME)):
        artifact = open_artifact(root)
        shard = next(s for s in artifact.shards if s.path == file.path)
        samples = read_shard(shard, artifact.manifest)
        yield samples.reshape(-1), np.full(len(samples), artifact.manifest.seq_len)
        return
    if storage.is_url(root):
        raise RequestError(f"source '{source.name}': MDS of others is read from local folders only: copy it first")
    column, dtype = _ids_column(source)
    foreign = next(s for s in foreign_mds.read_index(root, source.name, column, dtype) if s.name == file.name)
    for ids in foreign_mds.read_ids(root, foreign, column, dtype):
        yield ids, np.array([len(ids)])


def _ids_column(source: Source) -> tuple[str, str | None]:
    """Return the column of MDS that holds a source's ids, and the type of those in a column of bytes."""
    assert source.tokenized is not None, "only tokenized sources are read by this"
    return source.tokenized.column or mds.COLUMN, source.tokenized.dtype
