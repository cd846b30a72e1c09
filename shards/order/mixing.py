"""How a mixture is made of ingredients: so many tokens of each, or weights that hold for a stage of the run."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd

from ...common.errors import RequestError
from ..manifest import Manifest
from .base import Policy
from .mixture import Mixture, Source
from .plan import Plan
from .windows import Stage


@dataclass(frozen=True)
class Ingredient:
    """A subset that goes into a mixture, under a name, and how it is repeated."""

    name: str
    manifest: Manifest
    seed: int = 0
    policy: Policy = "reshuffle"


def by_tokens(parts: Sequence[tuple[Ingredient, int]], window: int, seed: int = 0) -> Mixture:
    """Return the mixture that reads each ingredient for exactly so many tokens, all spread evenly over the run.

    Each source's plan is the one that it would have alone.

    Raises:
        RequestError: when they do not go together.
    """
    check_together([part for part, _ in parts])
    plans = [Plan.for_artifact(part.manifest, tokens, part.seed, part.policy) for part, tokens in parts]
    sources = tuple(Source(part.name, plan) for (part, _), plan in zip(parts, plans, strict=True))
    shares = tuple(plan.positions for plan in plans)
    return Mixture(sources, (Stage(sum(shares), shares),), window, seed)


def by_weights(
    parts: Sequence[Ingredient],
    stages: Sequence[tuple[int, Mapping[str, Fraction | int]]],
    window: int,
    seed: int = 0,
) -> Mixture:
    """Return the mixture whose stages are (tokens, weight by name), one after the other.

    Up to the end of each stage the run has as many positions as the tokens so far pay for: short of them by less than a
    sample.

    Raises:
        RequestError: when they do not go together.
    """
    check_together(parts)
    known = {part.name for part in parts}
    made: list[Stage] = []
    begun = [0] * len(parts)
    budget = 0
    for tokens, weights in stages:
        unknown = sorted(set(weights) - known)
        if unknown:
            raise RequestError(
                f"a stage names '{unknown[0]}', which is no source: there are {', '.join(sorted(known))}"
            )
        shares = _integers([Fraction(weights.get(part.name, 0)) for part in parts])
        budget += tokens
        made.append(_stage(parts, begun, shares, budget))
        begun = [a + b for a, b in zip(begun, made[-1].totals(made[-1].positions), strict=True)]
    unused = [part.name for part, n in zip(parts, begun, strict=True) if not n]
    if unused:
        raise RequestError(f"no stage reads a sample of '{unused[0]}': give it a weight, or leave it out")
    sources = tuple(Source(p.name, _plan_of(p, n)) for p, n in zip(parts, begun, strict=True))
    return Mixture(sources, tuple(made), window, seed)


def _integers(weights: list[Fraction]) -> tuple[int, ...]:
    if min(weights) < 0 or not sum(weights):
        raise RequestError("weights are not negative, and one of them at least is more than zero")
    scale = 1
    for weight in weights:
        scale = scale * weight.denominator // gcd(scale, weight.denominator)
    whole = [int(weight * scale) for weight in weights]
    common = gcd(*whole)
    return tuple(n // common for n in whole)


def _stage(parts: Sequence[Ingredient], begun: list[int], shares: tuple[int, ...], budget: int) -> Stage:
    """Return the longest stage that `budget` tokens, counted from the run's beginning, pay for."""
    seq_len = parts[0].manifest.seq_len

    def spare(length: int) -> int:
        counts = [a + b for a, b in zip(begun, Stage(length, shares).totals(length), strict=True)]
        return budget - sum(_plan_of(p, n).tokens for p, n in zip(parts, counts, strict=True) if n)

    length = max(0, budget // seq_len - sum(begun))
    while (left := spare(length)) >= seq_len:  # samples with PAD hold fewer tokens than were paid for
        length += left // seq_len
    while length and spare(length) < 0:
        length -= 1
    if not length:
        raise RequestError(f"a stage of the mixture pays for no sample of {seq_len} tokens: give it more")
    return Stage(length, shares)


def _plan_of(part: Ingredient, positions: int) -> Plan:
    """Return the plan of exactly so many positions."""
    m = part.manifest
    widest = Plan.for_artifact(m, -(-positions // m.samples) * m.tokens, part.seed, part.policy)
    return Plan.for_artifact(m, widest.tokens_before(positions), part.seed, part.policy)


def check_together(parts: Sequence[Ingredient]) -> None:
    """Raise RequestError unless the ingredients have the same tokenizer and sample length and share no token."""
    if not parts:
        raise RequestError("a mixture needs at least one source")
    first = parts[0].manifest
    for part in parts[1:]:
        m = part.manifest
        if m.tokenizer.model_dump(exclude={"name"}) != first.tokenizer.model_dump(exclude={"name"}):
            raise RequestError(
                f"'{part.name}' was tokenized with {m.tokenizer.name}, '{parts[0].name}' with another tokenizer "
                f"({first.tokenizer.name}): they cannot be mixed"
            )
        if m.seq_len != first.seq_len:
            raise RequestError(
                f"the samples of '{part.name}' have {m.seq_len} tokens, those of '{parts[0].name}' {first.seq_len}"
            )
    for bucket, part in itertools.permutations(parts, 2):
        if _part_of(bucket.manifest, part.manifest):
            raise RequestError(
                f"'{bucket.name}' is a bucket of the pool of '{part.name}': their unique tokens would be counted "
                "twice; mix buckets, or the pool"
            )
    spans = [(_span(part.manifest), part.name) for part in parts]
    for i, ((pool, start, stop), name) in enumerate(spans):
        for (other, begin, end), earlier in spans[:i]:
            if pool == other and start < end and begin < stop:
                raise RequestError(
                    f"'{name}' and '{earlier}' hold the same samples of one pool: their unique tokens would be "
                    "counted twice; carve another replicate, or mix other subsets"
                )


def _part_of(m: Manifest, other: Manifest) -> bool:
    """Return whether a pool is a bucket of the pool that another artifact is, or is cut from."""
    return m.bucket is not None and m.bucket.fingerprint == (other.parent or other).fingerprint


def _span(m: Manifest) -> tuple[str, int, int]:
    """Return (fingerprint of the pool, first token, end) of what an artifact holds."""
    pool, start = (m.parent.fingerprint, m.parent.start_sample * m.seq_len) if m.parent else (m.fingerprint, 0)
    return pool, start, m.without.stop if m.without else start + m.tokens
