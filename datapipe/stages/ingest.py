"""Ingest: everything that needs a document's text, done once, in one pass over each task's share of the input.

Normalise and key it, look for evaluation items in it, sign it for near-duplicate detection, encode it. What comes out
is a part (see parts.py) and the tables of rejected, filtered and contaminated documents; of the text itself nothing is
kept but excerpts of a few documents that filters took away.

A document that came as token ids keeps them, whatever its text says. If its tokenizer does not make the same ids of the
text (unknown characters have none), other ids may have that text too: then the ids are its key, and it is never empty.
With unknown tokens in it, it is not compared for near-duplicates either.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import WorkError
from ...tokenize.tokenizer import Tokenizer
from ..arrays.gather import apart, together
from ..config import Kept, NearDuplicates
from ..external_sort import TableWriter
from ..run.stage_progress import StageProgress
from ..sources.base import KEPT, Intake, Judged
from ..sources.tokens import DISTINCT, given_ids
from ..text import document_key
from ..text.analysers import analyser_of, given_up_on_failure
from ..text.decontaminate import Decontaminator, EvaluationIndex
from ..text.document_key import Keys
from ..text.exclude import Exclusion, load_lists
from ..text.filters import FILTERED, FilterStep, Step, removed_by
from ..text.signatures import buckets_of, sign
from ..text.words import Analysis, Words
from .kept import KeptValues, types_of
from .parts import DOCUMENT, WITH_KEPT, Batch, Documents, PartWriter

BATCH_CHARS = 1 << 22
BATCH_DOCUMENTS = 2048

REJECTED = pa.schema([("source", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())])
COUNTS = ("empty", "contaminated", "text_bytes", "unknown", "with_unknown", "known_by_ids")
"""What is counted of documents. unknown: tokens (or characters, where there is no such token) that stand for text which
the tokenizer does not know, in `with_unknown` documents. known_by_ids: those whose ids are not those of their text."""

CONTAMINATED = pa.schema(
    [
        ("key", pa.binary()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("evaluation_file", pa.string()),
        ("item", pa.int64()),
        ("ngram", pa.string()),
    ]
)


COMPARED_WHOLE = 2 << 20
"""Bytes of input up to which every document is also encoded by the reference: about a second of work."""

COMPARED_CHARS = 1 << 20
"""In larger inputs the encoding of one document in 256 is compared, by the first byte of its key, if it has fewer
characters than this."""

Given = NDArray[np.uint32] | None
"""The ids that a document came with; None: it came as text."""
EMPTY = "empty"
"""The reason of rows whose text is nothing but white space, perhaps because a filter left no more of it. They are
listed with the rejects, but are not counted against `max_reject_fraction`."""


class EngineDiffersError(WorkError):
    """The fast engine encoded a document differently from the reference: the build falls back to the reference."""


class SpecialTokenError(WorkError):
    """A document's ids hold EOD, PAD or MASK, which would end it where it does not end."""


@dataclass(frozen=True)
class IngestSettings:
    """What a task needs besides its pipeline.

    Attributes:
        index_path: of the EvaluationIndex, if any.
        exclude_path: of the lists of documents to leave out, if any.
        compare_all: whether all documents, not a sample, are encoded by the reference too.
        keep: fields of the rows that go with the documents.
    """

    work: str
    sources: tuple[str, ...]
    seed: int
    tokenizer: Tokenizer
    dtype: str
    near: NearDuplicates | None
    index_path: str | None
    partitions: int
    run_bytes: int
    compare_all: bool = False
    exclude_path: str | None = None
    keep: tuple[Kept, ...] = ()


class Ingest(PipelineStep):
    """The last step of the ingest pipeline; `intake` and `filters` are the very objects that stand before it."""

    name = "Ingest"
    type = "epochal"

    def __init__(self, settings: IngestSettings, intake: Intake, filters: list[FilterStep]) -> None:
        super().__init__()
        self.settings, self.intake, self.filters = settings, intake, filters

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Consume the task's documents and publish its part. Yields nothing."""
        os.environ.setdefault("RAYON_NUM_THREADS", "1")  # tasks are what runs in parallel
        with given_up_on_failure():
            _Task(self.settings, self.intake, rank).consume(data or (), self.filters)
        yield from ()


class _Task:
    """One task's pass over its documents."""

    def __init__(self, settings: IngestSettings, intake: Intake, rank: int) -> None:
        s = self.settings = settings
        self.intake = intake
        self.folder = storage.join(s.work, f"parts/part-{rank:05d}")
        self.tokenizer = s.tokenizer
        buckets, hashes = (s.near.buckets, s.near.hashes) if s.near else (0, 0)
        self.writer = PartWriter(self.folder, s.dtype, s.partitions, buckets, hashes, s.run_bytes, bool(s.keep))
        self.signatures = np.empty((BATCH_DOCUMENTS, buckets * hashes), np.uint32)  # of each batch after the other
        self.kept = KeptValues(s.keep)
        dtype = np.uint16 if s.dtype == "uint16" else np.uint32
        self.analyser = analyser_of(self.tokenizer, dtype)
        self.exclusion = Exclusion(load_lists(storage.read_bytes(s.exclude_path))) if s.exclude_path else None
        self.decontaminator = _load_decontaminator(s.index_path)
        self.counts = dict.fromkeys(COUNTS, 0)
        self.by_source: dict[int, int] = {}
        self.hits: dict[str, int] = {}
        self.contaminated = TableWriter(f"{self.folder}-contaminated.parquet", CONTAMINATED)
        self.filtered = TableWriter(f"{self.folder}-filtered.parquet", FILTERED)
        self.rejected = TableWriter(f"{self.folder}-rejects.parquet", REJECTED)
        self.progress = StageProgress(s.work, "ingest", rank)

    def consume(self, documents: Any, filters: list[FilterStep]) -> None:
        self.intake.take = self.filtered.add
        for step in filters:
            step.take = self.filtered.add
        for batch in _batches(documents):
            self._ingest(batch)
            self._write_rejects()
            self.progress.report(self.intake.bytes_read)
        self._write_rejects()
        tables = {"rejects": self.rejected, "filtered": self.filtered, "contaminated": self.contaminated}
        for table in tables.values():
            table.close()
        steps: list[Step] = [*filters, *([self.exclusion] if self.exclusion else [])]
        self.writer.close(
            self.counts
            | {
                "rows": {self.settings.sources[i]: n for i, n in sorted(self.intake.rows.items())},
                "accepted": {self.settings.sources[i]: n for i, n in sorted(self.by_source.items())},
                "rejected": self.intake.rejected,
                "first_rejects": self.intake.first,
                "left_out": [[self.settings.sources[i], file, why] for i, file, why in self.intake.left_out],
                "hits": self.hits,
                "left_out_rows": {name: table.n_rows for name, table in tables.items()},
                "filters": removed_by(steps),
                "excerpts": [step.samples for step in steps],
            }
            | self._counted_of_fields()
        )

    def _counted_of_fields(self) -> dict[str, Any]:
        """Return the counts of conditions and kept fields, of a build that has some."""
        sources = self.settings.sources
        judged = {"judged": {sources[i]: _judged(found) for i, found in self.intake.judged.items()}}
        kept = {"kept": self.kept.counts, "longest_kept": self.kept.longest}
        excluded = {"excluded": self.exclusion.counts()} if self.exclusion else {}
        return (judged if self.intake.judged else {}) | (kept if self.settings.keep else {}) | excluded

    def _ingest(self, batch: list[Document]) -> None:
        given = given_ids(batch)
        raw = document_key.raw_digests([document.text for document in batch])
        for document in batch:  # the text as it came is not needed any more, and a long one must not be held twice
            document.text = document_key.normalise(document.text)
        stays = [bool(document.text) or self._may_lose_text(ids) for document, ids in zip(batch, given, strict=True)]
        if not all(stays):
            self._reject_empty([document for document, stay in zip(batch, stays, strict=True) if not stay])
            raw = raw[stays]
            batch, given = list(itertools.compress(batch, stays)), list(itertools.compress(given, stays))
        if batch:
            self._take(batch, raw, given)

    def _reject_empty(self, empty: list[Document]) -> None:
        for document in empty:
            file, row = document.metadata["_row"]
            self.rejected.add((self.settings.sources[document.metadata["_source"]], file, row, EMPTY))
        self.counts["empty"] += len(empty)

    def _may_lose_text(self, given: Given) -> bool:
        """Return whether a document came with ids of which the tokenizer may make a text that others have too."""
        return given is not None and not self.tokenizer.spell_bytes(given)

    def _take(self, batch: list[Document], raw: NDArray[np.uint64], given: list[Given]) -> None:
        texts = [document.text for document in batch]
        keys = document_key.content_keys(texts)
        by_ids = self._unlike_their_text(texts, given)
        for i in by_ids:
            keys[i] = np.frombuffer(document_key.ids_key(np.asarray(given[i])), np.uint8)
        if self.exclusion is not None:
            stay = self._without_excluded(self.exclusion, batch, keys)
            batch, texts, given = ([column[i] for i in stay] for column in (batch, texts, given))
            keys, raw, by_ids = keys[stay], raw[stay], [n for n, i in enumerate(stay) if i in by_ids]
            if not batch:
                return
        self.counts["known_by_ids"] += len(by_ids)
        analysed = self.analyser.analyse(texts)
        records = self._records(batch, texts, keys)
        records["raw"] = raw
        tokens, records["tokens"] = self._encode(texts, keys, given, analysed)
        signatures, records["signed"] = sign(analysed.words, self.settings.near, self.signatures[: len(batch)])
        unknown = self.tokenizer.unknown_id
        records["signed"][[i for i in by_ids if (given[i] == unknown).any()]] = 0  # type: ignore[union-attr]
        clean = self._without_contaminated(batch, texts, keys, analysed.words)
        if len(clean) < len(batch):
            stays = np.zeros(len(batch), np.bool_)
            stays[clean] = True
            tokens, signatures = tokens[np.repeat(stays, records["tokens"])], signatures[clean]
            batch, keys, records = [batch[i] for i in clean], keys[clean], records[clean]
        ids = [(document.id or keys[i].tobytes().hex()).encode() for i, document in enumerate(batch)]
        records["id_bytes"] = list(map(len, ids))
        kept = self._keep(batch) if self.settings.keep else []
        if kept:
            records["kept_bytes"] = list(map(len, kept))
        buckets = buckets_of(signatures, self.settings.near.buckets if self.settings.near else 0)
        self.writer.add(Batch(records, b"".join(ids), tokens, signatures, buckets, b"".join(kept)))
        self.counts["text_bytes"] += int(records["text_bytes"].sum())
        for source, n in enumerate(np.bincount(records["source"]).tolist()):
            if n:
                self.by_source[source] = self.by_source.get(source, 0) + n

    def _keep(self, batch: list[Document]) -> list[bytes]:
        """Return the values of the documents' kept fields. What cannot be a column stops the build at once."""
        sources = self.settings.sources
        kept = [self.kept.encode(sources[d.metadata["_source"]], d.metadata.get(KEPT)) for d in batch]
        types_of(self.settings.keep, self.kept.counts)
        return kept

    def _records(self, batch: list[Document], texts: list[str], keys: Keys) -> Documents:
        """Return a DOCUMENT for each document with what its text, key and source decide."""
        seed = self.settings.seed
        records = np.zeros(len(batch), WITH_KEPT if self.settings.keep else DOCUMENT)
        records["place_hi"], records["place_lo"] = document_key.places(keys, seed).T
        records["key_hi"], records["key_lo"] = np.ascontiguousarray(keys).view(">u8").T
        records["drawn"] = document_key.validation_orders(keys, seed)
        records["text_bytes"] = [len(text) if text.isascii() else len(text.encode()) for text in texts]
        records["source"] = [document.metadata["_source"] for document in batch]
        records["distinct"] = [document.metadata.get(DISTINCT, False) for document in batch]
        return records

    def _unlike_their_text(self, texts: list[str], given: list[Given]) -> list[int]:
        """Return the places of the documents that came with other ids than their text has."""
        came = [i for i, ids in enumerate(given) if ids is not None and self._may_lose_text(ids)]
        again = self._encode_each([texts[i] for i in came])
        return [i for i, ids in zip(came, again, strict=True) if ids is None or not np.array_equal(ids, given[i])]  # type: ignore[arg-type]

    def _encode_each(self, texts: list[str]) -> list[Given]:
        """Return the ids of each text, None where it has none."""
        try:
            return list(self.tokenizer.encode(texts)) if texts else []
        except WorkError:
            return [None] if len(texts) == 1 else [ids for text in texts for ids in self._encode_each([text])]

    def _without_excluded(self, exclusion: Exclusion, batch: list[Document], keys: Keys) -> list[int]:
        """Return the places in the batch of the documents that are in no list of what is left out."""
        stay = []
        for i, document in enumerate(batch):
            key = keys[i].tobytes()
            identifier = document.id or key.hex()
            name = exclusion.list_of(key, identifier)
            if name is None:
                stay.append(i)
                continue
            source = self.settings.sources[document.metadata["_source"]]
            self.filtered.add((key, identifier, source, exclusion.label, name))
        return stay

    def _without_contaminated(self, batch: list[Document], texts: list[str], keys: Keys, words: Words) -> list[int]:
        """Return the places in the batch of the documents that share no n-gram with an evaluation item."""
        if self.decontaminator is None:
            return list(range(len(texts)))
        hits = self.decontaminator.find(texts, words)
        for hit in hits:
            document, key = batch[hit.document], keys[hit.document].tobytes()
            source = self.settings.sources[document.metadata["_source"]]
            self.contaminated.add((key, document.id or key.hex(), source, hit.file, hit.row, hit.ngram))
            self.hits[hit.file] = self.hits.get(hit.file, 0) + 1
        dropped = {hit.document for hit in hits}
        self.counts["contaminated"] += len(dropped)
        return [i for i in range(len(texts)) if i not in dropped]

    def _encode(
        self, texts: list[str], keys: Keys, given: list[Given], analysed: Analysis
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Return the ids of all documents, EOD after each, and how many each has: those it came with, or those of its
        text, as analysed or encoded here. Of the latter all, or a sample chosen by key, are encoded by the reference
        too and must come out equal."""
        of_text = np.array([ids is None for ids in given], np.bool_)
        fresh = np.flatnonzero(of_text).tolist()
        if self.tokenizer.encode_pieces:
            tokens, lengths = analysed.tokens, np.diff(analysed.starts)
            self._check_special(tokens, len(texts))
            if len(fresh) < len(texts):
                tokens, lengths = tokens[np.repeat(of_text, lengths)], lengths[of_text]
        else:
            encoded = self.tokenizer.encode([texts[i] for i in fresh])
            tokens, lengths = together([self._ended(ids) for ids in encoded], self.settings.dtype)
            self._check_special(tokens, len(fresh))
        if self.tokenizer.count_unknown and fresh:
            unknown = self.tokenizer.count_unknown([texts[i] for i in fresh], apart(tokens, lengths))
            self.counts["unknown"] += int(unknown.sum())
            self.counts["with_unknown"] += int(np.count_nonzero(unknown))
        self._compare(texts, keys, fresh, tokens, lengths)
        if len(fresh) == len(texts):
            return tokens, lengths
        following = iter(apart(tokens, lengths))
        ended = [next(following) if ids is None else self._ended(ids) for ids in given]
        return together(ended, self.settings.dtype)

    def _compare(
        self,
        texts: list[str],
        keys: Keys,
        fresh: list[int],
        tokens: NDArray[np.unsignedinteger],
        lengths: NDArray[np.int64],
    ) -> None:
        """Encode the documents `fresh`, or a sample of them, by the reference; their `tokens` must be the same."""
        ends = np.cumsum(lengths)
        sample = np.flatnonzero(keys[fresh, 0] == 0).tolist()
        short = [n for n in sample if len(texts[fresh[n]]) < COMPARED_CHARS]
        compared = range(len(fresh)) if self.settings.compare_all else short
        ids = [tokens[ends[n] - lengths[n] : ends[n] - 1] for n in compared]
        if self.tokenizer.first_difference([texts[fresh[n]] for n in compared], ids) is not None:
            raise EngineDiffersError(f"engine {self.tokenizer.engine_name} differs from the reference on a document")

    def _check_special(self, tokens: NDArray[np.unsignedinteger], documents: int) -> None:
        """Raise SpecialTokenError unless `tokens` hold just one EOD for each document, and neither PAD nor MASK."""
        info = self.tokenizer.info
        counts = [int(np.count_nonzero(tokens == special)) for special in (info.eod, info.pad, info.mask)]
        if counts != [documents, 0, 0]:
            raise SpecialTokenError(
                f"tokenizer {info.name} makes EOD, PAD or MASK of a text: name other ones as tokenizer.eod, "
                "tokenizer.pad and tokenizer.mask"
            )

    def _ended(self, ids: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        return np.append(ids, self.tokenizer.info.eod).astype(self.settings.dtype)

    def _write_rejects(self) -> None:
        for source, file, row, reason in self.intake.rejects:
            self.rejected.add((self.settings.sources[source], file, row, reason))
        self.intake.rejects.clear()


def _judged(found: Judged) -> dict[str, Any]:
    """Return what became of a source's rows by its condition, as part.json holds it."""
    return {
        "rows": found.rows,
        "false": found.false,
        "null": found.null,
        "absent": found.absent,
        "fields": sorted(found.fields),
    }


def _batches(documents: Any) -> Iterator[list[Document]]:
    """Group documents so that a batch's arrays stay small and its per-call costs are shared."""
    batch: list[Document] = []
    chars = 0
    for document in documents:
        size = len(document.text)
        chars += size
        if batch and (chars > BATCH_CHARS or len(batch) >= BATCH_DOCUMENTS):
            yield batch
            batch, chars = [], size
        batch.append(document)
    if batch:
        yield batch


def _load_decontaminator(path: str | None) -> Decontaminator | None:
    if path is None:
        return None
    return Decontaminator(EvaluationIndex.from_bytes(storage.read_bytes(path)))
