"""The exact negative log-likelihood of texts that a masked-diffusion model writes in a stated order.

    NLL = sum over steps, over the positions that the rule names, of -log p(their token | what is written)

with p over all ids, as in the bound and in an autoregressive model's likelihood. n tokens cost n / tokens_per_step
reads of the whole text. Nothing of a read can be kept for the next one: attention goes both ways, so a token that is
written anywhere changes the keys and values of all others, left to right too. What is saved: rows that are finished are
not read again, padding goes with the longest of them, and the output head sees only positions that wait (in
left-to-right order only those that are written next).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...common.errors import WorkError
from ..model.transformer import Transformer
from .blocks import steps_of
from .orders import Places, Scores, choose, scores_of, undecided
from .writing_order import WritingOrder

TokenIds = NDArray[np.int64]

NOISE = {torch.float64: 2.0**-32, torch.float32: 2.0**-15}
"""Nats by which a score may differ with the rows that are read beside it. Where that could change a choice, the row is
read by itself and decides alone; with other types of numbers, which round more, every row is."""

CHUNK_ELEMENTS = {"cpu": 2**22}
"""Logits held at a time; elsewhere 2^28, 1 GiB in float32."""


class Text(NamedTuple):
    """What is written, int64 (n,) with n >= 1, after a context that stands there from the start, int64 (m,)."""

    context: TokenIds
    answer: TokenIds


class Written(NamedTuple):
    """What a batch came to.

    Attributes:
        nats: float64 (texts,).
        reads: rows of model input.
        real: tokens of them without padding.
        padded: and with it.
    """

    nats: NDArray[np.float64]
    reads: int
    real: int
    padded: int


@dataclass
class _Page:
    """Texts of a batch on their way, arrays (rows, length): what the model reads, what is to stand there, what still
    waits, and what is no padding."""

    inputs: TokenIds
    labels: TokenIds
    waiting: Places
    real: Places

    def part(self, rows: NDArray[np.int64]) -> "_Page":
        """Return a copy of some rows without the padding that they do not need."""
        n = int(self.real[rows].sum(1).max())
        return _Page(self.inputs[rows, :n], self.labels[rows, :n], self.waiting[rows, :n], self.real[rows, :n])


@torch.no_grad()
def write(model: Transformer, mask: int, texts: Sequence[Text], writing: WritingOrder) -> Written:
    """Return the nats of each of `texts`, which are read together: let them be of similar length.

    Which positions are named does not depend on what else is in the batch; see `NOISE`. Block diffusion writes its
    blocks one after another, each in the order.

    Args:
        mask: the MASK id.

    Raises:
        WorkError: when the model gives no finite scores.
    """
    if model.config.block_size is not None:
        return _by_blocks(model, mask, texts, writing)
    return _write(model, mask, texts, writing)


def _by_blocks(model: Transformer, mask: int, texts: Sequence[Text], writing: WritingOrder) -> Written:
    """Write the first block of each text together, then the second of each that has one, and so on."""
    parts = [list(steps_of(*text, model.config.block_size)) for text in texts]
    nats, counts = np.zeros(len(texts)), np.zeros(3, np.int64)
    for block in range(max(len(own) for own in parts)):
        which = [i for i, own in enumerate(parts) if block < len(own)]
        written = _write(model, mask, [Text(*parts[i][block]) for i in which], writing)
        nats[which] += written.nats
        counts += written[1:]
    return Written(nats, *counts.tolist())


def _write(model: Transformer, mask: int, texts: Sequence[Text], writing: WritingOrder) -> Written:
    if len(texts) > 1 and writing.order != "left_to_right" and model.embedding.weight.dtype not in NOISE:
        single = [_write(model, mask, [text], writing) for text in texts]
        counts = np.array([one[1:] for one in single]).sum(0).tolist()
        return Written(np.concatenate([one.nats for one in single]), *counts)
    page = _page(texts, mask)
    nats = np.zeros(len(texts))
    reads = real = padded = 0
    while len(rows := np.flatnonzero(page.waiting.any(1))):
        part = page.part(rows)
        reads, real, padded = reads + len(rows), real + int(part.real.sum()), padded + part.real.size
        chosen, values, again = _step(model, mask, part, writing)
        reads, real, padded = reads + len(again), real + again.sum(), padded + again.sum()
        nats[rows] += values
        at = np.nonzero(chosen)
        page.inputs[rows[at[0]], at[1]] = part.labels[at]
        page.waiting[rows[at[0]], at[1]] = False
    return Written(nats, reads, int(real), int(padded))


def _page(texts: Sequence[Text], mask: int) -> _Page:
    length = max(len(t.context) + len(t.answer) for t in texts)
    inputs, labels = (np.zeros((len(texts), length), np.int64) for _ in range(2))
    waiting, real = (np.zeros((len(texts), length), np.bool_) for _ in range(2))
    for i, (context, answer) in enumerate(texts):
        start, stop = len(context), len(context) + len(answer)
        inputs[i, :start], inputs[i, start:stop], labels[i, start:stop] = context, mask, answer
        waiting[i, start:stop], real[i, :stop] = True, True
    return _Page(inputs, labels, waiting, real)


def _step(
    model: Transformer, mask: int, page: _Page, writing: WritingOrder
) -> tuple[Places, NDArray[np.float64], NDArray[np.int64]]:
    """Return what is written next, bool (rows, length), its nats, float64 (rows,), and the lengths of the rows that
    were read once more by themselves."""
    rows, noise = len(page.inputs), NOISE.get(model.embedding.weight.dtype, math.inf)
    if writing.order == "left_to_right":
        chosen = choose(np.zeros(page.waiting.shape), page.waiting, writing.tokens_per_step)
        nats = _read(model, mask, page, chosen, writing)[1]
        return chosen, nats.sum(1), np.zeros(0, np.int64)
    scores, nats = _read(model, mask, page, page.waiting, writing)
    chosen = choose(scores, page.waiting, writing.tokens_per_step)
    open_rows = undecided(scores, page.waiting, chosen, noise) if rows > 1 else np.zeros(rows, np.bool_)
    close = np.flatnonzero(open_rows)
    lengths = page.real[close].sum(1)
    for row, length in zip(close, lengths, strict=True):
        alone = page.part(np.array([row]))
        own, values = _read(model, mask, alone, alone.waiting, writing)
        chosen[row, :length] = choose(own, alone.waiting, writing.tokens_per_step)[0]
        nats[row, :length] = values[0]
    return chosen, np.where(chosen, nats, 0.0).sum(1), lengths


def _read(
    model: Transformer, mask: int, page: _Page, places: Places, writing: WritingOrder
) -> tuple[Scores, NDArray[np.float64]]:
    """Return scores and nats of the tokens to be written, float64 (rows, length), 0 outside `places`."""
    device = model.device
    attention_mask = None if page.real.all() else torch.from_numpy(page.real).to(device)
    hidden = model.hidden_states(torch.from_numpy(page.inputs).to(device), attention_mask).flatten(0, 1)
    hidden = hidden.index_select(0, torch.from_numpy(np.flatnonzero(places)).to(device))
    found = _head(model, mask, hidden, torch.from_numpy(page.labels[places]).to(device), writing)
    if not np.isfinite(found).all():
        raise WorkError("the model gives a text no finite likelihood: its weights are damaged")
    scores, nats = np.zeros(places.shape), np.zeros(places.shape)
    scores[places], nats[places] = found
    return scores, nats


def _head(model: Transformer, mask: int, hidden: Tensor, labels: Tensor, writing: WritingOrder) -> NDArray[np.float64]:
    """Return scores and nats of `labels`, float64 (2, positions); the rule never sees MASK, which is never written."""
    rows = max(1, CHUNK_ELEMENTS.get(hidden.device.type, 2**28) // model.config.padded_vocab)
    scores, nats = [], []
    for part, label in zip(hidden.split(rows), labels.split(rows), strict=True):
        logits = model.logits(part)
        nats.append(F.cross_entropy(logits, label, reduction="none"))
        logits[:, mask] = -torch.inf
        scores.append(scores_of(logits, writing.order))
    return torch.stack([torch.cat(scores), torch.cat(nats)]).double().cpu().numpy()
