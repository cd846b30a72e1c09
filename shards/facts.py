"""What the sources of a pool say of themselves: licence, citation and the like, in the configuration that its manifest
holds."""

from collections.abc import Mapping
from typing import Any

from ..common.errors import printable

FACTS = ("license", "citation", "url", "collected", "language", "pii")
"""The keys of a source that say what it is. They decide no byte of a pool."""

Facts = dict[str, str | list[str]]
"""By key; a language may be several."""


def facts_of(config: Mapping[str, Any]) -> dict[str, Facts]:
    """Return what each source says of itself, by name; sources that say nothing are left out.

    Args:
        config: a pool's configuration as its manifest holds it, which may be anybody's.
    """
    sources = config.get("sources")
    named = [s for s in sources if isinstance(s, dict)] if isinstance(sources, list) else []
    found = {
        str(source.get("name")): {key: source[key] for key in FACTS if _is_fact(source.get(key))} for source in named
    }
    return {name: facts for name, facts in found.items() if facts}


def _is_fact(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(entry, str) for entry in value))


def plain(value: str | list[str], longest: int | None = None) -> str:
    """Return a fact as one line, cut after `longest` characters."""
    line = printable(" ".join((value if isinstance(value, str) else ", ".join(value)).split()))
    return line if longest is None or len(line) <= longest else f"{line[: longest - 1]}…"
