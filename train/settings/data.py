"""What is trained on, what is validated on, and the tasks that are scored."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ...common.config import Section
from ...common.errors import RequestError
from ...shards.order.amendment.skips import Skip, read_skips
from ...shards.order.mixture_config import MixtureSettings
from ..exact.writing_order import Order
from .types import Positive, Workers


class TrainDataSection(Section):
    """The subset to train on, and how it is repeated; or a mixture of several, each with a repetition of its own.

    Attributes:
        path: subset or pool, folder or URL.
        mixture: see `MixtureSettings`; instead of path, policy and seed.
        cache: folder for the downloads of a remote one.
        cache_limit: its bytes.
        verify: check shards against their hashes when first opened.
        policy: how passes are shuffled.
        seed: of the order; the run's seed when not given.
        skip: spans of positions that the run passes over, each [first, first after it, reason]; see
            docs/repetition.md#skips.
    """

    path: str = ""
    mixture: MixtureSettings | None = None
    cache: str | None = None
    cache_limit: Positive | None = None
    verify: bool = True
    policy: Literal["reshuffle", "fixed", "global", "sequential", "repack"] = "reshuffle"
    seed: int | None = None
    skip: list[tuple[int, int, str]] = []

    @field_validator("skip", mode="before")
    @classmethod
    def _spans_with_a_reason(cls, value: object) -> list[list[object]]:
        return [skip.to_list() for skip in _with_reasons(value)]

    @model_validator(mode="after")
    def _one_subset_or_several(self) -> "TrainDataSection":
        if bool(self.path) == (self.mixture is not None):
            raise ValueError("give the path of a subset, or a mixture of several")
        if self.mixture is not None and not {"policy", "seed"}.isdisjoint(self.model_fields_set):
            raise ValueError("policy and seed of a mixture are those of each of its sources")
        return self

    @property
    def where(self) -> str:
        """Name the data in messages."""
        return self.path or "the mixture"


def _with_reasons(value: object) -> tuple[Skip, ...]:
    """Return spans of a configuration. Raises ValueError for what is none, or is without a reason."""
    if not isinstance(value, list | tuple):
        raise ValueError("give a list of spans, each [first position, first one after it, reason]")
    try:
        skips = read_skips(value)
    except RequestError as error:
        raise ValueError(str(error)) from None
    if bare := next((skip for skip in skips if not skip.reason.strip()), None):
        raise ValueError(f"{bare} has no reason: write [{bare.start}, {bare.stop}, loss spike], say")
    return skips


class TrainLoaderSection(Section):
    """The training data and its loader.

    Attributes:
        num_workers: loader processes per rank.
    """

    dataset: TrainDataSection
    num_workers: Workers = 0
    prefetch_factor: Positive | None = None
    pin_memory: bool | None = None


class EvalDataSection(Section):
    """The pool to validate on.

    Attributes:
        samples: how many of its first samples to use, all when not given.
    """

    path: str
    samples: Positive | None = None


class ExactSection(Section):
    """The exact likelihood of masked diffusion when it writes in a stated order, on the samples of validation.

    It costs a read of every sample per step of the order. An autoregressive run, whose validation is exact, ignores it.

    Attributes:
        order: see `WritingOrder`.
        tokens_per_step: see `WritingOrder`.
        every: at every so many-th evaluation, and at the last.
    """

    order: Order = "confidence"
    tokens_per_step: Positive = 1
    every: Positive = 1


class EvalLoaderSection(Section):
    """Validation.

    Attributes:
        noise_samples: of the masked-diffusion bound, the same noise at every evaluation.
        noise_seed: of the masked-diffusion bound, the same noise at every evaluation.
        exact: measure the exact likelihood under an order of writing too.
    """

    dataset: EvalDataSection
    num_workers: Workers = 0
    noise_samples: Positive = 4
    noise_seed: int = 0
    exact: ExactSection | None = None


class EvalTasksSection(Section):
    """Multiple choice, scored with every validation.

    `continuation` asks which of four pieces of the validation pool's text continues a context from it; it needs no
    benchmark and fits any tokenizer.

    Attributes:
        tasks: benchmarks as in `mmlu:5`, or `continuation`.
        data: folder of the benchmarks' files, the hub when not given.
        limit: items per task.
        noise_samples: of masked diffusion, per answer.
        normalize: what an answer's nats are divided by.
    """

    tasks: list[str] = Field(min_length=1)
    data: str | None = None
    limit: Positive = 256
    noise_samples: Positive = 8
    normalize: Literal["characters", "tokens", "none"] = "characters"
