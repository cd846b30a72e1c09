"""Passages: what the report shows of the texts. Ingest keeps the ids of every document that it does not leave out, so
what stays and what deduplication removed is decoded from them; excerpts of what filters took away come from ingest."""

import numpy as np
from numpy.typing import NDArray

from ...tokenize.tokenizer import Decoder, Tokenizer, decoder
from ..text.excerpts import EXCERPT_CHARS, Excerpts, Passage, excerpt
from .cluster import TRAIN
from .division import Corpus
from .duplicates import RemovedCounts
from .fates import Fates
from .parts import Documents, read_spans
from .statistics import IngestTotals

KEPT = 4
"""Documents of the pool that are shown."""

KEPT_IDS = 4 * (EXCERPT_CHARS + 1)
"""Enough for an excerpt: an id stands for a byte or more, a character for four bytes at most."""

PAIR_IDS = 8_000
"""How far two near-duplicates are compared for the place where they differ."""

BEFORE = 60
"""Characters that both have in common, shown before that place."""

_AT_ONCE = 1024


def gather(
    corpus: Corpus, fates: Fates, removed: RemovedCounts, totals: IngestTotals, tokenizer: Tokenizer
) -> Excerpts:
    """Return what the report shows; the same for any number of tasks."""
    kept, decode = [_StoredDocument(corpus, number) for number in _first(corpus, fates)], decoder(tokenizer)
    filtered = {
        row["name"]: [Passage(identifier, source, text, reason) for _, identifier, source, reason, text in samples]
        for row, samples in zip(totals.filters, totals.excerpts, strict=True)
        if samples
    }
    return Excerpts(
        [document.passage(excerpt(document.text(KEPT_IDS, decode))) for document in kept],
        filtered,
        [_pair(corpus, *pair, decode) for pair in removed.pairs],
        removed.clusters,
        totals.hits,
    )


def _pair(
    corpus: Corpus, number: int, survivor: int, similarity: float, decode: Decoder
) -> tuple[Passage, Passage, float]:
    """Return excerpts of a near-duplicate and of the document that was kept for it, from where they differ."""
    documents = [_StoredDocument(corpus, n) for n in (number, survivor)]
    texts = [document.text(PAIR_IDS, decode) for document in documents]
    common = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    start = common - BEFORE if common > EXCERPT_CHARS // 2 and texts[0] != texts[1] else 0
    ours, theirs = (document.passage(excerpt(text, start)) for document, text in zip(documents, texts, strict=True))
    return ours, theirs, similarity


def _first(corpus: Corpus, fates: Fates) -> list[int]:
    """Return the numbers of the first documents of the pool. Each run of a part is sorted as the pool is."""
    runs = [
        (part, base, base + run.first, base + run.first + run.documents)
        for part, base in zip(corpus.parts, corpus.base.tolist(), strict=False)
        for run in part.runs
    ]
    heads = fates.read([(start, min(start + _AT_ONCE, stop)) for *_, start, stop in runs])
    kept = [
        (part, base, _kept(fates, head, start, stop))
        for (part, base, start, stop), head in zip(runs, heads, strict=True)
    ]
    kept = [(part, base, numbers) for part, base, numbers in kept if numbers]
    read = read_spans("documents", [(part, n[0] - base, n[-1] + 1 - base) for part, base, n in kept])
    candidates = [
        (int(records[n - numbers[0]]["place_hi"]), int(records[n - numbers[0]]["place_lo"]), n)
        for (_, _, numbers), records in zip(kept, read, strict=True)
        for n in numbers
    ]
    return [number for _, _, number in sorted(candidates)[:KEPT]]


def _kept(fates: Fates, head: NDArray[np.uint8], start: int, stop: int) -> list[int]:
    """Return the numbers of the first of the pool's documents between `start` and `stop`. head: the first fates."""
    numbers: list[int] = (start + np.flatnonzero(head == TRAIN)).tolist()
    while len(numbers) < KEPT and (start := start + _AT_ONCE) < stop:
        (more,) = fates.read([(start, min(start + _AT_ONCE, stop))])
        numbers += (start + np.flatnonzero(more == TRAIN)).tolist()
    return numbers[:KEPT]


class _StoredDocument:
    """A document in a part, of which only what is asked for is read."""

    def __init__(self, corpus: Corpus, number: int) -> None:
        owner = int(np.searchsorted(corpus.base, number, side="right")) - 1
        self._part, row = corpus.parts[owner], number - int(corpus.base[owner])
        records: Documents = read_spans("documents", [(self._part, row, row + 1)])[0]
        self._record = {
            name: int(records[name][0]) for name in ("token_start", "tokens", "source", "id_start", "id_bytes")
        }
        self._source = corpus.sources[self._record["source"]]

    def text(self, most: int, decode: Decoder) -> str:
        """Return the text of its first `most` ids; a character that is cut through is left out."""
        start, n = self._record["token_start"], self._record["tokens"] - 1  # without its EOD
        (ids,) = read_spans("tokens", [(self._part, start, start + min(n, most))])
        texts = (decode(ids[: len(ids) - cut]) for cut in range(4))  # of a character up to three bytes may be there
        text = next((text for text in texts if text is not None), "")
        return text.rstrip("\ufffd") if n > most else text

    def passage(self, text: str) -> Passage:
        """Return `text` as this document's."""
        start = self._record["id_start"]
        (identifier,) = read_spans("ids", [(self._part, start, start + self._record["id_bytes"])])
        return Passage(identifier.tobytes().decode(), self._source, text)
