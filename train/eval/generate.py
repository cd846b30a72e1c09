"""Text from models of every type.

Autoregressive: one token after another, keys and values of earlier ones kept. Masked diffusion: a block of MASK is
filled in over a number of steps, each of which reads everything and settles some places, those that an order of
writing names (`exact.orders`) or random ones (LLaDA; Nie et al. 2025). Blocks are written from left to right. At
temperature 1, in one block and with `tokens_per_step`, texts are drawn from the very distribution whose likelihood
`exact.writing` measures, but that MASK is never drawn. Block diffusion: the same within each of the model's own blocks,
which attend to earlier ones through their cached keys and values.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...common.errors import RequestError
from ..exact.blocks import pieces
from ..exact.orders import choose, scores_of
from ..exact.writing_order import Order
from ..model.kv_cache import KVCache
from ..model.transformer import Transformer
from ..objective import documents

FillOrder = Order | Literal["random"]


@dataclass(frozen=True)
class Sampling:
    """How to generate.

    Attributes:
        max_new_tokens: at most so many.
        temperature: 0 takes the likeliest token.
        top_p: only the likeliest tokens that together have this probability.
        seed: of all randomness.
        stop: ids that end the text and are no part of it.
        steps: masked diffusion only, as all that follow: reads per whole text (max_new_tokens when None, the best
            quality), over which tokens are shared out evenly.
        order: which places are settled first.
        block: tokens that are filled in together (all when None).
        tokens_per_step: instead of steps: tokens settled by each read, the last of a block perhaps fewer.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[int, ...] = ()
    steps: int | None = None
    order: FillOrder = "confidence"
    block: int | None = None
    tokens_per_step: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise RequestError("temperature must be a number that is not negative, top_p must be in (0, 1]")
        if self.block is not None and self.block < 1:
            raise RequestError(f"block must be at least 1, got {self.block}")
        if self.tokens_per_step is not None and (self.tokens_per_step < 1 or self.steps is not None):
            raise RequestError("tokens_per_step must be at least 1, and stands instead of steps: give one of the two")
        if self.steps is not None and self.steps < self.blocks:
            raise RequestError(f"{self.steps} steps are too few for {self.blocks} blocks: each needs one")

    @property
    def blocks(self) -> int:
        """Return how many blocks the text has."""
        return -(-self.max_new_tokens // (self.block or self.max_new_tokens))


Frame = Callable[[list[int]], None]


def generate(
    model: Transformer, prompt: Sequence[int], mask: int, sampling: Sampling, show: Frame | None = None
) -> list[int]:
    """Return new ids after `prompt`, without the stop id that ended them.

    Args:
        prompt: ids, EOD first; a document-masked model reads the last document of it.
        mask: the MASK id, never written.
        show: called with the new ids so far whenever they change; places that are not filled in yet hold MASK.
    """
    new: list[int] = []
    for new in frames(model, prompt, mask, sampling):
        if show is not None:
            show(new)
    return new


def frames(model: Transformer, prompt: Sequence[int], mask: int, sampling: Sampling) -> Iterator[list[int]]:
    """Iterate the new ids as they change, for callers that may stop early; see `generate`."""
    if not prompt:
        raise RequestError("a prompt has at least one token: begin with EOD")
    if model.config.document_mask:
        prompt = documents.last(np.array(prompt), prompt[0], model.config.causal).tolist()
    if model.config.causal:
        return _autoregressive(model, list(prompt), mask, sampling)
    blocks = _blocks_of(model.config.block_size, len(prompt), sampling)
    kind = _unmasking if model.config.block_size is None else _block_by_block
    return kind(model, list(prompt), mask, sampling, blocks)


def before_any(text: str, stops: Sequence[str]) -> str:
    """Return `text` up to the first of `stops` in it; an empty one stops nothing."""
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text


@torch.no_grad()
def _autoregressive(model: Transformer, prompt: list[int], mask: int, s: Sampling) -> Iterator[list[int]]:
    device = model.device
    random = torch.Generator("cpu").manual_seed(s.seed)
    cache, tokens, new = KVCache(model.config.layers), torch.tensor([prompt], device=device), []
    for _ in range(s.max_new_tokens):
        logits = model.logits(model.hidden_states(tokens, cache=cache)[0, -1:])
        logits[:, mask] = -torch.inf
        token = int(_draw(logits, s, random)[0])
        if token in s.stop:
            break
        new.append(token)
        yield list(new)
        tokens = torch.tensor([[token]], device=device)
    yield new


@torch.no_grad()
def _unmasking(
    model: Transformer, prompt: list[int], mask: int, s: Sampling, blocks: Sequence[tuple[int, int]]
) -> Iterator[list[int]]:
    device = model.device
    random = torch.Generator("cpu").manual_seed(s.seed)
    text = torch.full((1, len(prompt) + s.max_new_tokens), mask, device=device)
    text[0, : len(prompt)] = torch.tensor(prompt, dtype=torch.int64, device=device)
    for start, stop, quotas in _schedule(s, blocks):
        places = torch.arange(len(prompt) + start, len(prompt) + stop, device=device)
        for quota in quotas:
            _fill_in(model, text, places[text[0, places] == mask], quota, mask, s, random)
            yield text[0, len(prompt) :].tolist()
        written = text[0, len(prompt) : len(prompt) + stop].tolist()
        end = next((i for i, token in enumerate(written) if token in s.stop), None)
        if end is not None:
            yield written[:end]
            return


@torch.no_grad()
def _block_by_block(
    model: Transformer, prompt: list[int], mask: int, s: Sampling, blocks: Sequence[tuple[int, int]]
) -> Iterator[list[int]]:
    """Write as block diffusion does: a step reads its block only, keys and values of finished blocks are kept."""
    size, device = model.config.block_size, model.device
    assert size is not None, "of block diffusion alone"
    random = torch.Generator("cpu").manual_seed(s.seed)
    cache = KVCache(model.config.layers)
    new: list[int] = []
    kept = len(prompt) // size * size
    if kept:
        model.hidden_states(torch.tensor([prompt[:kept]], device=device), cache=cache)
    written = prompt[kept:]
    for start, stop, quotas in _schedule(s, blocks):
        block = torch.tensor([[*written, *[mask] * (stop - start)]], device=device)
        places = torch.arange(len(written), block.shape[1], device=device)
        cache.set_keep(False)
        for quota in quotas:
            _fill_in(model, block, places[block[0, places] == mask], quota, mask, s, random, cache)
            yield [*new, *block[0, places].tolist(), *[mask] * (s.max_new_tokens - stop)]
        new, written = [*new, *block[0, places].tolist()], []
        end = next((i for i, token in enumerate(new) if token in s.stop), None)
        if end is not None:
            yield new[:end]
            return
        cache.set_keep(True)
        if stop < s.max_new_tokens:
            model.hidden_states(block, cache=cache)


def _blocks_of(block_size: int | None, prompt: int, s: Sampling) -> list[tuple[int, int]]:
    """Return (start, stop) of the blocks of the new text; block diffusion's are counted from the prompt's start."""
    if block_size is None:
        return pieces(0, s.max_new_tokens, s.block or s.max_new_tokens)
    if s.block not in (None, block_size):
        raise RequestError(f"this model writes in blocks of {block_size} tokens, not of {s.block}: leave --block out")
    blocks = pieces(prompt, s.max_new_tokens, block_size)
    if s.steps is not None and s.steps < len(blocks):
        raise RequestError(f"{s.steps} steps are too few for {len(blocks)} blocks: each needs one")
    return blocks


def _schedule(s: Sampling, blocks: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, list[int]]]:
    """Iterate blocks as (start, stop, tokens to settle at each step); beyond one a block, steps are shared out over the
    blocks' other tokens."""
    n = s.max_new_tokens
    spare, others = min(s.steps or n, n) - len(blocks), n - len(blocks)
    for b, (start, stop) in enumerate(blocks):
        if s.tokens_per_step:
            k, own = s.tokens_per_step, stop - start
            yield start, stop, [min(k, own - done) for done in range(0, own, k)]
            continue
        own = 1 + ((stop - b - 1) * spare // others - (start - b) * spare // others if others else 0)
        parts = np.diff(np.linspace(0, stop - start, own + 1).round().astype(int))
        yield start, stop, parts.tolist()


def _fill_in(
    model: Transformer,
    text: Tensor,
    places: Tensor,
    quota: int,
    mask: int,
    s: Sampling,
    random: torch.Generator,
    cache: KVCache | None = None,
) -> None:
    """Write `quota` of the masked `places` of `text` (1, length), which comes after what `cache` holds, in place."""
    logits = model.logits(model.hidden_states(text, cache=cache)[0, places])
    logits[:, mask] = -torch.inf
    chosen = _chosen(logits, quota, s.order, random)
    text[0, places[chosen]] = _draw(logits[chosen], s, random)


def _chosen(logits: Tensor, quota: int, order: FillOrder, random: torch.Generator) -> Tensor:
    """Return the indices, int64 (quota,), of the rows of `logits` that are settled now.

    Tokens are drawn after that, at temperature 1 or another: what is chosen depends on what is written alone.
    """
    if order == "random":
        return torch.rand(len(logits), generator=random).topk(quota).indices.to(logits.device)
    scores = scores_of(logits, order).double().cpu().numpy()[None]
    chosen = choose(scores, np.ones(scores.shape, np.bool_), quota)
    return torch.from_numpy(np.flatnonzero(chosen)).to(logits.device)


def _draw(logits: Tensor, s: Sampling, random: torch.Generator) -> Tensor:
    """Return a token for each row of `logits` (n, vocabulary), int64 (n,)."""
    if s.temperature == 0:
        return logits.argmax(-1)
    drawn = _top_p((logits / s.temperature).softmax(-1), s.top_p)
    return torch.multinomial(drawn.cpu(), 1, generator=random)[:, 0].to(logits.device)


def _top_p(p: Tensor, share: float) -> Tensor:
    """Return probabilities with the least likely tokens beyond `share` set to 0."""
    if share >= 1:
        return p
    ranked, order = p.sort(-1, descending=True)
    beyond = ranked.cumsum(-1) - ranked >= share
    return torch.zeros_like(p).scatter(-1, order, ranked.masked_fill(beyond, 0.0))
