"""Curves: how often each bucket of a pool is fed, and the mixture that feeds it so often."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

import yaml
from pydantic import Field, PlainValidator, model_validator

from ...common import storage
from ...common.config import Section
from ...common.errors import RequestError, printable
from ...common.problems import did_you_mean
from ..artifact import INDEX_NAME, is_artifact, read_manifest
from ..manifest import Manifest
from ..order.base import Policy
from ..order.mixing import Ingredient, by_tokens
from ..order.mixture import Mixture
from ..order.plan import Plan
from ..order.windows import MAX_WINDOW
from .split import NULL

_NUMBERED = re.compile("[qe][0-9]+")
"""Names of quantiles, and of ranges between edges."""

LEAST_WINDOW = 1000
"""Positions over which the shares of a mixture are exact, unless its smallest source needs more."""


def _exact(value: Any) -> Fraction:
    """Read a number as it is written: 2.5 and 1/3 are exact."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise ValueError("must be a number of passes, as in 2.5")
    try:
        number = Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"must be a number of passes, as in 2.5, got '{str(value)[:40]}'") from None
    if not 0 <= number <= 10**6:
        raise ValueError(f"must lie in 0 to 1,000,000 passes, got {value}")
    return number


def _passes_of(value: Any) -> list[Fraction] | dict[str, Fraction]:
    """Read passes in a list, or by the names of buckets; numbers that YAML makes of names are text."""
    if isinstance(value, list):
        return [_exact(passes) for passes in value]
    if not isinstance(value, dict):
        raise ValueError("must be a list, as in [0, 1, 2.5], or passes by the name of each bucket")
    for name in value:
        if isinstance(name, bool) or name is None:
            raise ValueError(f"has a bucket named {name}: write names that YAML takes for something else in quotes")
    return {str(name): _exact(passes) for name, passes in value.items()}


class Curve(Section):
    """How often each bucket is fed.

    Attributes:
        by: the column that the pool is divided by; needed where it is divided by several.
        passes: a list, for the numbered buckets from the lowest on; or by the name of each bucket. 0: not at all.
        most: the most passes of a bucket when the curve is scaled to a total.
        policy: how each bucket is repeated.
        window: positions over which the shares are exact; by default 1000, more where the smallest bucket needs it.
    """

    by: str | None = None
    passes: Annotated[list[Fraction] | dict[str, Fraction], PlainValidator(_passes_of)]
    most: Annotated[Fraction, PlainValidator(_exact)] | None = None
    policy: Policy = "reshuffle"
    window: int | None = Field(default=None, ge=1, le=MAX_WINDOW)

    @model_validator(mode="after")
    def _feeds_something(self) -> "Curve":
        values = self.passes if isinstance(self.passes, list) else list(self.passes.values())
        if not any(values):
            raise ValueError("passes feed no bucket: give one of them more than 0")
        if self.most is not None and self.most <= 0:
            raise ValueError("most must be more than 0")
        return self


@dataclass(frozen=True)
class FedBucket:
    """A bucket in a curve: its pool, how often it is fed, and for how many tokens."""

    path: str
    manifest: Manifest
    passes: Fraction
    tokens: int

    @property
    def name(self) -> str:
        """Of the mixture's source."""
        bucket = self.manifest.bucket
        assert bucket is not None, "it is a bucket"
        return f"{bucket.by}-{bucket.name}"


def buckets_of(pool: str, by: str | None) -> list[tuple[str, Manifest]]:
    """Return the buckets that the pool at `pool` was divided into, path and manifest of each, in their order.

    Raises:
        RequestError: when there are none, some are missing, or it was divided in several ways.
    """
    root = storage.absolute(pool).rstrip("/")
    parent, _, name = root.rpartition("/")
    known = read_manifest(root).fingerprint if storage.exists(storage.join(root, INDEX_NAME)) else None
    found: dict[str, dict[int, tuple[str, Manifest]]] = {}
    for one in storage.names(parent):
        path = storage.join(parent, one)
        if not one.startswith(f"{name}-") or not is_artifact(path):
            continue
        m = read_manifest(path)
        bucket = m.bucket
        if bucket is None or bucket.pool != name or known not in (None, bucket.fingerprint):
            continue
        if by in (None, bucket.by):
            found.setdefault(bucket.by, {})[bucket.number] = path, m
    if not found:
        raise RequestError(
            f"no buckets of {pool} lie beside it{f', divided by {by}' if by else ''}: make them with "
            f"`epochal split {pool} --by COLUMN`"
        )
    if len(found) > 1:
        raise RequestError(
            f"{pool} is divided by {' and by '.join(sorted(found))}: say by which, as in by: {min(found)}"
        )
    ((column, parts),) = found.items()
    buckets = next(iter(parts.values()))[1].bucket
    assert buckets is not None, "only buckets were found"
    if len(parts) < buckets.buckets:
        raise RequestError(
            f"{buckets.buckets - len(parts)} of {buckets.buckets} buckets of {pool} by {column} are missing: run "
            "`epochal split` again"
        )
    return [parts[number] for number in sorted(parts)]


def fed(curve: Curve, buckets: Sequence[tuple[str, Manifest]], total: int | None) -> tuple[list[FedBucket], Fraction]:
    """Return how often and for how many tokens each bucket is fed, those with 0 passes too, and by what the curve was
    scaled.

    Args:
        curve: see there.
        buckets: path and manifest of each.
        total: tokens in all, to which the curve is scaled; None: as it stands.

    Raises:
        RequestError: when the curve does not fit the buckets, or cannot come to so many tokens.
    """
    passes = _passes(curve, [m for _, m in buckets])
    sizes = [m.tokens for _, m in buckets]
    factor = Fraction(1) if total is None else _factor(passes, sizes, total, curve.most)
    scaled = [_capped(factor * p, curve.most) for p in passes]
    exact = [p * n for p, n in zip(scaled, sizes, strict=True)]
    tokens = [int(t) for t in exact] if total is None else _rounded(exact, total)
    made = [FedBucket(path, m, p, n) for (path, m), p, n in zip(buckets, scaled, tokens, strict=True)]
    little = [b.name for b in made if b.passes and b.tokens < b.manifest.seq_len]
    if little:
        raise RequestError(f"bucket '{little[0]}' is fed for less than one sample: give it more passes, or 0")
    return made, factor


def _capped(passes: Fraction, most: Fraction | None) -> Fraction:
    return passes if most is None else min(passes, most)


def _passes(curve: Curve, buckets: Sequence[Manifest]) -> list[Fraction]:
    names = [m.bucket.name for m in buckets if m.bucket is not None]
    if isinstance(curve.passes, dict):
        unknown = [name for name in curve.passes if name not in names]
        missing = [name for name in names if name not in curve.passes]
        if unknown:
            near = did_you_mean(unknown[0], names) or f": they are {', '.join(names)}"
            raise RequestError(f"there is no bucket '{printable(unknown[0])}'{near}")
        if missing:
            raise RequestError(f"bucket '{missing[0]}' has no passes: give it some, 0 leaves it out")
        return [curve.passes[name] for name in names]
    numbered = {int(name[1:]): name for name in names if _NUMBERED.fullmatch(name)}
    if len(numbered) < len(names) - (NULL in names):
        raise RequestError(f"the buckets have names, not numbers: give passes by name, as in {{{names[0]}: 2.5}}")
    if numbered and max(numbered) >= len(curve.passes):
        raise RequestError(
            f"passes are {len(curve.passes)}, but there are buckets up to {numbered[max(numbered)]}: give "
            f"{max(numbered) + 1}, or passes by name"
        )
    return [Fraction(0) if name == NULL else curve.passes[int(name[1:])] for name in names]


def _factor(passes: Sequence[Fraction], sizes: Sequence[int], total: int, most: Fraction | None) -> Fraction:
    """Return by what passes are multiplied, those beyond `most` cut to it, to come to `total` tokens."""
    fed_parts = [(p, n) for p, n in zip(passes, sizes, strict=True) if p]
    if most is not None:
        reachable = most * sum(n for _, n in fed_parts)
        if total > reachable:
            raise RequestError(
                f"{total:,} tokens are more than the {int(reachable):,} that {float(most):g} passes of every bucket "
                "that is fed come to: raise most, or ask for fewer"
            )
        left = sorted(fed_parts, key=lambda part: -part[0])  # the highest reach `most` first
        rest = Fraction(total)
        while left:
            factor = rest / sum((p * n for p, n in left), Fraction(0))
            if factor * left[0][0] <= most:
                return factor
            rest -= most * left.pop(0)[1]
        return Fraction(most) / min(p for p, _ in fed_parts)
    return total / sum((p * n for p, n in fed_parts), Fraction(0))


def _rounded(exact: Sequence[Fraction], total: int) -> list[int]:
    """Return whole numbers that come to `total`, each less than one from its exact value: the largest fractions are
    rounded up, equal ones from the first on."""
    whole = [int(value) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
    for i in order[: total - sum(whole)]:
        whole[i] += 1
    return whole


def mixture_of(curve: Curve, buckets: Sequence[FedBucket]) -> Mixture:
    """Return the mixture that a curve makes of its buckets, with the seed 0."""
    parts = [(Ingredient(b.name, b.manifest, 0, curve.policy), b.tokens) for b in buckets if b.tokens]
    return by_tokens(parts, window_of(curve, buckets))


def window_of(curve: Curve, buckets: Sequence[FedBucket]) -> int:
    """Return over how many positions the shares are exact: enough for one of the smallest bucket.

    Raises:
        RequestError: when that is more than a window may have.
    """
    if curve.window is not None:
        return curve.window
    shares = {b.name: Plan.for_artifact(b.manifest, b.tokens).positions for b in buckets if b.tokens}
    smallest = min(shares, key=lambda name: shares[name])
    window = max(LEAST_WINDOW, -(-sum(shares.values()) // shares[smallest]))
    if window > MAX_WINDOW:
        raise RequestError(
            f"bucket '{smallest}' gives one in {window:,} samples, and a window has {MAX_WINDOW:,} at most: give it "
            "more passes, or 0"
        )
    return window


def mixture_text(sources: Mapping[str, Mapping[str, Any]], window: int, comment: Sequence[str]) -> str:
    """Return the YAML of a mixture, lines of comment first."""
    body = {"window": window, "sources": {name: dict(source) for name, source in sources.items()}}
    said = "".join(f"# {printable(line)}\n" for line in comment)
    return said + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=200)
