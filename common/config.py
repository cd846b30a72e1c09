"""Configuration files: YAML with interpolation and `key=value` overrides, held against a typed model.

Every command that takes a configuration reads it with `load_yaml` and then `validate`s it, so that a misspelt key, in a
file or an override, gives a one-line error with the key that was probably meant. What is written of a configuration is
`public`: passwords and tokens come into one from the environment and in URLs, and stay there.
"""

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PrivateAttr, ValidationError

from .errors import RequestError, Written, keep_secret, one_line, public
from .problems import did_you_mean, problem_text
from .storage import local_path
from .units import parse_count
from .yaml_text import bounded_yaml, check_references, read_yaml

M = TypeVar("M", bound=BaseModel)
C = TypeVar("C", bound="Configuration")


class Section(BaseModel):
    """Base of configurations and requests: frozen, every key must be a field, and every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Configuration(Section):
    """Base of what a configuration file holds as a whole."""

    _written: Written = PrivateAttr({})

    @property
    def written(self) -> Written:
        """Return what came from the environment, and how it was written."""
        return self._written

    def public(self, value: Any) -> Any:
        """Return JSON-like `value` as it may be written and shown: what came from the environment as it was written,
        URLs without credentials."""
        return public(value, self._written)

    def knowing(self: C, written: Written) -> C:
        """Return the same with more that came from the environment, into what it was made of."""
        copy = self.model_copy()
        copy._written = {**written, **self._written}
        return copy


class Loaded(dict[str, Any]):
    """A mapping that `load_yaml` has read, and what in it came from the environment."""

    written: Written = {}


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
    """Return `name` if a file is there, else the file in `folder` of that name. A folder of that name hides none.

    Raises:
        RequestError: when there is neither.
    """
    if os.path.isfile(local_path(name)):
        return name
    found = shipped(folder, name)
    if found is not None:
        return str(found)
    if os.path.isdir(local_path(name)):
        raise RequestError(f"{name} is a folder, not a configuration file")
    names = shipped_names(folder)
    meant = did_you_mean(name, names) or f" ({', '.join(names)})"
    raise RequestError(f"{name} is neither a file nor the name of a shipped configuration{meant}")


def load_yaml(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    model: type[BaseModel] | None = None,
    name: str | None = None,
) -> Loaded:
    """Return the mapping in the YAML file at `path` with `overrides` applied and interpolations resolved.

    An override is `key=value`: keys are dotted, a number picks an entry of a list (`sources.0.path=x`), the value
    replaces what was there. It is YAML, but where the key holds text, as a path or a name does, it is that text to the
    letter: ` #`, `: ` and `[` are part of it, `2024` is no number. There too `null` is none, and quotes round the whole
    value are YAML's. `${other.key}` and `${oc.env:NAME}` are resolved after the overrides; a value `???` must be
    overridden.

    Args:
        model: what the mapping will be held against; it says which keys hold text.
        name: what messages call the file (its path when None).

    Raises:
        RequestError: for a wrong request.
    """
    where = name or os.fspath(path)
    config = read_yaml(os.fspath(path))
    for override in overrides:
        _apply(config, override, model)
    check_references(OmegaConf.to_container(config, resolve=False), where)
    try:
        resolved, written = _resolved(config)
    except OmegaConfBaseException as error:
        key = re.sub(r"\[(\d+)\]", r".\1", str(getattr(error, "full_key", None) or "a value"))
        if "mandatory" in str(error):
            if model is not None:
                _check_keys(model, config, where)  # the value may have been given under a wrong name
            raise RequestError(f"{where}: '{key}' must be given: add {key}=VALUE") from None
        raise RequestError(f"{where}: '{key}' cannot be resolved: {_reference_problem(one_line(error))}") from None
    loaded = Loaded({str(key): value for key, value in resolved.items()})
    loaded.written = written
    keep_secret(written)
    return loaded


def _reference_problem(message: str) -> str:
    """Return what omegaconf says of a reference, in words of ours where it is one of the usual two things."""
    if match := re.search(r"Environment variable '([^']*)' not found", message):
        return f"the environment variable {match[1]} is not set"
    if match := re.fullmatch(r"Interpolation key '([^']*)' not found", message):
        return f"there is no key '{match[1]}'"
    return message


def _resolved(config: DictConfig) -> tuple[dict[Any, Any], Written]:
    """Return the mapping with its interpolations resolved, and what in it came from the environment."""
    read: dict[str, str] = {}

    def reading(name: str, *default: Any) -> Any:
        if name in os.environ:
            read[os.environ[name]] = f"${{oc.env:{name}}}"
        return oc.env(name, *default)

    def spelling(name: str, *default: Any) -> Any:
        return f"${{oc.env:{name}}}" if name in os.environ else oc.env(name, *default)

    resolved = _resolve(config, reading)
    written = dict(read)
    with contextlib.suppress(OmegaConfBaseException):  # a resolver that takes other text than NAME for an error
        written |= _differing(resolved, _resolve(config, spelling)) if read else {}
    written.pop("", None)
    return resolved, written


def _resolve(config: DictConfig, environment: Callable[..., Any]) -> dict[Any, Any]:
    """Return the mapping with `oc.env` resolved by `environment`."""
    OmegaConf.register_resolver("oc.env", environment, replace=True, annotation_validation="off")
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    finally:
        OmegaConf.register_resolver("oc.env", oc.env, replace=True)
    assert isinstance(resolved, dict), "_read returns mappings only"
    return resolved


def _differing(value: Any, spelt: Any) -> dict[str, str]:
    """Return the texts of a configuration that differ in another reading of it: text here -> text there."""
    if isinstance(value, dict) and isinstance(spelt, dict):
        return {k: v for key in value for k, v in _differing(value[key], spelt.get(key)).items()}
    if isinstance(value, list) and isinstance(spelt, list):
        return {k: v for a, b in zip(value, spelt, strict=False) for k, v in _differing(a, b).items()}
    return {value: spelt} if isinstance(value, str) and isinstance(spelt, str) and value != spelt else {}


def _check_keys(model: type[BaseModel], config: DictConfig, where: str) -> None:
    """Raise RequestError for a key that `model` does not know, whatever the values are."""
    try:
        model.model_validate(OmegaConf.to_container(config))
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            if problem["type"] == "extra_forbidden":
                raise RequestError(f"{where}: {_unknown_key(model, problem['loc'])}") from None


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
        valid = model.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    else:
        if isinstance(valid, Configuration) and isinstance(data, Loaded):
            valid._written = data.written
        return valid
    unknown = [p for p in problems if p["type"] == "extra_forbidden"]
    if unknown:
        raise RequestError(f"{where}: {_unknown_key(model, unknown[0]['loc'])}")
    problem = problems[0]
    key = ".".join(_real_parts(model, problem["loc"])) or "the configuration"
    if problem["type"] == "missing":
        raise RequestError(f"{where}: '{key}' must be given")
    message, given = problem_text(problem), problem["input"]
    section = _classes_at(model, [str(part) for part in problem["loc"]])
    if problem["type"] == "model_type" and any("name" in _names(cls) for cls in section):
        message += f", got '{given}': write {key}.name={given}"
    shown = f", got {given!r}" if isinstance(given, str | int | float | None) and f"'{given}'" not in message else ""
    raise RequestError(f"{where}: {key}: {message}{shown}")


def _unknown_key(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    *section, key = (str(part) for part in loc)
    parents = _real_parts(model, loc[:-1])
    known = sorted({name for cls in _classes_at(model, section) for name in _names(cls)})
    shown = ".".join([*parents, key])
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    meant = getattr(model, "MEANT", {}).get(shown)
    if meant:
        return f"unknown key '{shown}': write {meant}"
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


def _classes_at(model: type[BaseModel], section: Sequence[int | str]) -> list[type[BaseModel]]:
    """Return the models that the keys of a section are checked against."""
    return _walk(model, section)[1]


def _tags(cls: type[BaseModel]) -> set[str]:
    """Return the values of `cls`'s Literal fields: one of them is the tag that pydantic adds to an error's location."""
    return {str(value) for field in cls.model_fields.values() for value in get_args(field.annotation)}


def _real_parts(model: type[BaseModel], loc: Sequence[int | str]) -> list[str]:
    """Return `loc` without the tags of tagged unions, which no file contains."""
    return _walk(model, loc)[0]


def _walk(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[list[str], list[type[BaseModel]]]:
    """Return the parts of `loc` that are no tags, and the models that it leads to; an index leads to no other one.

    Where a union may be meant, its tag comes first: a field of the same name (`ar` in an objective) comes after it.
    """
    parts: list[str] = []
    classes: list[type[BaseModel]] = [model]
    for part in map(str, loc):
        tagged, annotations = [cls for cls in classes if part in _tags(cls)], _fields(classes, part)
        if tagged and (len(classes) > 1 or not annotations):
            classes = tagged
            continue
        if annotations:
            classes = [cls for annotation in annotations for cls in _models_in(annotation)]
        parts.append(part)
    return parts, classes


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
