"""What is learned: the two types of model, one of both, and one between them."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ..run_folder import PENALTIES
from .types import FiguresSection, Part, Positive, Share

MostNoise = Field(0.0, ge=0.0, le=0.9)


class PenaltiesSection(FiguresSection):
    """What is added to the training loss of either type; validation never has it.

    Attributes:
        label_smoothing: share of the target's probability that is spread evenly over all ids.
        z_loss: weight of the squared logarithm of the softmax's denominator.
    """

    LATER: ClassVar[tuple[str, ...]] = PENALTIES

    label_smoothing: Part = 0.0
    z_loss: float = Field(0.0, ge=0.0, le=1.0)


class ARSection(PenaltiesSection):
    """Next-token prediction.

    Attributes:
        input_masking: share of input tokens replaced by MASK (the paper's ablation).
        random_replacement: share of input tokens replaced by random ids that are not special.
        right_to_left: share of samples that are read and predicted from their end.
    """

    LATER: ClassVar[tuple[str, ...]] = (*PENALTIES, "random_replacement", "right_to_left")

    name: Literal["ar"]
    input_masking: float = MostNoise
    random_replacement: float = MostNoise
    right_to_left: Share = 0.0


class MDMSection(PenaltiesSection):
    """Masked diffusion; see `MaskedDiffusion` for what the keys mean."""

    LATER: ClassVar[tuple[str, ...]] = (*PENALTIES, "noise_schedule", "t_range", "fixed_ratio")

    name: Literal["mdm"]
    weighting: Literal["inverse_t", "exact_count", "uniform"] = "inverse_t"
    eps: float = Field(1e-3, gt=0.0, lt=1.0)
    sampling: Literal["uniform", "stratified"] = "stratified"
    random_length: Share = 0.0
    noise_schedule: Literal["linear", "cosine"] = "linear"
    t_range: tuple[Share, Share] | None = None
    fixed_ratio: float | None = Field(None, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _one_level(self) -> "MDMSection":
        given = self.changed("t_range", "noise_schedule", "eps")
        if self.fixed_ratio is not None and given:
            raise ValueError(f"with fixed_ratio every sample has the same share of masks: leave {given[0]} out")
        if self.t_range is not None:
            low, high = self.t_range
            if "eps" in given:
                raise ValueError("t_range says from where the share of masks goes: leave eps out")
            if low >= high:
                raise ValueError(f"t_range [{low}, {high}] is empty: for one share of masks give fixed_ratio")
        return self


class DualSection(PenaltiesSection):
    """One model of both types; each sample is of one, by its position.

    Attributes:
        ar_share: of the samples, those that are autoregressive.
        ar: keys of an autoregressive run.
        mdm: keys of a masked-diffusion run.
    """

    name: Literal["dual"]
    ar_share: float = Field(0.5, gt=0.0, lt=1.0)
    ar: ARSection = ARSection.model_validate({"name": "ar"})
    mdm: MDMSection = MDMSection.model_validate({"name": "mdm"})

    @field_validator("ar", "mdm", mode="before")
    @classmethod
    def _named(cls, value: Any, info: Any) -> Any:
        return {"name": info.field_name} | value if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fit_together(self) -> "DualSection":
        if self.mdm.random_length:
            raise ValueError("mdm.random_length would shorten a step's autoregressive samples too: leave it out")
        for half in (self.ar, self.mdm):
            given = [key for key in PENALTIES if getattr(half, key)]
            if given:
                raise ValueError(f"{half.name}.{given[0]} is of the whole loss: write it beside ar_share")
        return self

    def figures(self) -> dict[str, Any]:
        """See `FiguresSection`."""
        return super().figures() | {"ar": self.ar.figures(), "mdm": self.mdm.figures()}


class BlockSection(PenaltiesSection):
    """Block diffusion.

    Attributes:
        block_size: tokens of a block; at most those of a sample, which is masked diffusion.
        sampling: see `BlockDiffusion`.
    """

    name: Literal["block"]
    block_size: Positive
    sampling: Literal["uniform", "stratified"] = "stratified"


ObjectiveSection = Annotated[ARSection | MDMSection | DualSection | BlockSection, Field(discriminator="name")]
