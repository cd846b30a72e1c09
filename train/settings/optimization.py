"""Optimizer, schedule of the rate, what is done to the gradient."""

from typing import Literal

from pydantic import Field

from ...common.config import Section
from .types import Interval, Share


class OptimizerSection(Section):
    """AdamW; norms and embeddings are not decayed."""

    name: Literal["adamw"] = "adamw"
    lr: float = Field(gt=0, le=1e30)
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)


class WSDSection(Section):
    """Warm-up, stable, decay.

    Attributes:
        t_decay: span of the tail.
        alpha_f: last rate over peak rate.
    """

    name: Literal["wsd"]
    t_warmup: Interval = "0.01dur"
    t_decay: Interval = "0.1dur"
    alpha_f: float = Field(0.1, gt=0.0, le=1.0)
    decay: Literal["exponential", "linear"] = "exponential"


class CosineSection(Section):
    """Warm-up, then half a cosine down to alpha_f times the peak rate."""

    name: Literal["cosine_with_warmup"]
    t_warmup: Interval = "0.01dur"
    alpha_f: Share = 0.1


class ConstantSection(Section):
    """Warm-up, then constant."""

    name: Literal["constant_with_warmup"]
    t_warmup: Interval = "0.01dur"


class ClippingSection(Section):
    """Clip the gradient's norm, over all ranks."""

    clipping_type: Literal["norm"] = "norm"
    clipping_threshold: float = Field(default=1.0, gt=0)


class AlgorithmsSection(Section):
    """What is done to the gradient."""

    gradient_clipping: ClippingSection | None = ClippingSection()
