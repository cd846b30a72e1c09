"""A mixture as people write it, in YAML, and what it becomes once its subsets are opened."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from ...common.config import Count, Section
from ...common.errors import RequestError
from ...common.units import tokens_for_epochs
from ..artifact import Artifact, open_artifact
from ..manifest import Manifest
from .base import Policy
from .mixing import Ingredient, by_tokens, by_weights
from .mixture import Mixture
from .windows import MAX_WINDOW

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class MixtureSource(Section):
    """A subset in a mixture.

    How much of it is read is given by one of: epochs (passes over it, 40 or 3.5), tokens (10B), weight.

    Attributes:
        path: subset or pool, folder or URL.
        seed: of its own repetition.
        policy: of its own repetition.
    """

    path: str
    epochs: Annotated[str, BeforeValidator(_text)] | None = None
    tokens: Count | None = Field(default=None, ge=1)
    weight: Weight | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    policy: Policy = "reshuffle"

    @property
    def amounts(self) -> list[str]:
        """Which of the three are given."""
        return [name for name in ("epochs", "tokens", "weight") if getattr(self, name) is not None]


class MixtureStage(Section):
    """Part of a run.

    Attributes:
        tokens: its length; the last stage may leave it out and takes the rest.
        weights: by source.
    """

    tokens: Count | None = Field(default=None, ge=1)
    weights: dict[str, Weight] = Field(min_length=1)


class MixtureSettings(Section):
    """Several subsets in one stream.

    Attributes:
        sources: by name, all with epochs or tokens, or all with a weight, or, with `stages`, none of them.
        window: samples over which the shares are met exactly.
        seed: of how they are spread; the run's when not given.
    """

    sources: dict[str, MixtureSource] = Field(min_length=1)
    stages: list[MixtureStage] = []
    window: int = Field(default=1000, ge=1, le=MAX_WINDOW)
    seed: int | None = Field(default=None, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _one_way_to_say_how_much(self) -> "MixtureSettings":
        for name, source in self.sources.items():
            if self.stages and source.amounts:
                raise ValueError(f"'{name}' has {source.amounts[0]}, but stages say how much is read: give one of them")
            if not self.stages and len(source.amounts) != 1:
                raise ValueError(f"'{name}' needs one of epochs, tokens, weight")
        if not self.stages and 0 < sum(source.weight is None for source in self.sources.values()) < len(self.sources):
            raise ValueError("give all sources a weight, or none of them")
        for stage in self.stages:
            unknown = sorted(set(stage.weights) - set(self.sources))
            if unknown:
                raise ValueError(f"a stage names '{unknown[0]}', which is no source")
        if any(stage.tokens is None for stage in self.stages[:-1]):
            raise ValueError("every stage but the last needs tokens")
        return self

    @property
    def has_length(self) -> bool:
        """Whether the mixture itself says how long the run is: by epochs and tokens, or by stages that all end."""
        if self.stages:
            return self.stages[-1].tokens is not None
        return all(source.weight is None for source in self.sources.values())


@dataclass(frozen=True)
class OpenedMixture:
    """The artifacts of a mixture, in the order of its sources, and the mixture."""

    artifacts: tuple[Artifact, ...]
    mixture: Mixture


def open_mixture(
    settings: MixtureSettings, seed: int, budget: Callable[[int], int] | None, what: str = "total tokens"
) -> OpenedMixture:
    """Open the sources of a mixture and work out its order.

    Args:
        seed: where the settings give none.
        budget: from unique tokens to the run's tokens; None where nobody said how long it is; `what` says how one does.

    Raises:
        RequestError: when that is said twice or not at all, or things do not fit.
    """
    artifacts = tuple(open_artifact(source.path) for source in settings.sources.values())
    return OpenedMixture(artifacts, mix(settings, [a.manifest for a in artifacts], seed, budget, what))


def mix(
    settings: MixtureSettings,
    manifests: Sequence[Manifest],
    seed: int,
    budget: Callable[[int], int] | None,
    what: str = "total tokens",
) -> Mixture:
    """Return the mixture of artifacts with these manifests, one for each source in turn. The rest as `open_mixture`."""
    if settings.has_length and budget is not None:
        raise RequestError(f"the mixture's sources say how much is read: leave {what} out")
    if not settings.has_length and budget is None:
        raise RequestError(f"a mixture by weights has no end of its own: give {what}")
    parts = [
        Ingredient(name, manifest, seed if source.seed is None else source.seed, source.policy)
        for (name, source), manifest in zip(settings.sources.items(), manifests, strict=True)
    ]
    spread = seed if settings.seed is None else settings.seed
    if settings.has_length and not settings.stages:
        amounts = [_tokens(source, part) for source, part in zip(settings.sources.values(), parts, strict=True)]
        return by_tokens(list(zip(parts, amounts, strict=True)), settings.window, spread)
    total = budget(sum(manifest.tokens for manifest in manifests)) if budget else 0
    return by_weights(parts, _stages(settings, total), settings.window, spread)


def _tokens(source: MixtureSource, part: Ingredient) -> int:
    if source.tokens is not None:
        return source.tokens
    assert source.epochs is not None, "checked by MixtureSettings"
    return tokens_for_epochs(source.epochs, part.manifest.tokens)


def _stages(settings: MixtureSettings, total: int) -> list[tuple[int, dict[str, Fraction | int]]]:
    if not settings.stages:
        weights = {name: source.weight for name, source in settings.sources.items()}
        return [(total, {name: Fraction(str(weight)) for name, weight in weights.items()})]
    stages: list[tuple[int, dict[str, Fraction | int]]] = []
    for stage in settings.stages:
        tokens = stage.tokens
        if tokens is None:
            tokens = total - sum(before for before, _ in stages)
            if tokens < 1:
                raise RequestError(f"the stages before the last take all of the {total:,} tokens: give the run more")
        stages.append((tokens, {name: Fraction(str(weight)) for name, weight in stage.weights.items()}))
    return stages


def mixture_file(path: str) -> bool:
    """Return whether a command's argument names a mixture's YAML file rather than an artifact."""
    return path.endswith((".yaml", ".yml"))


def describe_stages(mixture: Mixture) -> list[dict[str, Any]]:
    """Return, for each stage, its positions and how many of a window are each source's: exactly that where it is whole,
    else rounded, by less than two."""
    found = []
    for stage in mixture.stages:
        window = min(mixture.window, stage.positions)
        shares = {
            s.name: window * share / sum(stage.shares) for s, share in zip(mixture.sources, stage.shares, strict=True)
        }
        found.append({"positions": stage.positions, "window": window, "per_window": shares})
    return found
