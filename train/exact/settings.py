"""The section `eval_loader.exact` of a training run."""

from typing import Annotated

from pydantic import Field

from ...common.config import Section
from .writing_order import Order

Count = Annotated[int, Field(gt=0, lt=2**63)]


class ExactSection(Section):
    """The exact likelihood of masked diffusion when it writes in a stated order, on the samples of validation.

    It costs a read of every sample per step of the order. An autoregressive run, whose validation is exact, ignores it.

    Attributes:
        order: see `WritingOrder`.
        tokens_per_step: see `WritingOrder`.
        every: at every so many-th evaluation, and at the last.
    """

    order: Order = "confidence"
    tokens_per_step: Count = 1
    every: Count = 1
