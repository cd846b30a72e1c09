"""Optimizer, schedule of the rate, what is done to the gradient, with the weights, and when to stop."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ...common.config import Section
from .types import FiguresSection, Interval, Part, Positive, Share


class OptimizerSection(FiguresSection):
    """AdamW, or Muon for the matrices of the blocks and AdamW for embeddings, output head and norms; norms are never
    decayed.

    Attributes:
        lr: peak rate.
        weight_decay: of matrices.
        embedding_weight_decay: of embeddings (a tied output head is one).
        weight_decay_schedule: how weight decay goes from what is given to `weight_decay_final` times that at the last
            step.
        weight_decay_final: see `weight_decay_schedule`.
        momentum: of Muon.
    """

    LATER: ClassVar[tuple[str, ...]] = (
        "embedding_weight_decay",
        "weight_decay_schedule",
        "weight_decay_final",
        "momentum",
    )

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(gt=0, le=1e30)
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    embedding_weight_decay: float = Field(0.0, ge=0)
    weight_decay_schedule: Literal["constant", "linear", "cosine"] = "constant"
    weight_decay_final: float = Field(0.0, ge=0)
    momentum: Part = 0.95

    @model_validator(mode="after")
    def _keys_have_their_use(self) -> "OptimizerSection":
        given = self.changed("momentum", "weight_decay_final")
        if "momentum" in given and self.name != "muon":
            raise ValueError("momentum is Muon's: AdamW has betas (for Muon say name: muon)")
        if "weight_decay_final" in given and self.weight_decay_schedule == "constant":
            raise ValueError("weight_decay_final needs weight_decay_schedule: linear or cosine")
        return self


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


class CyclesSection(Section):
    """Warm-up, then several half cosines down to alpha_f times the peak rate, a model saved at the end of each.

    Attributes:
        cycles: how many.
    """

    name: Literal["cosine_cycles"]
    cycles: int = Field(ge=1, le=10_000)
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


class EMASection(Section):
    """A moving average of the weights, which validation measures and the saved models have.

    Attributes:
        half_life: after so long, a step's weights count half.
    """

    half_life: Interval = "0.02dur"


class EarlyStopSection(Section):
    """Stop when validation no longer improves, and end the run by a cool-down from the best point.

    Attributes:
        patience: evaluations in a row without a lower loss that are waited for.
        cooldown: span from the best point to the end, over which the rate falls.
        alpha_f: the last rate over the rate at the best point.
    """

    patience: Positive = 3
    cooldown: Interval = "0.1dur"
    alpha_f: float = Field(0.1, gt=0.0, le=1.0)


class AlgorithmsSection(FiguresSection):
    """What is done to the gradient, with the weights, and when to stop."""

    LATER: ClassVar[tuple[str, ...]] = ("ema", "early_stop")

    gradient_clipping: ClippingSection | None = ClippingSection()
    ema: EMASection | None = None
    early_stop: EarlyStopSection | None = None
