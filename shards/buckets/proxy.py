"""Proxies: a mixture with the same passes over a part of each source's unique tokens, for small runs that tell of a
large one."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ...common import storage
from ...common.errors import RequestError
from ...common.units import tokens_for_epochs
from ..artifact import Artifact, open_artifact
from ..carve import carve_from, default_out
from ..order.mixture_config import MixtureSettings, MixtureSource
from ..without.found import TakenOut, read_table


@dataclass(frozen=True)
class Proxy:
    """A smaller mixture.

    Attributes:
        settings: of the mixture, as its YAML has them.
        unique_tokens: of each source, before and now.
    """

    settings: dict[str, Any]
    unique_tokens: dict[str, tuple[int, int]]


def scale_of(text: str) -> Fraction:
    """Return a scale written as 1/16 or 0.0625.

    Raises:
        RequestError: for what is none, or does not lie between 0 and 1.
    """
    try:
        scale = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise RequestError(f"--scale '{text[:40]}' is no number: write it as 1/16") from None
    if not 0 < scale < 1:
        raise RequestError(f"--scale must lie between 0 and 1, as in 1/16, got {text[:40]}")
    return scale


def proxy(settings: MixtureSettings, scale: Fraction, shown: Callable[[str], str]) -> Proxy:
    """Carve a part of each source of a mixture; return the mixture with the same passes over these parts.

    A part of a subset is the subset of the same window of the pool, only shorter; of a pool, its replicate 0. Parts
    that are there already are used.

    Args:
        settings: the mixture.
        scale: how large the parts are.
        shown: how a path is written in the smaller mixture.

    Raises:
        RequestError: where a source is too small for a part, or its pool is not at hand.
    """
    opened = {name: open_artifact(source.path) for name, source in settings.sources.items()}
    sizes = {name: _size(name, artifact, scale) for name, artifact in opened.items()}
    sources = {
        name: _scaled(source, opened[name].manifest.tokens, sizes[name])
        | {"path": shown(_carved(name, opened[name], sizes[name]))}
        for name, source in settings.sources.items()
    }
    body = settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True) | {"sources": sources}
    for stage, of_stage in zip(settings.stages, body.get("stages", ()), strict=True):
        if stage.tokens is not None:
            of_stage["tokens"] = _at_least_one(stage.tokens * scale)
    return Proxy(body, {name: (artifact.manifest.tokens, sizes[name]) for name, artifact in opened.items()})


def _size(name: str, artifact: Artifact, scale: Fraction) -> int:
    m = artifact.manifest
    size = int(m.tokens * scale)
    if size < m.seq_len:
        raise RequestError(
            f"source '{name}' has {m.tokens:,} unique tokens, of which {scale} is {size:,}: less than one sample of "
            f"{m.seq_len:,}; use a larger --scale, or leave the source out"
        )
    return size


def _scaled(source: MixtureSource, before: int, now: int) -> dict[str, Any]:
    """Return a source's settings with the same passes over fewer unique tokens."""
    body = source.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    if source.tokens is not None:
        return body | {"tokens": _at_least_one(Fraction(source.tokens, before) * now)}
    if source.epochs is not None:
        tokens_for_epochs(source.epochs, now)  # refused here rather than when the mixture is read
    return body


def _at_least_one(tokens: Fraction) -> int:
    return max(1, round(tokens))


def _carved(name: str, artifact: Artifact, tokens: int) -> str:
    """Return the path of a part of an artifact."""
    m = artifact.manifest
    if m.parent is None:
        return carve_from(artifact, tokens)[0]
    if not m.parent.path:
        raise RequestError(f"source '{name}' stands alone at {artifact.root}: name its pool, or a view of it")
    pool = open_artifact(storage.join(artifact.root, m.parent.path))
    if pool.manifest.fingerprint != m.parent.fingerprint:
        raise RequestError(f"source '{name}': {pool.root} is not the pool that it was carved from")
    taken_out = TakenOut(read_table(artifact.root, m.files), tuple(m.without.by)) if m.without else None
    out = default_out(pool, tokens, m.parent.replicate, "", taken_out)
    return carve_from(pool, tokens, m.parent.replicate, out, taken_out=taken_out)[0]
