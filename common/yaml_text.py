"""YAML of others, read within bounds: what is short to write may be without end once it is written out."""

import io
import re
from collections.abc import Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import RequestError, one_line
from .json_text import MOST_DEPTH
from .storage import regular_path

MOST_BYTES, MOST_VALUES = 1 << 20, 10_000
"""Of a configuration: bytes, and keys and values once its aliases are written out."""

_LONG_NUMBER = re.compile(r"[+-]?[\d_:.]{101,}")

_EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser that only names what comes in a text, and makes nothing of it."""


def read_yaml(where: str) -> DictConfig:
    """Return the mapping in the YAML file at `where`, interpolations unresolved.

    Raises:
        RequestError: when there is none, and for one beyond the bounds.
    """
    try:
        with open(regular_path(where), "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise RequestError(f"{where} does not exist") from None
    except IsADirectoryError:
        raise RequestError(f"{where} is a folder, not a configuration file") from None
    except OSError as error:
        raise RequestError(f"{where} cannot be read: {error.strerror}") from None
    try:
        config = OmegaConf.load(io.StringIO(bounded_yaml(text, where)))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        raise RequestError(f"{where} is not valid YAML: {one_line(error)}") from None
    if not isinstance(config, DictConfig):
        raise RequestError(f"{where} must hold `key: value` pairs at its top level")
    return config


def bounded_yaml(text: bytes | str, where: str) -> str:
    """Return a YAML text that can be parsed: the parser takes a level of the stack for a level of the text, and for an
    alias what it stands for.

    Raises:
        RequestError: for one beyond the bounds.
        yaml.YAMLError: for what is no YAML.
        UnicodeDecodeError: for what is no UTF-8.
    """
    if len(text) > MOST_BYTES:
        raise RequestError(f"{where} is larger than a configuration may be: at most {MOST_BYTES >> 10} kB")
    text = text if isinstance(text, str) else text.decode()
    open_sizes = [0]  # values within each list and mapping that is open
    sizes: dict[str, int] = {}  # those below each anchor
    names: list[str | None] = [None]
    for event in yaml.parse(text, Loader=_EVENTS):
        if isinstance(event, yaml.CollectionStartEvent):
            open_sizes.append(1)
            names.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size, name = open_sizes.pop(), names.pop()
            sizes |= {name: size} if name else {}
            open_sizes[-1] += size
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in names:
                raise RequestError(f"{where}: '{event.anchor[:40]}' holds itself: write out what it stands for")
            open_sizes[-1] += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            open_sizes[-1] += 1
            if event.implicit[0] and _LONG_NUMBER.fullmatch(event.value):
                raise RequestError(f"{where} holds a number of more than 100 digits")
        if len(open_sizes) > MOST_DEPTH:
            raise RequestError(f"{where} is nested deeper than {MOST_DEPTH} levels")
        if sum(open_sizes) > MOST_VALUES:
            raise RequestError(f"{where} holds more than {MOST_VALUES:,} values, those of its aliases counted")
    return text


_REFERENCE = re.compile(r"\$\{\s*(?:[\w.]+:)?(\.*)([^${}:]+?)\s*\}")


def check_references(values: Any, where: str) -> None:
    """Raise RequestError when references to references would become too much once they are all written out."""
    sizes: dict[tuple[str, ...], int] = {}

    def size(path: tuple[str, ...], depth: int) -> int:
        if depth > 2 * MOST_DEPTH:
            raise RequestError(f"{where}: '{'.'.join(path)[:80]}' is referred to through too many others")
        if path not in sizes:
            sizes[path] = 0  # until it is known; a circle is the resolver's to name
            value = _value_at(values, path)
            below = [(*path, str(key)) for key in (value if isinstance(value, dict) else range(_length(value)))]
            if isinstance(value, str):
                below = [_target(path, dots, key) for dots, key in _REFERENCE.findall(value)]
            sizes[path] = len(str(value)) * (not _length(value)) + sum(size(inner, depth + 1) for inner in below)
        return sizes[path]

    if size((), 0) > MOST_BYTES:
        raise RequestError(f"{where} is larger than a configuration may be once its references are written out")


def _length(value: Any) -> int:
    return len(value) if isinstance(value, dict | list) else 0


def _target(path: tuple[str, ...], dots: str, key: str) -> tuple[str, ...]:
    """Return what a reference within the value at `path` leads to; each leading dot but the first is a level up."""
    below = path[: -len(dots)] if dots else ()
    return (*below, *(part for part in re.split(r"[.\[\]]+", key) if part))


def _value_at(values: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(values, dict):
            values = next((value for key, value in values.items() if str(key) == part), "")
        elif isinstance(values, list) and part.isdecimal() and int(part) < len(values):
            values = values[int(part)]
        else:
            return ""
    return values
