"""A multiple-choice task made from a validation pool: which of several continuations is the real one.

It needs no benchmark and works for any tokenizer and any size of model: the context and the right answer are held-out
text, the wrong answers are held-out text from elsewhere. All answers have the same number of tokens, so a model that
knows only lengths scores 1 / choices.
"""

import numpy as np

from ...common.errors import RequestError
from ...common.hashing import derive_words, mix64
from ...shards.artifact import Artifact
from .encoding import Encoded
from .likelihood import Rows
from .scoring import Group, TokenIds
from .tasks import Item

CONTEXT, ANSWER, CHOICES = 24, 4, 4
"""Tokens of the context and of each answer, and answers per item."""


def continuation(artifact: Artifact, items: int) -> list[Encoded]:
    """Return `items` items, a pure function of the pool; the texts of an `Item` stand for their lengths alone.

    Items are evenly spread over the pool's samples, at keyed places, right answers at keyed indices; answers hold no
    EOD, so that all lie within documents.

    Raises:
        RequestError: when the pool's samples are too short.
    """
    rows = [row for row in Rows(artifact) if len(row) >= CONTEXT + ANSWER]
    if not rows:
        raise RequestError(f"{artifact.root} has no sample of {CONTEXT + ANSWER} tokens: nothing to continue")
    eod = artifact.manifest.tokenizer.eod
    made = []
    for i in range(items):
        words = _Words(i)
        context, right = _excerpt(rows[i * len(rows) // items], words, eod)
        answers = [right]
        while len(answers) < CHOICES:
            answers.append(_excerpt(rows[words.below(len(rows))], words, eod)[1])
        gold = words.below(CHOICES)
        answers[0], answers[gold] = answers[gold], answers[0]
        item = Item(i, ("",) * CHOICES, ("x" * ANSWER,) * CHOICES, gold)
        made.append(Encoded(item, (Group(np.concatenate([[eod], context]), tuple(answers), key=i * CHOICES),)))
    return made


class _Words:
    """Keyed random words of one item, as many as are asked for."""

    def __init__(self, item: int) -> None:
        self._next = derive_words("continuation", 0, item, 1)

    def below(self, n: int) -> int:
        """Return a number from 0 to n - 1."""
        self._next = mix64(self._next + np.uint64(0x9E3779B97F4A7C15))
        return int(self._next[0]) % n


def _excerpt(row: TokenIds, words: _Words, eod: int) -> tuple[TokenIds, TokenIds]:
    """Return a context of `row` and what follows it; 64 places are tried for one whose answer holds no EOD."""
    for _ in range(64):
        at = words.below(len(row) - CONTEXT - ANSWER + 1)
        context, answer = np.split(row[at : at + CONTEXT + ANSWER], [CONTEXT])
        if eod not in answer:
            break
    return context, answer
