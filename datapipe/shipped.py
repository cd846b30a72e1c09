"""The configurations that come with epochal, by name."""

import os
from collections.abc import Sequence

from ..shards.settings import load_yaml, validate
from .config import Build

FOLDER = os.path.join(os.path.dirname(__file__), "yamls")


def names() -> list[str]:
    """Return the names of the shipped configurations."""
    return sorted(name.removesuffix(".yaml") for name in os.listdir(FOLDER) if name.endswith(".yaml"))


def load(config: str, overrides: Sequence[str] = ()) -> Build:
    """Return the build that a YAML file, or a shipped configuration's name, describes. Raises RequestError."""
    shipped = os.path.join(FOLDER, f"{config}.yaml")
    path = shipped if not os.path.exists(config) and os.path.exists(shipped) else config
    return validate(Build, load_yaml(path, overrides), path)
