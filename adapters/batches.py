"""Samples as batches of torch's, in the forms that trainers take. `shards.loader.collate` has the plain one."""

from collections.abc import Callable
from typing import Any

import torch

from ..shards.loader.collate import collate
from .samples import Sample

Collate = Callable[[list[Sample]], Any]

IGNORED = -100
"""The label that torch's cross-entropy, and so every Hugging Face model, leaves out of the loss."""


def language_model_batch(samples: list[Sample]) -> dict[str, torch.Tensor]:
    """Return a batch as Hugging Face's causal models take it: input_ids and labels, int64 (k, seq_len).

    Labels are the ids themselves, as those models shift them; those of PAD are left out of the loss.
    """
    batch = collate(samples)
    return {"input_ids": batch["tokens"], "labels": _labels(batch)}


def shifted_batch(samples: list[Sample]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return a batch as torchtitan takes it: ({"input": int64 (k, seq_len - 1)}, labels int64 (k, seq_len - 1)).

    A sample is seq_len tokens, so the model is given one less; labels of PAD are left out of the loss.
    """
    batch = collate(samples)
    return {"input": batch["tokens"][:, :-1]}, _labels(batch)[:, 1:]


def _labels(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    places = torch.arange(batch["tokens"].shape[1])
    return batch["tokens"].masked_fill(places[None] >= batch["n_tokens"][:, None], IGNORED)
