"""From positions of a run to tokens: samples as they lie in an artifact's shards, or packed anew every pass."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...common.errors import RequestError
from ..artifact import Artifact
from ..order.base import Order, Repetition
from ..order.packing import Packing
from .sample_reader import SampleReader

_AT_ONCE = 32
"""Samples that are packed together: their documents lie in many times as many."""


class PackedReader:
    """Reads the samples of passes of the policy `repack`.

    Attributes:
        packing: which documents they hold.
        reader: of the subset's samples, the first of which it knows by the number `offset`.
        pad: id at the end of a pass.
    """

    def __init__(self, packing: Packing, reader: SampleReader, pad: int, offset: int = 0) -> None:
        self.packing, self.reader, self.pad, self.offset = packing, reader, pad, offset

    def needed(self, passes: ArrayLike, samples: ArrayLike) -> NDArray[np.int64]:
        """Return which samples of the reader hold the tokens of samples of passes: int64, rising."""
        pieces, seq_len = self.packing.pieces(passes, samples), self.reader.seq_len
        first, last = pieces.start // seq_len, (pieces.start + pieces.tokens - 1) // seq_len
        counts = last - first + 1
        rows = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first, counts)
        return np.unique(rows) + self.offset

    def read(self, passes: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tokens of samples of passes, int64 (k, seq_len), PAD at the end of a pass.

        Raises:
            WorkError: when a shard is gone, damaged, or cannot be fetched.
        """
        out = np.full((len(samples), self.reader.seq_len), self.pad, np.int64)
        for begin in range(0, len(samples), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            self._read_into(out[part], passes[part], samples[part])
        return out

    def _read_into(self, out: NDArray[np.int64], passes: NDArray[np.int64], samples: NDArray[np.int64]) -> None:
        seq_len = self.reader.seq_len
        pieces = self.packing.pieces(passes, samples)
        ends = np.cumsum(pieces.tokens)
        # Token i of the pieces, counted through, lies at stream position source[i].
        source = np.arange(ends[-1]) + np.repeat(pieces.start - ends + pieces.tokens, pieces.tokens)
        rows, place = np.unique(source // seq_len, return_inverse=True)
        tokens = self.reader.read(rows + self.offset)[place, source % seq_len]
        owner = np.repeat(pieces.sample, pieces.tokens)
        begins = np.searchsorted(owner, np.arange(len(samples)))
        out[owner, np.arange(len(owner)) - begins[owner]] = tokens


class OrderReader:
    """Reads what positions of an order hold.

    Attributes:
        order: of the run.
        readers: of each component's artifact; the same for all where one knows them all, counted through.
    """

    def __init__(self, order: Order, artifacts: Sequence[Artifact], readers: Sequence[SampleReader]) -> None:
        self.order = order
        self.readers = readers
        self._joined = len(readers) == 1 or readers[0] is readers[-1]
        plans = list(order.components().values())
        ends = np.cumsum([0, *(plan.samples for plan in plans)]).tolist()
        self._offsets = ends[:-1] if self._joined else [0] * len(plans)
        self._packed = {
            number: PackedReader(packing_of(plan, artifact), readers[number], pad, offset)
            for number, (plan, artifact, offset) in enumerate(zip(plans, artifacts, self._offsets, strict=True))
            if plan.policy == "repack"
            for pad in [artifact.manifest.tokenizer.pad]
        }

    @classmethod
    def of(
        cls, order: Order, artifacts: Sequence[Artifact], cache: str | None = None, verify: bool = True
    ) -> "OrderReader":
        """Return a reader of the artifacts of an order's components; see `SampleReader.of`."""
        return cls(order, artifacts, [SampleReader.of(artifact, cache, verify) for artifact in artifacts])

    def needed(self, positions: ArrayLike, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which samples, counted through the components, are read for positions whose ids are `ids`."""
        if not self._packed:
            return ids
        sources, numbers = self.order.locate(ids)
        passes = self.order.passes_at(positions)
        parts = [ids[~np.isin(sources, list(self._packed))]]
        for number, packed in self._packed.items():
            where = np.flatnonzero(sources == number)
            parts.append(packed.needed(passes[where], numbers[where]))
        return np.concatenate(parts)

    def read(self, positions: ArrayLike, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tokens at positions whose ids are `ids`, int64 (k, seq_len).

        Raises:
            WorkError: when a shard is gone, damaged, or cannot be fetched.
        """
        if not self._packed and self._joined:
            return self.readers[0].read(ids)
        sources, numbers = self.order.locate(ids)
        passes = self.order.passes_at(positions) if self._packed else np.zeros(len(ids), np.int64)
        out = np.empty((len(ids), self.order.seq_len), np.int64)
        for source in np.unique(sources).tolist():
            where = np.flatnonzero(sources == source)
            own = numbers[where].astype(np.int64)
            if source in self._packed:
                out[where] = self._packed[source].read(passes[where], own)
            else:
                out[where] = self.readers[source].read(own + self._offsets[source])
        return out


def packing_of(plan: Repetition, artifact: Artifact) -> Packing:
    """Return how the documents of an artifact are packed by a plan of the policy `repack`.

    Raises:
        RequestError: when the artifact does not say where its documents begin, or has too many.
    """
    from ..order.contents import documents_of  # pyarrow, which a run without this policy does not need

    table = documents_of(artifact)
    return Packing.of(plan, table.documents, table.first)


def check_not_packed(order: Order, what: str) -> None:
    """Raise RequestError for an order that packs documents anew, whose samples `what` cannot know by a number."""
    names = [f" of '{name}'" if name else "" for name, plan in order.components().items() if plan.policy == "repack"]
    if names:
        raise RequestError(f"the policy repack{names[0]} cuts samples anew every pass: {what}")
