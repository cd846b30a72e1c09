"""The two models that a model of both types is: the same weights, attended to the left or to both sides."""

from dataclasses import replace

import torch

from .transformer import Transformer

CAUSAL = {"ar": True, "mdm": False}
"""The types of model, and whether each is causal."""


def as_type(model: Transformer, name: str) -> Transformer:
    """Return a transformer of the type `name` that holds the very weights of `model`, for use without gradients."""
    with torch.device("meta"):
        other = Transformer(replace(model.config, causal=CAUSAL[name]))
    other.load_state_dict(model.state_dict(), assign=True)
    return other.train(model.training)
