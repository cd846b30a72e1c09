"""The training keys that a grid sets: those that follow from itself, those that change no figure, those of its arms."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

DEFAULT = "default"
"""The arm that a type of model has where the grid names none, and that all its arms are compared with."""

ARM_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*")

OWN_KEYS = {
    "objective.name": "objectives",
    "objective": "objectives",
    "seed": "seeds",
    "max_duration": "total_tokens",
    "train_loader.dataset.path": "pool and unique_tokens",
    "eval_loader.dataset.path": "validation",
    "save_folder": "out",
    "run_name": "name",
    "autoresume": "nothing, it is always on",
}
"""Training keys that follow from the grid, and from which of its keys."""

COSMETIC = {
    *("run_name", "save_folder", "save_interval", "save_num_checkpoints_to_keep", "autoresume", "variables"),
    *("progress_bar", "log_to_console", "console_log_interval", "python_log_level", "dist_timeout", "loggers"),
    *("activation_checkpointing", "attention_backend"),
}
"""Training keys that change no figure, but for rounding: a run is the same run without them."""


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as dotted keys: {optimizer: {lr: [1]}} is {optimizer.lr: [1]}; later ones replace.

    An empty mapping is a value: a section with nothing but its defaults.
    """
    found: dict[str, Any] = {}
    for key, inner in value.items():
        path = f"{prefix}{key}"
        found |= flat(inner, f"{path}.") if isinstance(inner, Mapping) and inner else {path: inner}
    return found


def settable(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings as dotted keys.

    Raises:
        ValueError: for a training key that follows from the grid.
    """
    found = flat(keys)
    for key in found:
        if key in OWN_KEYS:
            raise ValueError(f"{key} is set by the grid itself: use {OWN_KEYS[key]}")
    return found


def lists(keys: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return nested lists of values to run as dotted keys.

    Raises:
        ValueError: for what is no list of different values, and for a key that follows from the grid.
    """
    found = settable(keys)
    for key, values in found.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{key} must be a list of the values to run, as in [{json.dumps(values)}]")
        if len({json.dumps(v, sort_keys=True) for v in values}) < len(values):
            raise ValueError(f"{key} names a value twice")
    return found


Arms = dict[str, dict[str, dict[str, Any]]]
"""Type of model -> name of an arm -> dotted training keys in place of the grid's."""


def named_arms(value: Mapping[str, Any]) -> Arms:
    """Return the arms of each type, `default` (no change unless it says so) the first of each.

    Raises:
        ValueError: for a name that no folder can have, and for what is no mapping of training keys.
    """
    found: Arms = {}
    for kind, arms in value.items():
        if not isinstance(arms, Mapping) or not all(isinstance(k, Mapping) for k in arms.values()):
            raise ValueError(
                f"{kind} must be names of arms with their training keys, as in {{masked: {{model.dropout: 0.1}}}}"
            )
        for name in arms:
            if not ARM_NAME.fullmatch(str(name)):
                raise ValueError(f"the arm '{name}' of {kind}: a name is small letters, digits and _")
        found[kind] = {DEFAULT: {}} | {str(name): settable(keys) for name, keys in arms.items()}
    return found


def check_arms(arms: Arms, fields: Mapping[str, set[str]], varied: set[str]) -> None:
    """Check the arms against the grid's objectives.

    Args:
        arms: of the grid.
        fields: keys of each objective's section, by its name.
        varied: keys that the grid varies.

    Raises:
        ValueError: for an arm of no objective, a key that its objective does not have, and one that is varied.
    """
    for kind, named in arms.items():
        if kind not in fields:
            raise ValueError(f"{kind} is none of the grid's objectives ({', '.join(fields)})")
        for name, keys in named.items():
            for key in keys:
                if key in varied:
                    raise ValueError(f"{kind}.{name} sets {key}, which overrides vary: choose one of the two")
                check_objective_key(key, fields[kind], f"{kind} has no '{key}'")


def check_members(members: Sequence[int], seeds: int) -> None:
    """Check the sizes of ensembles against the number of seeds.

    Raises:
        ValueError: for fewer than two members, and for more than there are seeds.
    """
    for size in members:
        if size < 2:
            raise ValueError(f"members asks for an ensemble of {size}: it takes two or more")
        if size > seeds:
            raise ValueError(
                f"members asks for an ensemble of {size}, a model of each seed, but seeds are {seeds}: add some or ask "
                "for fewer members"
            )


def check_objective_key(key: str, known: set[str], problem: str) -> None:
    """Raise ValueError, the nearest known key named, where `key` is of an objective's section and none of `known`."""
    section, _, name = key.partition(".")
    if section != "objective" or name in known:
        return
    near = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"did you mean 'objective.{near[0]}'?" if near else f"known are {', '.join(sorted(known))}"
    raise ValueError(f"{problem}: {hint}")
