"""From questions to ids that a model scores, and from its scores to what is kept of an item."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...tokenize.tokenizer import Tokenizer
from .scoring import Group, Score, TokenIds
from .tasks import Item


@dataclass(frozen=True)
class Encoded:
    """An item as groups: one when all choices share their context, else one per choice."""

    item: Item
    groups: tuple[Group, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Return the tokens of each answer."""
        return tuple(len(a) for g in self.groups for a in g.answers)


def encode(items: Sequence[Item], tokenizer: Tokenizer, shots: int = 0) -> list[Encoded]:
    """Return `items` as ids, EOD first.

    An answer's ids are those of context + answer after the first len(ids of context), so that text is tokenized as a
    whole, as lm-evaluation-harness does.

    Args:
        shots: examples in their prompts, the same for all items of a subject.
    """
    pairs = [(item, context, answer) for item in items for context, answer in zip(item.contexts, item.answers)]  # noqa: B905
    groups = iter(encode_pairs([(c, a) for _, c, a in pairs], tokenizer))
    encoded = []
    for item in items:
        own = [next(groups) for _ in item.answers]
        family = item.subject if shots else ""
        keyed = [Group(c, (a,), item.id * 64 + i, family) for i, (c, a) in enumerate(own)]
        if len(set(item.contexts)) == 1:
            keyed = [Group(keyed[0].context, tuple(a for _, a in own), item.id * 64, family)]
        encoded.append(Encoded(item, tuple(keyed)))
    return encoded


def encode_pairs(pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[tuple[TokenIds, TokenIds]]:
    """Return (EOD + ids of the context, ids of the answer) of each (context, answer); white space at a context's end
    belongs to the answer."""
    moved = [(c.rstrip(), c[len(c.rstrip()) :] + a) for c, a in pairs]
    contexts = list(dict.fromkeys(c for c, _ in moved))
    known = dict(zip(contexts, tokenizer.encode(contexts), strict=True))
    whole = tokenizer.encode([c + a for c, a in moved])
    return [_part(known[c], ids, tokenizer.info.eod) for (c, _), ids in zip(moved, whole, strict=True)]


def _part(context: NDArray[np.uint32], whole: NDArray[np.uint32], eod: int) -> tuple[TokenIds, TokenIds]:
    cut = min(len(context), len(whole) - 1)  # an answer has a token even where it melts into the context's last
    return np.concatenate([[eod], context[:cut]]).astype(np.int64), whole[cut:].astype(np.int64)


def record(encoded: Encoded, scores: Sequence[Sequence[Score]]) -> dict[str, Any]:
    """Return what is kept of one item: everything a table needs, nothing of the text."""
    flat = [s for group in scores for s in group]
    item = encoded.item
    body: dict[str, Any] = {"id": item.id, "subject": item.subject, "gold": item.gold}
    body |= {"nats": [s.nats for s in flat], "se": [None if np.isnan(s.se) else s.se for s in flat]}
    body |= {"tokens": list(encoded.tokens), "characters": list(item.characters)}
    if flat[0].greedy is not None:
        body["greedy"] = [s.greedy for s in flat]
    return body
