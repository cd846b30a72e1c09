"""The fields of a row: by name, and inside of others."""

from typing import Any

MISSING = object()
"""Stands for a field that a row does not have."""


def field_of(content: dict[str, Any], key: str) -> Any:
    """Return the field of that very name, else the one inside another that a key with dots names, or MISSING."""
    return content[key] if key in content else inner(content, key)


def inner(content: dict[str, Any], key: str) -> Any:
    """Return the field that a key with dots in it names: one inside another; MISSING where there is none."""
    found: Any = content
    for name in key.split("."):
        if not isinstance(found, dict) or name not in found:
            return MISSING
        found = found[name]
    return found
