"""Configuration files: YAML with interpolation and `key=value` overrides, held against a typed model.

Every command that takes a configuration reads it with `load_yaml` and then `validate`s it, so that a misspelt key, in a
file or an override, gives a one-line error with the key that was probably meant.
"""

import difflib
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from .errors import RequestError, one_line
from .json_text import MOST_DEPTH
from .problems import problem_text
from .storage import local_path, regular_path
from .units import parse_count

M = TypeVar("M", bound=BaseModel)

MOST_BYTES, MOST_VALUES = 1 << 20, 10_000
"""Of a configuration: bytes, and keys and values once its aliases are written out."""

_LONG_NUMBER = re.compile(r"[+-]?[\d_:.]{101,}")

_EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser that only names what comes in a text, and makes nothing of it."""


class Section(BaseModel):
    """Base of configurations and requests: frozen, every key must be a field, and every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Record(Section):
    """Base of what this package writes and reads back: a Section that does not convert values of other types either."""

    model_config = ConfigDict(strict=True)


def _count(value: object) -> object:
    try:
        return parse_count(value) if isinstance(value, str) else value
    except RequestError as error:
        raise ValueError(str(error)) from None


PathText = Annotated[str, AfterValidator(local_path)]
"""A path or URL, with the home folder for a leading `~/`."""

Count = Annotated[int, BeforeValidator(_count)]
"""An integer, also written as 500k, 1M, 1.5B."""


def shipped_names(folder: Path) -> list[str]:
    """Return the names of the YAML files in `folder`, which come with this package."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def shipped(folder: Path, name: str) -> Path | None:
    """Return the YAML file in `folder` of that name (with or without `.yaml`), or None."""
    path = folder / (name.removesuffix(".yaml") + ".yaml")
    return path if path.parent == folder and path.is_file() else None


def file_or_shipped(folder: Path, name: str) -> str:
    """Return `name` if a file is there, else the file in `folder` of that name, else `name`.

    A folder of that name hides no shipped file.
    """
    return name if os.path.isfile(local_path(name)) else str(shipped(folder, name) or name)


def load_yaml(
    path: str | os.PathLike[str], overrides: Sequence[str] = (), model: type[BaseModel] | None = None
) -> dict[str, Any]:
    """Return the mapping in the YAML file at `path` with `overrides` applied and interpolations resolved.

    An override is `key=value`: keys are dotted, a number picks an entry of a list (`sources.0.path=x`), the value
    replaces what was there. It is YAML, but where the key holds text, as a path or a name does, it is that text to the
    letter: ` #`, `: ` and `[` are part of it, `2024` is no number. There too `null` is none, and quotes round the whole
    value are YAML's. `${other.key}` and `${oc.env:NAME}` are resolved after the overrides; a value `???` must be
    overridden.

    Args:
        model: what the mapping will be held against; it says which keys hold text.

    Raises:
        RequestError: for a wrong request.
    """
    where = os.fspath(path)
    config = _read(where)
    for override in overrides:
        _apply(config, override, model)
    _check_references(OmegaConf.to_container(config, resolve=False), where)
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = re.sub(r"\[(\d+)\]", r".\1", str(getattr(error, "full_key", None) or "a value"))
        if "mandatory" in str(error):
            raise RequestError(f"{where}: '{key}' must be given: add {key}=VALUE") from None
        raise RequestError(f"{where}: '{key}' cannot be resolved: {one_line(error)}") from None
    assert isinstance(resolved, dict), "_read returns mappings only"
    return {str(key): value for key, value in resolved.items()}


def _read(where: str) -> DictConfig:
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


def _check_references(values: Any, where: str) -> None:
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


def _apply(config: DictConfig, override: str, model: type[BaseModel] | None) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise RequestError(f"'{override[:200]}' is not an override: write key=value, as in optimizer.lr=1e-3")
    try:
        value = text if _is_plain(text) and model and _holds_text(model, key) else _from_yaml(text)
        _check_index(config, key)
        OmegaConf.update(config, key, value, merge=False, force_add=True)
    except (yaml.YAMLError, OmegaConfBaseException, AttributeError, TypeError, ValueError) as error:
        raise RequestError(f"override '{override[:200]}' cannot be applied: {one_line(error)}") from None


def _from_yaml(text: str) -> Any:
    """Return a value read as the files are read: 1e-3 is a number, [1, 2] a list, ${a.b} a reference."""
    bounded_yaml(text, f"the value '{text[:80]}'")
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"v={text}"]), resolve=False)["v"]  # type: ignore[index,call-overload]


def _is_plain(text: str) -> bool:
    """Return whether a value is neither null nor in quotes."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return not quoted and text.strip() not in ("", "null", "Null", "NULL")


def _holds_text(model: type[BaseModel], key: str) -> bool:
    """Return whether the value of a dotted key is text, or none, and nothing else."""
    annotations: list[Any] = [model]
    for part in key.split("."):
        annotations = [inner for annotation in annotations for inner in _below(annotation, part)]
    kinds = {kind for annotation in annotations for kind in _kinds(annotation)}
    return str in kinds and kinds <= {str, type(None)}


def _below(annotation: Any, part: str) -> list[Any]:
    """Return the types that part of a key has within a value of some type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _fields([annotation], part)
    inner = get_args(annotation)
    if get_origin(annotation) in (list, tuple):
        return list(inner[:1])
    if get_origin(annotation) is dict:
        return list(inner[1:])
    return [found for choice in inner for found in _below(choice, part)]


def _kinds(annotation: Any) -> list[Any]:
    """Return the types that a value may have: those of a union's members, what is annotated."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in _kinds(member)]
    return [annotation]


def _check_index(config: DictConfig, key: str) -> None:
    """Raise RequestError when a part of `key` picks an entry that a list does not have."""
    node: Any = config
    for part in key.split("."):
        if isinstance(node, ListConfig):
            if not part.isdecimal() or int(part) >= len(node):
                raise RequestError(
                    f"'{key}': the list there has {len(node)} entries (the first is 0), none is '{part}'"
                )
            node = node._get_node(int(part))
        elif isinstance(node, DictConfig) and not node._is_none():
            node = node._get_node(part)
        else:
            return


def validate(model: type[M], data: dict[str, Any], where: str) -> M:
    """Return `data` as a `model`, whose fields are typed and, if it forbids others as a Section does, the only keys.

    Args:
        where: the file (or section) that `data` came from, named first in the error.

    Raises:
        RequestError: of one line: an unknown key with the nearest known one, else the first key that is wrong and why.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    unknown = [p for p in problems if p["type"] == "extra_forbidden"]
    if unknown:
        raise RequestError(f"{where}: {_unknown_key(model, unknown[0]['loc'])}")
    problem = problems[0]
    key = ".".join(_real_parts(model, problem["loc"])) or "the configuration"
    if problem["type"] == "missing":
        raise RequestError(f"{where}: '{key}' must be given")
    message, given = problem_text(problem), problem["input"]
    shown = f", got {given!r}" if isinstance(given, str | int | float | None) and f"'{given}'" not in message else ""
    raise RequestError(f"{where}: {key}: {message}{shown}")


def _unknown_key(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    *section, key = (str(part) for part in loc)
    parents = _real_parts(model, loc[:-1])
    known = sorted({name for cls in _classes_at(model, section) for name in _names(cls)})
    shown = ".".join([*parents, key])
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"unknown key '{shown}': did you mean '{'.'.join([*parents, near[0]])}'?"
    elsewhere = [path for path in _paths(model) if path.rpartition(".")[2] == key]
    if elsewhere:
        return f"unknown key '{shown}': did you mean '{elsewhere[0]}'?"
    return f"unknown key '{shown}': known here are {', '.join(known)}"


def _names(cls: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in cls.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models an annotation mentions: itself, members of unions, elements of lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _fields(classes: Iterable[type[BaseModel]], part: str) -> list[Any]:
    pairs = [(field.alias or name, field.annotation) for cls in classes for name, field in cls.model_fields.items()]
    return [annotation for name, annotation in pairs if name == part]


def _classes_at(model: type[BaseModel], section: Sequence[str]) -> list[type[BaseModel]]:
    """Return the models that the keys of a section are checked against. Parts that name no field (indices, tags of
    tagged unions) do not lead to another model."""
    classes: list[type[BaseModel]] = [model]
    for part in section:
        annotations = _fields(classes, part)
        if annotations:
            classes = [cls for annotation in annotations for cls in _models_in(annotation)]
        else:
            tagged = [cls for cls in classes if part in _tags(cls)]
            classes = tagged or classes
    return classes


def _tags(cls: type[BaseModel]) -> set[str]:
    """Return the values of `cls`'s Literal fields: one of them is the tag that pydantic adds to an error's location."""
    return {str(value) for field in cls.model_fields.values() for value in get_args(field.annotation)}


def _real_parts(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Return `loc` without the tags of tagged unions, which no file contains."""
    parts: list[str] = []
    classes: list[type[BaseModel]] = [model]
    for part in loc:
        annotations = _fields(classes, str(part))
        if annotations:
            classes = [cls for annotation in annotations for cls in _models_in(annotation)]
        elif isinstance(part, str) and any(part in _tags(cls) for cls in classes):
            continue
        parts.append(str(part))
    return parts


def _paths(model: type[BaseModel], depth: int = 4) -> list[str]:
    """Return the dotted paths of all fields of `model` and of the models in it, nearest first."""
    paths, level = [], [("", model)]
    for _ in range(depth):
        paths += [prefix + name for prefix, cls in level for name in _names(cls)]
        level = [
            (f"{prefix}{field.alias or name}.", inner)
            for prefix, cls in level
            for name, field in cls.model_fields.items()
            for inner in _models_in(field.annotation)
        ]
    return paths
