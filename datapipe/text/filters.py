"""Filters: those of datatrove, by class name and parameters."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from ...common.errors import RequestError, one_line
from ..config import Filter

UNUSABLE = {
    "LambdaFilter": "it needs a Python function, which a YAML file cannot hold",
    "SamplerFilter": "what it keeps depends on reading order; use a source's `fraction`",
    "BaseFilter": "it is the base of the others",
}


def make_filters(filters: Sequence[Filter]) -> list[Any]:
    """Return datatrove's pipeline steps for `filters`.

    Raises:
        RequestError: one line, for anything that is wrong.
    """
    return [_make(i, chosen) for i, chosen in enumerate(filters)]


def _make(i: int, chosen: Filter) -> Any:
    from datatrove.pipeline import filters as library

    known = [n for n in dir(library) if n.endswith("Filter") and n not in UNUSABLE]
    where = f"filters.{i}"
    if chosen.name in UNUSABLE:
        raise RequestError(f"{where}: {chosen.name} cannot be used: {UNUSABLE[chosen.name]}")
    if chosen.name not in known:
        near = difflib.get_close_matches(chosen.name, known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
        raise RequestError(f"{where}: unknown filter '{chosen.name}': {hint}")
    cls = getattr(library, chosen.name)
    accepted = [p for p in inspect.signature(cls.__init__).parameters if p not in ("self", "exclusion_writer")]
    for key in chosen.parameters:
        if key not in accepted:
            near = difflib.get_close_matches(key, accepted, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"it takes {', '.join(accepted)}"
            raise RequestError(f"{where}: {chosen.name} has no parameter '{key}': {hint}")
    try:
        return cls(**chosen.parameters)
    except ImportError as error:
        raise RequestError(f"{where}: {chosen.name} needs a package that is missing: {one_line(error)}") from None
    except (TypeError, ValueError, AssertionError) as error:
        raise RequestError(f"{where}: {chosen.name}: {one_line(error)}") from None


def try_filters(filters: Sequence[Any]) -> None:
    """Run each filter on a trial document, so that a package it lacks shows before the build and not in a task.

    Anything else that a filter needs of a document, such as a URL in its metadata, is not checked.

    Raises:
        RequestError: for a wrong request.
    """
    from datatrove.data import Document

    for i, step in enumerate(filters):
        try:
            step.filter(Document(text="A trial document. It has two sentences.", id="trial"))
        except ImportError as error:
            raise RequestError(
                f"filters.{i}: {type(step).__name__} needs a package that is missing ({one_line(error)}): "
                "install epochal's extra 'filters'"
            ) from None
        except Exception:
            continue


def removed_by(filters: Sequence[Any]) -> list[dict[str, Any]]:
    """Return for each filter step what it saw and removed: {"name", "seen", "removed", "reasons": {reason: count}}."""
    rows = []
    for step in filters:
        stats = {label: int(metric.total) for label, metric in step.stats.stats.items()}
        reasons = {k.removeprefix("dropped_"): v for k, v in stats.items() if k.startswith("dropped_")}
        row = {"name": type(step).__name__, "seen": stats.get("total", 0), "removed": stats.get("dropped", 0)}
        rows.append(row | {"reasons": dict(sorted(reasons.items()))})
    return rows
