"""Multiple choice: how likely a model finds each answer given its question.

An autoregressive model's conditional log-likelihood is exact. What answers share is read once: a question and all its
answers are one row in which no answer sees another, and a prefix that all rows of a batch share (few-shot examples) is
read once and kept as keys and values. A masked-diffusion model's is bounded: noise is on the answer only, the question
always visible, mask counts stratified (`objective.nelbo`); a one-token answer needs one sample and is exact. Under a
stated order of writing (`exact.writing`) it is exact: the question stands there, and the answer is written.

Both read EOD first, which is how documents begin in training.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..exact.blocks import NEXT_BLOCK, steps_of
from ..exact.orders import choose, scores_of
from ..exact.writing import Text, write
from ..exact.writing_order import WritingOrder
from ..model.kv_cache import KVCache
from ..model.transformer import Transformer
from ..objective import documents
from ..objective.nelbo import MaskSet, estimate, masks_for

TokenIds = NDArray[np.int64]

TIGHTEST = 0.85
"""The shortest row of a batch over its longest, at least: so padding is never more than 15 % of what is read."""

SHARED_PREFIX = 32
"""Tokens that the rows of a batch must share before it is worth reading them apart."""


class Group(NamedTuple):
    """A context and the answers that follow it.

    Attributes:
        key: noise position of the first answer; the others' follow.
        family: groups of one family begin alike (they have the same examples) and are read in batches of their own.
    """

    context: TokenIds
    answers: tuple[TokenIds, ...]
    key: int = 0
    family: str = ""


class Score(NamedTuple):
    """Nats of one answer given its context: the NLL, or the bound with the standard error that noise leaves.

    Attributes:
        greedy: whether the model would write this answer itself; None where it was not asked for.
    """

    nats: float
    se: float
    greedy: bool | None


@dataclass
class Work:
    """What scoring cost.

    Attributes:
        sequences: rows of model input.
        real: tokens of them without and with padding.
        padded: tokens of them without and with padding.
    """

    sequences: int = 0
    real: int = 0
    padded: int = 0
    seconds: float = 0.0
    truncated: int = 0

    @property
    def padding_waste(self) -> float:
        """Return the share of tokens read that are padding."""
        return 1 - self.real / self.padded if self.padded else 0.0


@dataclass
class Scorer:
    """Scores answers with one model.

    Attributes:
        eod: ids.
        mask: ids.
        limit: longest text in tokens, the length trained on.
        draws: noise samples and seed of a masked-diffusion model.
        seed: noise samples and seed of a masked-diffusion model.
        batch_tokens: tokens read at a time, padding included.
        greedy: also find out whether each answer is what the model would write.
        writing: the order in which a masked-diffusion model writes answers: exact likelihoods in place of bounds.
    """

    model: Transformer
    eod: int
    mask: int
    limit: int
    draws: int = 128
    seed: int = 0
    batch_tokens: int = 16384
    greedy: bool = False
    writing: WritingOrder | None = None
    work: Work = field(default_factory=Work)
    _prefix: TokenIds | None = None
    _cache: KVCache | None = None

    @torch.no_grad()
    def score(self, groups: Sequence[Group]) -> list[list[Score]]:
        """Return a score for each answer of each group.

        A text longer than the model was trained on loses tokens of its context after the first (EOD); an answer that
        is too long by itself is read whole. `work.truncated` counts both. A document-masked model reads the last
        document of a context.
        """
        started = time.monotonic()
        groups = [self._within(self._fit(group)) for group in groups]
        if self.model.config.causal:
            scores = self._autoregressive(groups)
        else:
            scores = self._written(groups, self.writing) if self.writing else self._masked(groups)
        self.work.seconds += time.monotonic() - started
        return scores

    def _fit(self, group: Group) -> Group:
        longest = max(len(a) for a in group.answers)
        if len(group.context) + longest <= self.limit:
            return group
        self.work.truncated += 1
        room = max(1, self.limit - longest)
        tail = group.context[max(1, len(group.context) - (room - 1)) :]
        return group._replace(context=np.concatenate([group.context[:1], tail]))

    def _within(self, group: Group) -> Group:
        c = self.model.config
        return group._replace(context=documents.last(group.context, self.eod, c.causal)) if c.document_mask else group

    def _count(self, rows: int, real: int, padded: int) -> None:
        self.work.sequences += rows
        self.work.real += real
        self.work.padded += padded

    # Autoregressive: one row per group, batches of similar length.

    def _autoregressive(self, groups: Sequence[Group]) -> list[list[Score]]:
        lengths = [len(g.context) + sum(len(a) - 1 for a in g.answers) for g in groups]
        families = [g.family for g in groups]
        scores: list[list[Score]] = [[] for _ in groups]
        for batch in batches_of(families, lengths, self.batch_tokens):
            for i, row in zip(batch, self._score_trees([groups[i] for i in batch]), strict=True):
                scores[i] = row
        return scores

    def _score_trees(self, groups: Sequence[Group]) -> list[list[Score]]:
        device = self.model.device
        shared = _common_prefix([g.context for g in groups])
        shared = 0 if shared < SHARED_PREFIX or len(groups) == 1 else shared
        cache = self._prefix_cache(groups[0].context[:shared]) if shared else None
        trees = [_tree(g, shared) for g in groups]
        length = max(len(t.tokens) for t in trees)
        self._count(len(groups), sum(len(t.tokens) for t in trees), len(groups) * length)
        tokens, positions, branch = (
            torch.from_numpy(np.stack([np.pad(x, (0, length - len(x)), constant_values=fill) for x in columns]))
            for columns, fill in (
                ([t.tokens for t in trees], 0),
                ([t.positions for t in trees], 0),
                ([t.branch for t in trees], -1),
            )
        )
        mask = _tree_mask(branch, shared)
        hidden = self.model.hidden_states(tokens.to(device), mask.to(device), positions, cache).flatten(0, 1)
        at = np.concatenate([row * length + t.target_positions for row, t in enumerate(trees)])
        labels = np.concatenate([a for g in groups for a in g.answers])
        hidden = hidden.index_select(0, torch.from_numpy(at).to(device))
        nats = self.model.nll(hidden, torch.from_numpy(labels).to(device)).double().cpu().numpy()
        hits = self._hits(hidden, labels) if self.greedy else None
        return _cut([len(g.answers) for g in groups], [len(a) for g in groups for a in g.answers], nats, hits)

    def _hits(self, hidden: Tensor, labels: TokenIds) -> NDArray[np.bool_]:
        best = []
        for part in hidden.split(1024):
            logits = self.model.logits(part)
            logits[:, self.mask] = -torch.inf  # never written, whatever its score
            best.append(logits.argmax(-1))
        return torch.cat(best).cpu().numpy() == labels

    def _prefix_cache(self, prefix: TokenIds) -> KVCache:
        """Return the keys and values of `prefix`; those of the last one are remembered."""
        if self._cache is None or self._prefix is None or not np.array_equal(prefix, self._prefix):
            cache = KVCache(self.model.config.layers)
            self.model.hidden_states(torch.from_numpy(prefix[None]).to(self.model.device), cache=cache)
            cache.set_keep(False)
            self._count(1, len(prefix), len(prefix))
            self._prefix, self._cache = prefix, cache
        return self._cache

    # Masked diffusion in an order of writing: one row per answer, read again for every step.

    def _written(self, groups: Sequence[Group], writing: WritingOrder) -> list[list[Score]]:
        texts = [Text(g.context, answer) for g in groups for answer in g.answers]
        nats = np.zeros(len(texts))
        lengths = [len(t.context) + len(t.answer) for t in texts]
        for batch in batches_of([""] * len(texts), lengths, self.batch_tokens):
            written = write(self.model, self.mask, [texts[i] for i in batch], writing)
            nats[batch] = written.nats
            self._count(written.reads, written.real, written.padded)
        hits = [self._would_unmask(*text) if self.greedy else None for text in texts]
        scores = iter([Score(float(n), 0.0, hit) for n, hit in zip(nats, hits, strict=True)])
        return [[next(scores) for _ in g.answers] for g in groups]

    # Masked diffusion: one row per noise sample, batches of similar length over all answers.

    def _masked(self, groups: Sequence[Group]) -> list[list[Score]]:
        jobs = [
            _Job(i, j, context, part, masks_for(len(part), self.draws, self.seed, g.key + j + block * NEXT_BLOCK))
            for i, g in enumerate(groups)
            for j, answer in enumerate(g.answers)
            for block, (context, part) in enumerate(self._steps(g.context, answer))
        ]
        nats = [np.zeros(len(job.masks.masks)) for job in jobs]
        for part in _row_batches(jobs, self.batch_tokens):
            values = self._masked_batch([(jobs[j], rows) for j, rows in part])
            for (j, rows), value in zip(part, values, strict=True):
                nats[j][rows] = value
        found: dict[tuple[int, int], list[tuple[float, float]]] = {}
        for job, value in zip(jobs, nats, strict=True):
            found.setdefault((job.group, job.choice), []).append(estimate(value, job.masks))
        scores: list[list[Score]] = [[] for _ in groups]
        for (i, j), parts in found.items():
            greedy = self._would_unmask(groups[i].context, groups[i].answers[j]) if self.greedy else None
            scores[i].append(Score(sum(v for v, _ in parts), math.hypot(*(error for _, error in parts)), greedy))
        return scores

    def _steps(self, context: TokenIds, answer: TokenIds) -> Iterator[tuple[TokenIds, TokenIds]]:
        """Iterate what is explained given what: an answer after its context, of block diffusion block by block."""
        return steps_of(context, answer, self.model.config.block_size)

    def _masked_batch(self, part: Sequence[tuple["_Job", slice]]) -> list[NDArray[np.float64]]:
        device = self.model.device
        sizes = [len(range(*rows.indices(len(job.masks.masks)))) for job, rows in part]
        length = max(job.length for job, _ in part)
        inputs = np.zeros((sum(sizes), length), np.int64)
        targets = np.zeros(inputs.shape, np.bool_)
        labels = np.zeros_like(inputs)
        attention_mask = np.zeros(inputs.shape, np.bool_)
        start = 0
        for (job, rows), size in zip(part, sizes, strict=True):
            block, at = slice(start, start + size), len(job.context)
            masks = job.masks.masks[rows]
            inputs[block, :at] = job.context
            inputs[block, at : job.length] = np.where(masks, self.mask, job.answer)
            targets[block, at : job.length] = masks
            labels[block, at : job.length] = job.answer
            attention_mask[block, : job.length] = True
            start += size
        self._count(len(inputs), int(attention_mask.sum()), inputs.size)
        nats = self.model(
            torch.from_numpy(inputs).to(device),
            None if attention_mask.all() else torch.from_numpy(attention_mask).to(device),
            torch.from_numpy(np.flatnonzero(targets)).to(device),
            torch.from_numpy(labels[targets]).to(device),
        )
        sums = np.bincount(np.nonzero(targets)[0], nats.double().cpu().numpy(), minlength=len(inputs))
        return np.split(sums, np.cumsum(sizes)[:-1])

    def _would_unmask(self, context: TokenIds, answer: TokenIds) -> bool:
        """Return whether unmasking in the order of writing (the surest token first, one a step, unless another is
        asked for) writes `answer`."""
        return all(self._would_unmask_block(*step) for step in self._steps(context, answer))

    def _would_unmask_block(self, context: TokenIds, answer: TokenIds) -> bool:
        writing = self.writing or WritingOrder("confidence")
        device = self.model.device
        tokens = torch.from_numpy(np.concatenate([context, np.full(len(answer), self.mask)]))[None].to(device)
        masked = torch.arange(len(context), tokens.shape[1], device=device)
        waiting = np.ones((1, len(answer)), np.bool_)
        while waiting.any():
            logits = self.model.logits(self.model.hidden_states(tokens)[0, masked])
            logits[:, self.mask] = -torch.inf
            scores = scores_of(logits, writing.order).double().cpu().numpy()[None]
            chosen = np.flatnonzero(choose(scores, waiting, writing.tokens_per_step))
            if (logits.argmax(-1).cpu().numpy()[chosen] != answer[chosen]).any():
                return False
            tokens[0, len(context) + chosen], waiting[0, chosen] = torch.from_numpy(answer[chosen]).to(device), False
        return True


class _Job(NamedTuple):
    """An answer of a masked-diffusion model, or its part in one block, with its noise."""

    group: int
    choice: int
    context: TokenIds
    answer: TokenIds
    masks: MaskSet

    @property
    def length(self) -> int:
        return len(self.context) + len(self.answer)


class _Tree(NamedTuple):
    """A context and its answers as one row. branch: 0 for the context, 1 + i for answer i. target_positions: of the
    tokens that predict the answers' tokens, in order of the answers."""

    tokens: TokenIds
    positions: TokenIds
    branch: TokenIds
    target_positions: TokenIds


def _tree(group: Group, skip: int) -> _Tree:
    """Return the row of `group` without its first `skip` tokens, which a cache holds."""
    context = group.context[skip:]
    tokens, positions, branch = [context], [np.arange(skip, len(group.context))], [np.zeros_like(context)]
    targets = []
    at = len(context)
    for i, answer in enumerate(group.answers, 1):
        inner = len(answer) - 1  # the last token predicts nothing
        tokens.append(answer[:-1])
        positions.append(len(group.context) + np.arange(inner))
        branch.append(np.full(inner, i))
        targets.append(np.concatenate([[len(context) - 1], at + np.arange(inner)]))
        at += inner
    return _Tree(*(np.concatenate(x).astype(np.int64) for x in (tokens, positions, branch, targets)))


def _tree_mask(branch: Tensor, shared: int) -> Tensor:
    """Return bool (rows, 1, length, shared + length): a token sees the shared prefix, earlier tokens of the context
    and earlier ones of its own answer. Padding (branch -1) sees itself, so that no row is empty."""
    length = branch.shape[1]
    own = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    own &= torch.ones(length, length, dtype=torch.bool).tril()
    seen = torch.ones(len(branch), length, shared, dtype=torch.bool)
    return torch.cat((seen, own), 2)[:, None]


def _common_prefix(contexts: Sequence[TokenIds]) -> int:
    """Return how many first tokens all contexts share, at least one token of each left over."""
    length = min(len(c) for c in contexts) - 1
    first = contexts[0][:length]
    for context in contexts[1:]:
        differs = np.flatnonzero(context[: len(first)] != first)
        first = first[: differs[0]] if len(differs) else first
    return len(first)


def _cut(
    answers: Sequence[int], lengths: Sequence[int], nats: NDArray[np.float64], hits: NDArray[np.bool_] | None
) -> list[list[Score]]:
    """Return the scores of each group from the nats of all their answers' tokens in a row."""
    ends = np.cumsum(lengths)
    scores = [
        Score(float(nats[end - n : end].sum()), 0.0, None if hits is None else bool(hits[end - n : end].all()))
        for n, end in zip(lengths, ends, strict=True)
    ]
    stops = np.cumsum(answers)
    return [scores[stop - n : stop] for n, stop in zip(answers, stops, strict=True)]


def batches_of(families: Sequence[str], lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Return indices in batches of one family each, shortest first, rows times the longest within `batch_tokens`
    and padding within what `TIGHTEST` allows."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (families[i], lengths[i], i)):
        full = not batches or (len(batches[-1]) + 1) * lengths[i] > batch_tokens
        if full or families[batches[-1][0]] != families[i] or lengths[batches[-1][0]] < TIGHTEST * lengths[i]:
            batches.append([])
        batches[-1].append(i)
    return batches


def _row_batches(jobs: Sequence[_Job], batch_tokens: int) -> list[list[tuple[int, slice]]]:
    """Return all rows of all jobs, shortest first, cut as `batches_of` cuts; a job may be cut too."""
    batches: list[list[tuple[int, slice]]] = [[]]
    held = 0
    for j in sorted(range(len(jobs)), key=lambda j: (jobs[j].length, j)):
        rows, start = len(jobs[j].masks.masks), 0
        while start < rows:
            room = batch_tokens // jobs[j].length - held
            loose = held and jobs[batches[-1][0][0]].length < TIGHTEST * jobs[j].length
            if held and (room < 1 or loose):
                batches.append([])
                held = 0
                continue
            stop = min(rows, start + max(1, room))
            batches[-1].append((j, slice(start, stop)))
            held, start = held + stop - start, stop
    return [batch for batch in batches if batch]
