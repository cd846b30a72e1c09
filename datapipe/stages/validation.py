"""Validation: which documents are held out. What deduplication left is drawn in the order of a keyed hash of its keys,
whole documents, until `validation_tokens` are reached."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...common.errors import RequestError
from .cluster import TRAIN, VALIDATION, Corpus

AUTO_SHARE, AUTO_MOST = 100, 1_000_000
"""`auto` is one token of so many, and at most so many in all."""

_DRAWN_BITS = 16
_CANDIDATE = np.dtype(
    [(name, "<u8") for name in ("drawn", "key_hi", "key_lo")] + [("tokens", "<i8"), ("number", "<i8")]
)


def draw_validation(corpus: Corpus, fates: NDArray[np.uint8], n_tokens: int | Literal["auto"]) -> int:
    """Mark as VALIDATION in `fates` the TRAIN documents that come first in the order (drawn, key), until they hold
    `n_tokens` tokens; with `auto` none, where so few documents would be more than half. Return how many tokens they
    hold.

    All documents are read twice: first tokens are summed by the leading bits of `drawn`, then only the documents of the
    one group in which `n_tokens` is reached are sorted.

    Raises:
        RequestError: when validation would take more than half.
    """
    tokens = _tokens_by_group(corpus, fates)
    total = int(tokens.sum())
    if n_tokens == "auto" and total < 2:
        return 0
    if n_tokens == "auto":
        drawn = _draw(corpus, fates, tokens, max(1, min(AUTO_MOST, total // AUTO_SHARE)))
        if 2 * drawn <= total:
            return drawn
        fates[fates == VALIDATION] = TRAIN
        return 0
    mend = f"ask for fewer or add sources (auto takes 1 % of them, at most {AUTO_MOST:,})"
    asked = f"validation_tokens is {n_tokens:,}"
    if total <= n_tokens:
        raise RequestError(f"{asked}, but after deduplication there are only {total:,} tokens in all: {mend}")
    if 2 * n_tokens > total:
        raise RequestError(f"{asked}, more than half of the {total:,} tokens that there are: {mend}")
    drawn = _draw(corpus, fates, tokens, n_tokens)
    if 2 * drawn > total:
        raise RequestError(
            f"{asked}, which takes {drawn:,} of {total:,} tokens, because documents stay whole and are few: {mend}"
        )
    return drawn


def _tokens_by_group(corpus: Corpus, fates: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how many tokens the TRAIN documents hold, by the leading bits of `drawn`."""
    tokens = np.zeros(1 << _DRAWN_BITS, np.int64)
    for first, documents in corpus.batches():
        kept = documents[fates[first : first + len(documents)] == TRAIN]
        np.add.at(tokens, _group(kept), kept["tokens"].astype(np.int64))
    return tokens


def _group(documents: NDArray[np.void]) -> NDArray[np.int64]:
    return (documents["drawn"] >> np.uint64(64 - _DRAWN_BITS)).astype(np.int64)


def _draw(corpus: Corpus, fates: NDArray[np.uint8], tokens: NDArray[np.int64], n_tokens: int) -> int:
    """Mark documents until they hold `n_tokens`, of which there are more; return how many tokens they hold.

    Args:
        tokens: in all documents, by group.
    """
    ends = np.cumsum(tokens)
    last = int(np.searchsorted(ends, n_tokens, side="right"))  # the group in which they are reached
    before_last = int(ends[last] - tokens[last])
    candidates = [np.zeros(0, _CANDIDATE)]
    for first, documents in corpus.batches():
        mine = fates[first : first + len(documents)]
        group = _group(documents)
        rows = np.flatnonzero((mine == TRAIN) & (group == last))
        mine[(mine == TRAIN) & (group < last)] = VALIDATION
        some = np.empty(len(rows), _CANDIDATE)
        for name in ("drawn", "key_hi", "key_lo", "tokens"):
            some[name] = documents[name][rows]
        some["number"] = first + rows
        candidates.append(some)
    inside = np.sort(np.concatenate(candidates), order=["drawn", "key_hi", "key_lo"])
    before = before_last + np.cumsum(inside["tokens"]) - inside["tokens"]
    chosen = before < n_tokens
    fates[inside["number"][chosen]] = VALIDATION
    return before_last + int(inside["tokens"][chosen].sum())
