"""What the sources of a pool say of themselves: licence, citation and the like, in the configuration that its manifest
holds."""

from collections.abc import Mapping
from typing import Any

from ..common.errors import printable

FACTS = ("license", "citation", "url", "collected", "language", "pii")
"""The keys of a source that say what it is. They decide no token of a pool."""


def facts_of(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what sources say of themselves: the name of each and those of `FACTS` that are known, text or a list.

    Args:
        config: a pool's configuration as a manifest holds it. It may be of others: what does not look like a source is
            none.
    """
    sources = config.get("sources")
    listed = sources if isinstance(sources, list) else []
    named = [s for s in listed if isinstance(s, dict) and isinstance(s.get("name"), str)]
    facts = [{key: _stated(s.get(key)) for key in FACTS} for s in named]
    return [
        {"name": s["name"]} | {key: value for key, value in f.items() if value}
        for s, f in zip(named, facts, strict=True)
    ]


def facts_by_source(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the facts of each source by its name, those left out that say nothing; see `facts_of`."""
    found = {source.pop("name"): source for source in facts_of(config)}
    return {name: facts for name, facts in found.items() if facts}


def _stated(value: Any) -> str | list[str] | None:
    """Return a fact, text or a list, without what is blank; None where nothing is left, or where it is none."""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        return None
    said = [text for text in texts if text.strip()]
    return said if isinstance(value, list) else next(iter(said), None)


def plain(value: Any, longest: int | None = None) -> str:
    """Return a fact, or another value of a manifest, as one line of text without control characters, a list's parts
    one after the other, cut after `longest` characters."""
    line = printable(" ".join((", ".join(value) if isinstance(value, list) else str(value)).split()))
    return line if longest is None or len(line) <= longest else f"{line[: longest - 1]}…"


def without_facts(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded configuration without what its sources say of themselves."""
    sources = [{k: v for k, v in source.items() if k not in FACTS} for source in recorded.get("sources", ())]
    return recorded | ({"sources": sources} if "sources" in recorded else {})
