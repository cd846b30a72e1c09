"""Ingest: everything that needs a document's text, done once, in one pass over each task's share of the input.

Normalise and key it, look for evaluation items in it, sign it for near-duplicate detection, encode it. What comes out
is a part (see tokenize/parts.py) and the tables of rejected and contaminated documents; the text itself is let go.
"""

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from ..shards.errors import WorkError
from ..tokenize.parts import PartWriter, PendingDocument
from ..tokenize.tokenizer import load_tokenizer
from . import content
from .config import NearDuplicates, TokenizerChoice
from .decontaminate import Decontaminator
from .filters import removed_by
from .progress import StageProgress
from .readers import Intake
from .words import Words, split_words, word_ngrams

BATCH_CHARS = 1 << 22
BATCH_DOCUMENTS = 2048

REJECTED = pa.schema([("source", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("reason", pa.string())])
CONTAMINATED = pa.schema(
    [
        ("key", pa.binary(16)),
        ("id", pa.string()),
        ("source", pa.string()),
        ("evaluation_file", pa.string()),
        ("item", pa.int64()),
        ("ngram", pa.string()),
    ]
)


class EngineDiffersError(WorkError):
    """The fast engine encoded a document differently from the reference: the build falls back to the reference."""


@dataclass(frozen=True)
class IngestSettings:
    """What a task needs to know beside its pipeline; `index_path` holds the pickled EvaluationIndex, if any."""

    work: str
    sources: tuple[str, ...]
    seed: int
    tokenizer: TokenizerChoice
    fast_engine: bool
    dtype: str
    near: NearDuplicates | None
    index_path: str | None
    partitions: int
    run_bytes: int


class Ingest(PipelineStep):
    """The last step of the ingest pipeline; `intake` and `filters` are the very objects that stand before it."""

    name = "Ingest"
    type = "epochal"

    def __init__(self, settings: IngestSettings, intake: Intake, filters: list[Any]) -> None:
        super().__init__()
        self.settings, self.intake, self.filters = settings, intake, filters

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Consume the task's documents and publish its part. Yields nothing."""
        os.environ.setdefault("RAYON_NUM_THREADS", "1")  # tasks are what runs in parallel
        _Task(self.settings, self.intake, rank).consume(data or (), self.filters)
        yield from ()


class _Task:
    """One task's pass over its documents."""

    def __init__(self, settings: IngestSettings, intake: Intake, rank: int) -> None:
        s = self.settings = settings
        self.intake = intake
        self.folder = os.path.join(s.work, "parts", f"part-{rank:05d}")
        choice = s.tokenizer
        self.tokenizer = load_tokenizer(choice.name, choice.eod, choice.pad, choice.mask, fast=s.fast_engine)
        buckets, hashes = (s.near.buckets, s.near.hashes) if s.near else (0, 0)
        self.writer = PartWriter(self.folder, s.dtype, s.partitions, buckets, hashes, s.run_bytes)
        self.decontaminator = _load_decontaminator(s.index_path)
        self.counts = {"empty": 0, "contaminated": 0, "text_bytes": 0}
        self.by_source: dict[int, int] = {}
        self.contaminated = TableWriter(f"{self.folder}-contaminated.parquet", CONTAMINATED)
        self.rejected = TableWriter(f"{self.folder}-rejects.parquet", REJECTED)
        self.progress = StageProgress(s.work, "ingest", rank)

    def consume(self, documents: Any, filters: list[Any]) -> None:
        for batch in _batches(documents):
            self._ingest(batch)
            self._write_rejects()
            self.progress.report(self.intake.bytes_read)
        self._write_rejects()
        self.rejected.close()
        self.contaminated.close()
        self.writer.close(
            self.counts
            | {
                "rows": {self.settings.sources[i]: n for i, n in sorted(self.intake.rows.items())},
                "accepted": {self.settings.sources[i]: n for i, n in sorted(self.by_source.items())},
                "rejected": self.intake.rejected,
                "filters": removed_by(filters),
            }
        )

    def _ingest(self, batch: list[Document]) -> None:
        texts = [content.normalise(d.text) for d in batch]
        kept = [i for i, text in enumerate(texts) if text]
        self.counts["empty"] += len(texts) - len(kept)
        self._take([batch[i] for i in kept], [texts[i] for i in kept])

    def _take(self, batch: list[Document], texts: list[str]) -> None:
        if not texts:
            return
        keys = [content.content_key(text) for text in texts]
        words = split_words(texts) if self.settings.near or self.decontaminator else None
        clean = self._without_contaminated(batch, texts, keys, words)
        signatures = _sign(words, self.settings.near) if words and self.settings.near else [None] * len(texts)
        encoded = self._encode([texts[i] for i in clean], [keys[i] for i in clean])
        for i, ids in zip(clean, encoded, strict=True):
            self._add(batch[i], texts[i], keys[i], ids, signatures[i])

    def _add(
        self, document: Document, text: str, key: bytes, ids: NDArray[np.uint32], signature: NDArray[np.uint32] | None
    ) -> None:
        size, source = len(text.encode()), document.metadata["_source"]
        place = content.place(key, self.settings.seed)
        record = (
            int.from_bytes(place[:8], "big"),
            int.from_bytes(place[8:], "big"),
            int.from_bytes(key[:8], "big"),
            int.from_bytes(key[8:], "big"),
            content.raw_digest(document.text),
            content.validation_order(key, self.settings.seed),
            size,
            source,
            int(signature is not None),
        )
        with_end = np.append(ids, np.uint32(self.tokenizer.info.eod)).astype(self.settings.dtype)
        identifier = (document.id or key.hex()).encode()
        self.writer.add(PendingDocument(record, identifier, with_end, signature))
        self.counts["text_bytes"] += size
        self.by_source[source] = self.by_source.get(source, 0) + 1

    def _without_contaminated(
        self, batch: list[Document], texts: list[str], keys: list[bytes], words: Words | None
    ) -> list[int]:
        """Return the places in the batch of the documents that share no n-gram with an evaluation item."""
        if self.decontaminator is None or words is None:
            return list(range(len(texts)))
        hits = self.decontaminator.find(texts, words)
        for hit in hits:
            document, key = batch[hit.document], keys[hit.document]
            source = self.settings.sources[document.metadata["_source"]]
            self.contaminated.add((key, document.id or key.hex(), source, hit.file, hit.row, hit.ngram))
        dropped = {hit.document for hit in hits}
        self.counts["contaminated"] += len(dropped)
        return [i for i in range(len(texts)) if i not in dropped]

    def _encode(self, texts: list[str], keys: list[bytes]) -> list[NDArray[np.uint32]]:
        """Encode the texts; a sample chosen by key is encoded by the reference too and must come out equal."""
        sample = [text for text, key in zip(texts, keys, strict=True) if key[0] == 0 and len(text) < 1 << 20]
        if self.tokenizer.differs_on(sample) is not None:
            raise EngineDiffersError(f"engine {self.tokenizer.engine_name} differs from the reference on a document")
        return self.tokenizer.encode(texts)

    def _write_rejects(self) -> None:
        for source, file, row, reason in self.intake.rejects:
            self.rejected.add((self.settings.sources[source], file, row, reason))
        self.intake.rejects.clear()


class TableWriter:
    """Writes rows to a Parquet file in groups, published when closed: memory does not grow with the rows."""

    GROUP = 20_000

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._path, self._partial, self._schema = path, f"{path}.{os.getpid()}.partial", schema
        self._rows: list[tuple[object, ...]] = []
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._writer = pq.ParquetWriter(self._partial, schema)

    def add(self, row: tuple[object, ...]) -> None:
        """Add a row, its values in the order of the schema."""
        self._rows.append(row)
        if len(self._rows) >= self.GROUP:
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self._rows, strict=True)) or [()] * len(self._schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        """Write what is left and publish the file."""
        self._flush()
        self._writer.close()
        os.replace(self._partial, self._path)


def _batches(documents: Any) -> Iterator[list[Document]]:
    """Group documents so that a batch's arrays stay small and its per-call costs are shared."""
    batch: list[Document] = []
    chars = 0
    for document in documents:
        if batch and (chars + len(document.text) > BATCH_CHARS or len(batch) >= BATCH_DOCUMENTS):
            yield batch
            batch, chars = [], 0
        batch.append(document)
        chars += len(document.text)
    if batch:
        yield batch


def _sign(words: Words, near: NearDuplicates) -> list[NDArray[np.uint32] | None]:
    """Return each text's MinHash signature over its word n-grams, uint32 (buckets * hashes,); None without n-gram."""
    from rensa import RMinHash

    hashes, starts = word_ngrams(words, near.ngram)
    size = near.buckets * near.hashes
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts.astype(np.uint64), size, near.seed)
    rows = np.array(matrix.to_rows(), np.uint32).reshape(-1, size)
    return [row if n else None for row, n in zip(rows, np.diff(starts), strict=True)]


def _load_decontaminator(path: str | None) -> Decontaminator | None:
    if path is None:
        return None
    with open(path, "rb") as f:
        return Decontaminator(pickle.load(f))
