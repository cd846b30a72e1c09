"""Likelihoods of a model on an artifact: every figure a record that says what kind it is and how it was made.

An autoregressive model's negative log-likelihood (NLL) is exact, and so are that of block diffusion in blocks of one
token and a masked-diffusion model's under a stated order of writing (`exact.writing`): all are likelihoods of
distributions over the same texts. Without an order a masked-diffusion model's, or that of larger blocks, is only
bounded from above (NELBO); set beside an NLL it may overstate the model's loss, never understate it. Nothing here puts
the two side by side without saying which is which.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ...common.errors import RequestError
from ...shards.artifact import Artifact
from ...shards.loader.sample_reader import SampleReader
from ..checkpoint import ModelCard
from ..exact.blocks import bound
from ..exact.writing import Text, write
from ..exact.writing_order import WritingOrder
from ..model.transformer import Transformer
from ..objective import documents
from ..objective.nelbo import estimate, masks_for
from .scoring import batches_of

Kind = Literal["nll", "nelbo"]
Tick = Callable[[int], None]
KIND_NAMES = {"nll": "NLL (exact)", "nelbo": "NELBO (upper bound)"}


@dataclass(frozen=True)
class Likelihood:
    """One measured likelihood.

    Attributes:
        nats: of all tokens together.
        nats_se: standard error that noise leaves (NLL: 0; one noise sample: NaN); the choice of texts is no part of it.
        noise_samples: inputs per sample (0 for NLL), drawn with `seed`.
        tokens: PAD excluded, EOD included.
        bytes: UTF-8 bytes of the text, None where the tokenizer's bytes are not known.
        samples: rows read.
        data: fingerprints.
        model: fingerprints.
        name: of the model, for people.
        order: of writing, of a masked-diffusion model's NLL; None for all others.
        tokens_per_step: see `order`.
        given: `lengths` where the model is told where documents end, so that the likelihood is that of the text given
            these places; None for all others.
    """

    kind: Kind
    nats: float
    nats_se: float
    noise_samples: int
    seed: int | None
    tokens: int
    bytes: int | None
    samples: int
    seq_len: int
    data: str
    model: str
    name: str
    order: str | None = None
    tokens_per_step: int | None = None
    given: str | None = None

    @property
    def per_token(self) -> float:
        """Return nats per token."""
        return self.nats / self.tokens

    @property
    def per_token_se(self) -> float:
        """Return the standard error of `per_token`."""
        return self.nats_se / self.tokens

    @property
    def bits_per_byte(self) -> float | None:
        """Return bits per UTF-8 byte, None where bytes are not known."""
        return self.nats / math.log(2) / self.bytes if self.bytes else None

    @property
    def bits_per_byte_se(self) -> float | None:
        """Return the standard error of `bits_per_byte`."""
        return self.nats_se / math.log(2) / self.bytes if self.bytes else None

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and derived figures; what is not a number is None."""
        derived = ("per_token", "per_token_se", "bits_per_byte", "bits_per_byte_se")
        body = asdict(self) | {key: getattr(self, key) for key in derived}
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in body.items()}


COLUMNS = (
    *("name", "kind", "order", "tokens_per_step", "per_token", "per_token_se", "bits_per_byte"),
    *("noise_samples", "seed", "tokens", "data", "given"),
)
MUST_SHOW = {
    "kind": "an NLL and a NELBO",
    "data": "likelihoods of different texts",
    "order": "likelihoods under different orders of writing",
    "tokens_per_step": "likelihoods with different numbers of tokens a step",
    "given": "likelihoods of texts, and of texts given where their documents end,",
}
"""Columns that a table needs where its records differ in them, and what would stand side by side without them."""


def table(records: Sequence[Likelihood], columns: Sequence[str] = COLUMNS) -> list[dict[str, Any]]:
    """Return one row per record with the fields and derived figures named in `columns`.

    Raises:
        RequestError: when records that differ in one of `MUST_SHOW` would stand side by side without it.
    """
    for key, what in MUST_SHOW.items():
        if key not in columns and len({getattr(r, key) for r in records}) > 1:
            raise RequestError(f"{what} are no figures of one column: add the column '{key}'")
    known = set(records[0].to_dict()) if records else set(columns)
    unknown = [c for c in columns if c not in known]
    if unknown:
        raise RequestError(f"a likelihood has no '{unknown[0]}': known are {', '.join(sorted(known))}")
    return [{column: record.to_dict()[column] for column in columns} for record in records]


def difference(a: Likelihood, b: Likelihood, bound: bool = False) -> tuple[float, float]:
    """Return a - b in nats per token and its standard error.

    Args:
        bound: allow a NELBO minus an NLL, which is an upper bound of the difference in likelihood (what `a` gains by it
            is certain, what it lacks is not).

    Raises:
        RequestError: for other mixtures of kinds, and for different texts.
    """
    if a.data != b.data or a.tokens != b.tokens:
        raise RequestError(f"{a.name} and {b.name} were measured on different texts: their difference means nothing")
    if a.given != b.given:
        told, other = (a, b) if a.given else (b, a)
        raise RequestError(
            f"{told.name} was told where documents end, {other.name} was not: their difference means nothing"
        )
    if a.kind != b.kind and not (bound and (a.kind, b.kind) == ("nelbo", "nll")):
        raise RequestError(
            f"{a.name} has a {a.kind.upper()} and {b.name} a {b.kind.upper()}: "
            "only NELBO minus NLL has a meaning, as a bound (bound=True)"
        )
    return a.per_token - b.per_token, math.hypot(a.per_token_se, b.per_token_se)


_ROWS_AT_ONCE = 256


class Rows:
    """The first samples of an artifact as int64 rows with their numbers of real tokens.

    Raises:
        WorkError: when the rows are read, where a shard is damaged: each is hashed once.
    """

    def __init__(self, artifact: Artifact, samples: int | None = None) -> None:
        m = artifact.manifest
        self.manifest = m
        self.samples = min(samples or m.samples, m.samples)
        self.tokens = min(m.tokens, self.samples * m.seq_len)
        self._reader = SampleReader.of(artifact)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Iterate rows without their PAD, int64 (real tokens,)."""
        m, left = self.manifest, self.tokens
        for start in range(0, self.samples, _ROWS_AT_ONCE):
            for row in self._reader.read(np.arange(start, min(start + _ROWS_AT_ONCE, self.samples))):
                yield row[: min(left, m.seq_len)]
                left -= m.seq_len


@torch.no_grad()
def measure(
    model: Transformer,
    card: ModelCard,
    artifact: Artifact,
    *,
    samples: int | None = None,
    noise_samples: int = 8,
    seed: int = 0,
    writing: WritingOrder | None = None,
    byte_lengths: NDArray[np.int64] | None = None,
    batch_tokens: int = 16384,
    name: str = "model",
    model_fingerprint: str = "",
    tick: Tick = lambda n: None,
) -> Likelihood:
    """Return the model's likelihood of the first `samples` samples of `artifact` (all when None).

    Args:
        writing: the order in which a masked-diffusion model writes: the exact likelihood in place of the bound.
        byte_lengths: int64 (vocab_size,), UTF-8 bytes of each id.
        batch_tokens: read at a time.
        tick: called with the number of samples just finished.

    Raises:
        RequestError: when the artifact was not tokenized as the model's data was.
    """
    check_tokenizer(card, artifact)
    rows = Rows(artifact, samples)
    writing = None if model.config.exact else writing
    exact = model.config.exact or writing is not None
    nats, variance, n_bytes = 0.0, 0.0, 0
    if writing:
        ids = card.tokenizer["eod"], card.tokenizer["mask"]
        scored = written(model, ids, rows, writing, batch_tokens)
    elif model.config.causal:
        scored = _nll(model, card.tokenizer["eod"], rows, batch_tokens)
    else:
        scored = ((r, *_nelbo(model, card, r, i, noise_samples, seed, batch_tokens)) for i, r in enumerate(rows))
    for row, value, error in scored:
        nats, variance = nats + value, variance + error**2
        n_bytes += int(byte_lengths[row].sum()) if byte_lengths is not None else 0
        tick(1)
    return Likelihood(
        kind="nll" if exact else "nelbo",
        nats=nats,
        nats_se=math.sqrt(variance),
        noise_samples=0 if exact else noise_samples,
        seed=None if exact else seed,
        tokens=rows.tokens,
        bytes=n_bytes or None,
        samples=rows.samples,
        seq_len=rows.manifest.seq_len,
        data=rows.manifest.fingerprint,
        model=model_fingerprint,
        name=name,
        order=writing.order if writing else None,
        tokens_per_step=writing.tokens_per_step if writing else None,
        given="lengths" if model.config.document_mask and not model.config.causal else None,
    )


def check_tokenizer(card: ModelCard, artifact: Artifact) -> None:
    """Raise RequestError unless the artifact's ids mean to the model what its training data's did."""
    found, wanted = artifact.manifest.tokenizer.model_dump(), card.tokenizer
    if any(found[k] != wanted.get(k) for k in ("fingerprint", "vocab_size", "eod", "pad", "mask")):
        raise RequestError(
            f"{artifact.root} was tokenized with {found['name']} ({found['vocab_size']} ids), "
            f"the model's data with {wanted.get('name')} ({wanted.get('vocab_size')}): measure on its own pool"
        )


def written(
    model: Transformer,
    ids: tuple[int, int],
    rows: Iterable[NDArray[np.int64]],
    writing: WritingOrder,
    batch_tokens: int,
) -> Iterator[tuple[NDArray[np.int64], float, float]]:
    """Iterate (row, exact nats, 0) of a masked-diffusion model, rows of equal length read together; a document-masked
    model writes each document by itself.

    Args:
        ids: EOD and MASK.
    """
    mask, nothing = ids[1], np.zeros(0, np.int64)
    if model.config.document_mask:
        yield from ((row, _documents_written(model, ids, row, writing, batch_tokens), 0.0) for row in rows)
        return
    for batch in _of_equal_length(rows, batch_tokens):
        nats = write(model, mask, [Text(nothing, own) for own in batch], writing).nats
        yield from ((own, float(value), 0.0) for own, value in zip(batch, nats, strict=True))


def _of_equal_length(rows: Iterable[NDArray[np.int64]], batch_tokens: int) -> Iterator[list[NDArray[np.int64]]]:
    """Iterate rows that follow each other and are equally long, at most `batch_tokens` of their tokens at a time."""
    batch: list[NDArray[np.int64]] = []
    for row in rows:
        if batch and (len(row) != len(batch[0]) or (len(batch) + 1) * len(row) > batch_tokens):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _documents_written(
    model: Transformer, ids: tuple[int, int], row: NDArray[np.int64], writing: WritingOrder, batch_tokens: int
) -> float:
    """Return the exact nats of a row's documents together, those of similar length read together."""
    texts = [Text(np.zeros(0, np.int64), part) for part in documents.parts(row, ids[0])]
    lengths = [len(text.answer) for text in texts]
    batches = batches_of([""] * len(texts), lengths, batch_tokens)
    return math.fsum(n for batch in batches for n in write(model, ids[1], [texts[i] for i in batch], writing).nats)


def _nll(
    model: Transformer, eod: int, rows: Iterable[NDArray[np.int64]], batch_tokens: int
) -> Iterator[tuple[NDArray[np.int64], float, float]]:
    """Iterate (row, exact nats, 0) of an autoregressive model, rows of equal length read together."""
    for batch in _of_equal_length(rows, batch_tokens):
        labels = np.stack(batch)
        inputs = np.concatenate([np.full_like(labels[:, :1], eod), labels[:, :-1]], axis=1)
        told = documents.of_inputs(inputs, eod) if model.config.document_mask else None
        tokens, of = (torch.from_numpy(x).to(model.device) for x in (inputs, labels.ravel()))
        within = _for_rows(told, len(batch), model.device)
        nats = model(tokens, labels=of, documents=within).double().view(len(batch), -1).sum(1).tolist()
        yield from ((own, value, 0.0) for own, value in zip(batch, nats, strict=True))


def _for_rows(told: documents.DocumentIds | None, rows: int, device: torch.device) -> torch.Tensor | None:
    return None if told is None else torch.from_numpy(told).to(device).expand(rows, -1)


def _nelbo(
    model: Transformer, card: ModelCard, row: NDArray[np.int64], i: int, draws: int, seed: int, batch_tokens: int
) -> tuple[float, float]:
    if model.config.block_size is not None:
        return bound(model, card.tokenizer["mask"], row, draws, seed, i, batch_tokens)
    masks = masks_for(len(row), draws, seed, i)
    told = None
    if model.config.document_mask:
        told = documents.of_text(row[None], np.ones((1, len(row)), np.bool_), card.tokenizer["eod"])
    step = max(1, batch_tokens // len(row))
    parts = [
        masked_nats(model, card.tokenizer["mask"], row, masks.masks[start : start + step], told)
        for start in range(0, len(masks.masks), step)
    ]
    return estimate(np.concatenate(parts), masks)


@torch.no_grad()
def masked_nats(
    model: Transformer,
    mask_id: int,
    row: NDArray[np.int64],
    masks: NDArray[np.bool_],
    told: documents.DocumentIds | None = None,
) -> NDArray[np.float64]:
    """Return, for each mask of one text, the nats of its masked tokens together, float64 (rows,).

    Args:
        row: int64 (n,).
        masks: bool (rows, n).
        told: int32 (1, n), the document of each token, of a document-masked model.
    """
    device = model.device
    inputs = torch.from_numpy(np.where(masks, mask_id, row[None, :])).to(device)
    labels = torch.from_numpy(np.broadcast_to(row, masks.shape)[masks]).to(device)
    places = torch.from_numpy(np.flatnonzero(masks)).to(device)
    within = _for_rows(told, len(masks), device)
    nats = model(inputs, target_positions=places, labels=labels, documents=within).double().cpu().numpy()
    return np.bincount(np.nonzero(masks)[0], nats, minlength=len(masks)).astype(np.float64)
