"""Micro-batches of small models, and what one does to their weights."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from epochal.train.data import Collate, Split
from epochal.train.model.composer import LanguageModel
from epochal.train.objective.objectives import Autoregressive, MaskedDiffusion, SpecialIds

IDS = SpecialIds(eod=67, pad=68, mask=69)
ROWS, LENGTH = 4, 16


def micro_batches(causal: bool, n: int, document_mask: bool = False) -> Iterator[dict[str, Any]]:
    """Yield `n` of them; every third has PAD, and all differ in how many targets they have and where, and in their
    documents."""
    objective = (Autoregressive if causal else MaskedDiffusion)(IDS, document_mask=document_mask)
    random = np.random.default_rng(0)
    for i in range(n):
        n_tokens = np.full(ROWS, LENGTH)
        if i % 3 == 2:
            n_tokens[random.integers(ROWS)] = random.integers(1, LENGTH)
        batch = {
            "tokens": random.integers(0, 67 + document_mask, (ROWS, LENGTH)),
            "position": np.arange(ROWS) + i * ROWS,
            "sample_id": np.arange(ROWS),
            "n_tokens": n_tokens,
        }
        yield from Split()(Collate(objective)(batch), ROWS)


def step(model: LanguageModel, batch: dict[str, Any], trained: bool = True) -> float:
    """Return the loss of a micro-batch; where it is `trained`, its gradients are added to those of the weights."""
    with torch.set_grad_enabled(trained):
        loss = next(iter(model.loss(model(batch), batch).values()))
    if trained:
        loss.backward()
    return float(loss.detach())
