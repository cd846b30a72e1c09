"""The shapes of models that come with this package: what `model.preset` names."""

from pathlib import Path
from typing import Any

import yaml

from ...common.config import shipped, shipped_names
from ...common.errors import RequestError
from ...common.problems import did_you_mean

YAMLS = Path(__file__).parent.parent / "yamls"
"""The runs that come with this package; the shapes that `model.preset` names are in `models`."""


def presets() -> list[str]:
    """Return the names that `model.preset` knows."""
    return shipped_names(YAMLS / "models")


def preset_file(name: str) -> Path | None:
    """Return the file of a preset, also by its former name (`model-tiny`), or None."""
    return shipped(YAMLS / "models", name.lower().removeprefix("model-"))


def model_section(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the model section `data` with its preset, if any, filled in beneath.

    Raises:
        RequestError: for a name that is none.
    """
    name = data.get("preset")
    if name is None:
        return data
    path = preset_file(str(name))
    if path is None:
        meant = did_you_mean(str(name), presets())
        raise RequestError(f"{where}: model.preset must be one of {', '.join(presets())}, got '{name}'{meant}")
    return yaml.safe_load(path.read_text(encoding="utf-8"))["model"] | data
