"""Sources that hold token ids already: MDS, WebDataset, Megatron-LM, flat files, Parquet, Arrow.

A document's ids are taken as they are. Its text is decoded from them: it gives the document's key, and so its place in
the pool, and is what filters, decontamination and deduplication look at. So an export of a pool becomes the same pool
again.

Rows are not documents: a sample may begin in the middle of one. The ids of all files, in order, are one stream, cut at
EOD. Different tasks read the files, so one rule decides which file a document belongs to: the one that holds the EOD
before it (the first file has the very first document too). Its reader goes on into later files until the document ends.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from datatrove.data import Document
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import RequestError, WorkError, one_line
from ...common.publish import MANIFEST_NAME
from ...shards import mds
from ...shards.artifact import open_artifact, read_any_manifest
from ...shards.formats import megatron
from ...shards.formats.registry import FORMATS, in_order
from ...shards.formats.rows import Block, Part, Tokens
from ...shards.loader.sample_reader import read_shard
from ...shards.manifest import ExportManifest, Manifest, TokenizerInfo
from ...tokenize.tokenizer import Decoder, Tokenizer, decoder, load_tokenizer
from ..config import Source, Tokenized, TokenizerChoice
from .base import Intake, Reader
from .listing import InputFile, Listing, list_files

_GIVEN = "_tokenized"
_IDS_AT_ONCE = 1 << 18

PART_BYTES = 64 << 20
"""Bytes of a flat or Megatron-LM file that one task reads, about; a multiple of every id's size."""
ENDINGS = {name: (module.ENDING,) for name, module in FORMATS.items()} | {"wds": (".tar", ".tar.gz", ".tgz")}
"""Of the files that ids are read from, by format."""


def given_ids(document: Document) -> NDArray[np.uint32] | None:
    """Return the ids that a document came with; None when it came as text, or a filter has changed its text."""
    text, ids = document.metadata.get(_GIVEN, (None, None))
    return ids if text == document.text else None


# -- which files, which tokenizer -----------------------------------------------------------------------------------


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
    manifest = _manifest_beside(source)
    sizes = {} if manifest is None else {f"/{name}": info.bytes for name, info in manifest.files.items()}
    for file in files:
        size = next((size for name, size in sizes.items() if name.endswith(f"/{file.name}")), file.size)
        if size != file.size:
            raise WorkError(
                f"source '{source.name}': {file.name} has {file.size:,} bytes, its manifest says {size:,}: fetch it again"
            )


def _without_caches(named: dict[str, InputFile], listing: Listing, source: Source) -> dict[str, InputFile]:
    """Return the files of data sets written by `save_to_disk`: those that the state.json beside them lists. The library
    leaves what it computed from them in the same folder, in files of the same ending.

    Raises:
        RequestError: when a file is missing.
    """
    for state in (file.name for file in listing.files if os.path.basename(file.name) == "state.json"):
        folder = state.removesuffix("state.json")
        text = storage.read_bytes(storage.join(listing.root, state))
        listed = {folder + entry["filename"] for entry in json.loads(text)["_data_files"]}
        if missing := sorted(listed - named.keys()):
            raise RequestError(f"source '{source.name}': {missing[0]}, which {state} lists, is missing: restore it")
        named = {n: f for n, f in named.items() if n in listed or os.path.dirname(n) != folder.rstrip("/")}
    return named


def _parts(root: str, file: InputFile, source: Source) -> Iterator[InputFile]:
    """Yield the parts that a large file is divided into, so that it is shared out among tasks."""
    if source.format == "bin":
        starts = range(0, file.size, PART_BYTES)
        sizes = [min(PART_BYTES, file.size - start) for start in starts]
    else:
        with storage.open_read(megatron.index_path(storage.join(root, file.path))) as index:
            documents = megatron.read_index(index).documents
        step = max(1, documents * PART_BYTES // max(file.size, 1))
        starts = range(0, documents, step)
        sizes = [file.size * min(step, documents - start) // documents for start in starts]
    for start, size in zip(starts, sizes, strict=True):
        yield InputFile(file.path, file.name if len(sizes) == 1 else f"{file.name}@{start}", size, start)


def _list_mds(number: int, source: Source) -> Listing:
    root = str(source.path)
    if storage.exists(storage.join(root, MANIFEST_NAME)):
        shards = open_artifact(root).shards
        return Listing(number, root, [InputFile(s.path, s.basename, s.bytes) for s in shards])
    files = []
    for entry in _foreign_index(root, source):
        name = entry["raw_data"]["basename"]
        if entry.get("zip_data") is not None or not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise RequestError(f"source '{source.name}': {name} is compressed or lies elsewhere: decompress it there")
        files.append(InputFile(storage.join(root, name), name, int(entry["raw_data"]["bytes"])))
    return Listing(number, root, files)


def _foreign_index(root: str, source: Source) -> list[dict[str, Any]]:
    try:
        return json.loads(storage.read_bytes(storage.join(root, "index.json")))["shards"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError):
        raise RequestError(f"source '{source.name}': {root} has no index.json of MDS shards") from None


def _manifest_beside(source: Source) -> Manifest | ExportManifest | None:
    """Return the manifest of the artifact or export that a source is, or lies in, if there is one."""
    path = str(source.path)
    folder = (
        path
        if "*" not in path and not path.endswith(tuple(e for endings in ENDINGS.values() for e in endings))
        else os.path.dirname(path)
    )
    folders = (folder, os.path.dirname(folder))
    root = next((f for f in folders if storage.exists(storage.join(f, MANIFEST_NAME))), None)
    return None if root is None else read_any_manifest(root)


def check_tokenizers(sources: Iterable[Source], tokenizer: Tokenizer, chosen: str) -> None:
    """Raise RequestError unless every tokenized source was made with the build's tokenizer, as far as is known.

    Args:
        chosen: the name that the build's tokenizer was loaded by.
    """
    for source in sources:
        if source.tokenized is None:
            continue
        named = source.tokenized.tokenizer
        is_fingerprint = re.fullmatch(r"[0-9a-f]{32}", named)
        same = named == chosen
        known = named if is_fingerprint or same else load_tokenizer(named, fast=False).info.fingerprint
        if not same and known != tokenizer.info.fingerprint:
            raise RequestError(
                f"source '{source.name}' was tokenized with {named}, the build's tokenizer is {tokenizer.info.name} "
                f"({tokenizer.info.fingerprint}): use that tokenizer, or build from the text"
            )
        manifest = _manifest_beside(source)
        if manifest is not None:
            _check_manifest(source, manifest, tokenizer.info)


def _check_manifest(source: Source, manifest: Manifest | ExportManifest, info: TokenizerInfo) -> None:
    theirs, ours = (t.model_dump(exclude={"name", "vocab_size"}) for t in (manifest.tokenizer, info))
    if theirs != ours:
        different = ", ".join(f"{k} {theirs[k]}, not {ours[k]}" for k in ours if theirs[k] != ours[k])
        raise RequestError(f"source '{source.name}': its manifest says another tokenizer than the build's: {different}")
    if isinstance(manifest, ExportManifest) and manifest.plan is not None:
        raise RequestError(
            f"source '{source.name}' is an export in the order of a plan, its documents cut into samples: "
            "export the subset without --order"
        )


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
        manifest = _manifest_beside(self._source)
        return _Encoding(info, decode, manifest.dtype if isinstance(manifest, ExportManifest) else None)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_encoding", "_numbers")}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Where in the listing each file is, by name."""
        return {file.name: i for i, file in enumerate(self._listing.files)}

    def _rows(self, file: InputFile) -> Iterator[tuple[int, Tokens]]:
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
        return Document(text=text, id="", metadata={"_source": self._listing.source, _GIVEN: (text, ids.astype("u4"))})

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
        dtype = self._encoding.dtype or self._settings.dtype or "uint16"
        part = Part(self._settings.column, dtype, file.start, stop)
        yield from FORMATS[self._source.format].read(storage.join(self._listing.root, file.path), part)


@lru_cache(maxsize=2)
def _loaded(choice: TokenizerChoice) -> tuple[TokenizerInfo, Decoder]:
    tokenizer = load_tokenizer(choice.name, choice.eod, choice.pad, choice.mask, fast=False)
    return tokenizer.info, decoder(tokenizer)


@dataclass(frozen=True)
class _Encoding:
    """How a source's ids are read: special ids, the function that decodes, the type that a manifest names, if any."""

    info: TokenizerInfo
    decode: Decoder
    dtype: str | None


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
    """Yield the rows of an MDS shard: ours at once, others' through streaming's own reader."""
    if storage.exists(storage.join(root, MANIFEST_NAME)):
        artifact = open_artifact(root)
        shard = next(s for s in artifact.shards if s.path == file.path)
        samples = read_shard(shard, artifact.manifest)
        yield samples.reshape(-1), np.full(len(samples), artifact.manifest.seq_len)
        return
    from streaming.base.format.mds.reader import MDSReader

    if storage.is_url(root):
        raise RequestError(f"source '{source.name}': MDS of others is read from local folders only: copy it first")
    entry = next(e for e in _foreign_index(root, source) if e["raw_data"]["basename"] == file.name)
    reader = MDSReader.from_json(storage.local_path(root), None, entry)
    column = (source.tokenized.column if source.tokenized else None) or mds.COLUMN
    dtype = source.tokenized.dtype if source.tokenized else None
    for i in range(len(reader)):
        value = reader[i].get(column)
        if isinstance(value, bytes) and dtype:
            value = np.frombuffer(value, dtype)
        if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "iu":
            raise RequestError(
                f"source '{source.name}': column '{column}' of {file.name} holds no arrays of ids "
                "(for a column of bytes say tokenized.dtype)"
            )
        yield value, np.array([len(value)])
