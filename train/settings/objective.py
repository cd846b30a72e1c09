"""What is learned: the two types of model."""

from typing import Literal

from pydantic import Field

from ...common.config import Section
from .types import Share


class ARSection(Section):
    """Next-token prediction.

    Attributes:
        input_masking: share of input tokens replaced by MASK (the paper's ablation).
    """

    name: Literal["ar"]
    input_masking: float = Field(0.0, ge=0.0, le=0.9)


class MDMSection(Section):
    """Masked diffusion; see `MaskedDiffusion` for what the keys mean."""

    name: Literal["mdm"]
    weighting: Literal["inverse_t", "exact_count"] = "inverse_t"
    eps: float = Field(1e-3, gt=0.0, lt=1.0)
    sampling: Literal["uniform", "stratified"] = "stratified"
    random_length: Share = 0.0
