"""How well a model knows documents that it was fed so often: likelihoods, and continuations that it writes itself.

Which documents are taken and which noise is drawn are pure functions of a seed and the documents' keys.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...common.errors import RequestError, WorkError
from ...shards.loader.sample_reader import SampleReader
from ..checkpoint import Checkpoint
from ..eval.generate import Sampling, frames
from ..eval.scoring import Group as Texts
from ..eval.scoring import Scorer
from ..model.transformer import Transformer
from .fed import Source

_KEY_BITS = 39
"""Of a document's random word, which name its noise: less than `exact.blocks.NEXT_BLOCK`."""

_AT_ONCE = 64
"""Documents between two signs of progress."""


class Document(NamedTuple):
    """A document that is measured.

    Attributes:
        source: of a mixture, or `validation`.
        key: 32 hexadecimal digits.
        word: random, a pure function of the seed and the key.
        text: the part that is measured, int64 (n,).
    """

    source: str
    key: str
    word: int
    text: NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Some of the documents that a run was fed equally often.

    Attributes:
        exposures: of each.
        held_out: of the validation pool.
        in_all: documents that there were to take from.
        taken: in the order of their words.
    """

    exposures: int
    held_out: bool
    in_all: int
    taken: tuple[Document, ...]


@dataclass(frozen=True)
class Known:
    """What a model knows of one document: nats of its part, and whether it wrote the part's last tokens itself."""

    source: str
    key: str
    exposures: int
    tokens: int
    nats: float
    reproduced: bool


@dataclass(frozen=True)
class Row:
    """What a model knows of documents that were fed equally often.

    Attributes:
        documents: measured, of `in_all`.
        per_token: nats of all their tokens over the number of these.
        per_token_se: its standard error over documents, that of the noise included; None for a single one.
        reproduced: documents whose continuation the model wrote.
        share: of those measured, with the interval that covers it in 95 % of samples (Wilson's).
    """

    exposures: int
    held_out: bool
    documents: int
    in_all: int
    tokens: int
    per_token: float
    per_token_se: float | None
    reproduced: int
    share: float
    share_low: float
    share_high: float


def take(
    sources: Sequence[Source], documents: int, least_tokens: int, seed: int
) -> tuple[list[Sample], dict[str, int]]:
    """Return up to `documents` documents for each number of exposures, and how many were left out and why.

    Of held-out documents there is a sample of their own, before those of training.

    Args:
        least_tokens: of the part of a document; shorter ones are left out.

    Raises:
        RequestError: when no document is left.
    """
    usable = [_usable(source, least_tokens) for source in sources]
    left_out = {why: sum(int(found[why].sum()) for found in usable) for why in ("cut", "repeated", "short")}
    levels = sorted(
        {(not s.held_out, int(n)) for s, u in zip(sources, usable, strict=True) for n in s.exposures[u["left"]]}
    )
    samples = [_sample(sources, usable, not fed, exposures, documents, seed) for fed, exposures in levels]
    if not samples:
        raise RequestError(f"no document has {least_tokens} tokens in one sample: ask for a smaller --k")
    return samples, left_out


def _usable(source: Source, least_tokens: int) -> dict[str, NDArray[np.bool_]]:
    """Return which documents of a source are left out for what, each for one reason, and which are left."""
    cut = ~source.documents.whole
    repeated = source.repeated & ~cut
    short = (source.documents.tokens < least_tokens) & ~cut & ~repeated
    return {"cut": cut, "repeated": repeated, "short": short, "left": ~(cut | repeated | short)}


def _sample(
    sources: Sequence[Source],
    usable: Sequence[dict[str, NDArray[np.bool_]]],
    held_out: bool,
    exposures: int,
    documents: int,
    seed: int,
) -> Sample:
    found: list[tuple[int, int, int]] = []  # word, source, row
    in_all = 0
    for i, (source, own) in enumerate(zip(sources, usable, strict=True)):
        rows = np.flatnonzero(own["left"] & (source.exposures == exposures) & (source.held_out == held_out))
        words, in_all = source.documents.words(seed)[rows], in_all + len(rows)
        first = np.argsort(words, kind="stable")[:documents]
        found += [(int(words[j]), i, int(rows[j])) for j in first]
    taken = [_document(sources[i], row, word) for word, i, row in sorted(found)[:documents]]
    return Sample(exposures, held_out, in_all, tuple(taken))


def _document(source: Source, row: int, word: int) -> Document:
    documents = source.documents
    begin, n = int(documents.begins[row]), int(documents.tokens[row])
    text = SampleReader.of(source.artifact).read([documents.samples[row]])[0, begin : begin + n]
    return Document(source.name, documents.keys[row].tobytes().hex(), word, text)


def know(
    checkpoint: Checkpoint,
    sample: Sample,
    k: int,
    noise_samples: int,
    seed: int,
    batch_tokens: int,
    tick: Callable[[int], None] = lambda n: None,
) -> list[Known]:
    """Return what a model knows of each document of `sample`.

    Args:
        k: tokens at the end of each part that it is to write, given those before.
        noise_samples: of a bound.
        tick: called with the number of documents just finished.

    Raises:
        WorkError: when the model gives a document no finite likelihood.
    """
    ids, seq_len = checkpoint.card.tokenizer, checkpoint.card.seq_len
    eod, mask = ids["eod"], ids["mask"]
    scorer = Scorer(checkpoint.model, eod, mask, seq_len, noise_samples, seed, batch_tokens)
    known: list[Known] = []
    for start in range(0, len(sample.taken), _AT_ONCE):
        part = sample.taken[start : start + _AT_ONCE]
        before = np.array([eod])
        scores = scorer.score([Texts(before, (own.text,), own.word >> (64 - _KEY_BITS)) for own in part])
        for own, (score,) in zip(part, scores, strict=True):
            if not math.isfinite(score.nats):
                raise WorkError(f"{checkpoint.name} gives document {own.key} no finite likelihood: it is damaged")
            written = reproduces(checkpoint.model, [eod, *own.text[:-k].tolist()], own.text[-k:].tolist(), mask)
            known.append(Known(own.source, own.key, sample.exposures, len(own.text), score.nats, written))
            tick(1)
    return known


def reproduces(model: Transformer, before: Sequence[int], continuation: Sequence[int], mask: int) -> bool:
    """Return whether `eval.generate` writes `continuation` after `before`, its likeliest token at every step.

    Masked diffusion writes the surest position first, one a read. The first wrong token ends it.
    """
    new: list[int] = []
    for new in frames(model, before, mask, Sampling(max_new_tokens=len(continuation), order="confidence")):
        if any(found not in (wanted, mask) for found, wanted in zip(new, continuation, strict=False)):
            return False
    return new == list(continuation)


def summarise(sample: Sample, known: Sequence[Known]) -> Row:
    """Return the figures of one sample's documents, of which there is at least one."""
    from scipy.stats import binomtest

    nats, tokens = np.array([one.nats for one in known]), np.array([one.tokens for one in known])
    n, mean = len(known), float(nats.sum() / tokens.sum())
    spread = float(np.square(nats - mean * tokens).sum())  # of a ratio of two sums
    reproduced = sum(one.reproduced for one in known)
    interval = binomtest(reproduced, n).proportion_ci(method="wilson")
    return Row(
        exposures=sample.exposures,
        held_out=sample.held_out,
        documents=n,
        in_all=sample.in_all,
        tokens=int(tokens.sum()),
        per_token=mean,
        per_token_se=math.sqrt(n / (n - 1) * spread) / float(tokens.sum()) if n > 1 else None,
        reproduced=reproduced,
        share=reproduced / n,
        share_low=float(interval.low),
        share_high=float(interval.high),
    )
