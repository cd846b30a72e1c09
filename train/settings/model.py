"""Shape of the model."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ..model.transformer import LATER, ModelConfig
from .types import FiguresSection, Part, Positive, Size


class ModelSection(FiguresSection):
    """Shape of the model; see `ModelConfig`.

    Attributes:
        preset: a shipped shape that the other keys change.
        vocab_size: taken from the data when not given, and refused when it is not the data's.
        init_device: `meta` builds large FSDP models without holding them whole in memory first.
    """

    LATER: ClassVar[tuple[str, ...]] = tuple(key for key in LATER if key != "block_size")

    preset: str | None = None
    vocab_size: Positive | None = None
    layers: Annotated[int, Field(gt=0, le=10_000)]
    hidden: Size
    heads: Size
    ffn: Size
    kv_heads: Size | None = None
    head_size: Size | None = None
    qk_norm: bool = False
    tied_embeddings: bool = True
    rope_base: float = Field(10000.0, gt=0)
    norm_eps: float = Field(1e-6, gt=0)
    init_std: float = Field(0.02, gt=0)
    dropout: Part = 0.0
    dropout_embedding: Part = 0.0
    dropout_attention: Part = 0.0
    dropout_residual: Part = 0.0
    dropout_mlp: Part = 0.0
    stochastic_depth: Part = 0.0
    document_mask: bool = False
    rope: Literal["continue", "restart"] = "continue"
    init_device: Literal["cpu", "meta"] = "cpu"

    @model_validator(mode="after")
    def _shape_is_possible(self) -> "ModelSection":
        self.shape(causal=True, vocab_size=1)
        return self

    def shape(self, causal: bool, vocab_size: int, block_size: int | None = None) -> ModelConfig:
        """Return the model's shape for one of the two types, or for block diffusion."""
        keys = self.model_dump(exclude={"preset", "init_device", "vocab_size"})
        return ModelConfig(causal=causal, vocab_size=vocab_size, block_size=block_size, **keys)
