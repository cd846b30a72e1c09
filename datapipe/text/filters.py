"""Filters: those of datatrove, by class name and parameters, each in a step that accounts for what it takes away."""

import difflib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from ...common.errors import RequestError, WorkError, one_line
from ..config import Filter
from .document_key import content_key, normalise
from .excerpts import PER_FILTER, excerpt, smallest

FILTERED = pa.schema(
    [
        ("key", pa.binary()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("filter", pa.string()),
        ("reason", pa.string()),
    ]
)
"""A document that a filter took away; its key is that of the text as the filter saw it."""

REASON_CHARS = 200

UNUSABLE = {
    "LambdaFilter": "it needs a Python function, which a YAML file cannot hold",
    "SamplerFilter": "what it keeps depends on reading order; use a source's `fraction`",
    "BaseFilter": "it is the base of the others",
}


class FilterStep(PipelineStep):
    """One of datatrove's filters in the pipeline. It yields what the filter keeps and accounts for the rest.

    Attributes:
        label: the filter's name, with its place in the configuration where two have that name.
        take: where rows of FILTERED go; set before the step runs.
        reasons: how many documents were taken away for each.
        changed: how many documents were kept with another text, as filters do that cut lines out.
        samples: (key, id, source, reason, excerpt) of a few documents that were taken away, those of the smallest keys.
    """

    name = "Filter"
    type = "epochal"

    def __init__(self, label: str, chosen: Filter, inner: Any, sources: Sequence[str]) -> None:
        super().__init__()
        self.label, self._inner, self._sources = label, inner, sources
        parameters = ", ".join(f"{key}={value}" for key, value in chosen.parameters.items())
        self._unstated = parameters or "the filter states no reason"
        self.take: Callable[[tuple[Any, ...]], None] = nowhere
        self.seen = self.changed = 0
        self.reasons: Counter[str] = Counter()
        self.samples: list[tuple[Any, ...]] = []

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents that the filter keeps."""
        from datatrove.pipeline.filters.base_filter import get_filter_result  # with the client of the hub

        for batch in batched(data, self._inner.batch_size):
            before = [document.text for document in batch]
            for document, text, answer in zip(batch, before, self._judge(batch), strict=True):
                self.seen += 1
                kept, reason = get_filter_result(answer)
                if kept:
                    self.changed += document.text != text
                    yield document
                else:
                    self._take_away(document, text, reason)

    def try_on(self, document: Document) -> None:
        """Have the filter judge a document that is not counted."""
        self._inner.filter(document)

    def _judge(self, batch: list[Document]) -> list[Any]:
        try:
            return list(self._inner.filter_batch(batch))
        except Exception as error:  # whatever the filter, or the model that it runs, raises
            source = self._sources[batch[0].metadata["_source"]]
            which = f"document '{batch[0].id}'" if batch[0].id else "a document without an id"
            raise WorkError(
                f"filter {self.label} fails on {which} of source '{source}' ({one_line(error)}): give it what it "
                "needs, or leave it out"
            ) from error

    def _take_away(self, document: Document, text: str, reason: Any) -> None:
        key, source = content_key(normalise(text)), self._sources[document.metadata["_source"]]
        stated = one_line(str(reason or self._unstated), REASON_CHARS)
        identifier = document.id or key.hex()
        self.reasons[stated] += 1
        self.take((key, identifier, source, self.label, stated))
        if len(self.samples) < PER_FILTER or key.hex() <= self.samples[-1][0]:
            row = (key.hex(), identifier, source, stated, excerpt(text.strip()))
            self.samples = smallest([*self.samples, row], PER_FILTER)


def nowhere(row: tuple[Any, ...]) -> None:
    """Take a row of FILTERED outside of a task."""


def make_filters(filters: Sequence[Filter], sources: Sequence[str] = ()) -> list[FilterStep]:
    """Return the pipeline's steps for `filters`.

    Args:
        sources: the names of the build's sources, by number.

    Raises:
        RequestError: one line, for anything that is wrong.
    """
    names = Counter(chosen.name for chosen in filters)
    labels = [f"{f.name} (filters.{i})" if names[f.name] > 1 else f.name for i, f in enumerate(filters)]
    return [
        FilterStep(label, chosen, _make(i, chosen), sources)
        for i, (label, chosen) in enumerate(zip(labels, filters, strict=True))
    ]


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
    for key, parameter in inspect.signature(cls).parameters.items():
        ordinary = parameter.kind == parameter.POSITIONAL_OR_KEYWORD
        if ordinary and parameter.default is parameter.empty and key not in chosen.parameters:
            raise RequestError(f"{where}: {chosen.name} needs the parameter '{key}'")
    if chosen.parameters.get("keep_fraction"):
        raise RequestError(f"{where}: {chosen.name} draws what it keeps in reading order: leave keep_fraction out")
    try:
        return cls(**chosen.parameters)
    except ImportError as error:
        raise RequestError(f"{where}: {chosen.name} needs a package that is missing: {one_line(error)}") from None
    except OSError as error:
        raise RequestError(f"{where}: {chosen.name} cannot get a file that it needs ({one_line(error)})") from None
    except (TypeError, ValueError, AssertionError, re.error) as error:
        raise RequestError(f"{where}: {chosen.name}: {one_line(error)}") from None


def try_filters(filters: Sequence[FilterStep]) -> None:
    """Run each filter on a trial document, so that a package it lacks shows before the build and not in a task.

    Anything else that a filter needs of a document, such as a URL in its metadata, is not checked.

    Raises:
        RequestError: for a wrong request.
    """
    for i, step in enumerate(filters):
        try:
            step.try_on(Document(text="A trial document. It has two sentences.", id="trial"))
        except ImportError as error:
            raise RequestError(
                f"filters.{i}: {step.label} needs a package that is missing ({one_line(error)}): "
                "install epochal's extra 'filters'"
            ) from None
        except Exception:
            continue


class Step(Protocol):
    """What is counted of a filter, or of what takes documents away like one."""

    label: str
    seen: int
    changed: int
    reasons: Counter[str]
    samples: list[tuple[Any, ...]]


def removed_by(filters: Sequence[Step]) -> list[dict[str, Any]]:
    """Return for each filter what it saw, changed and removed: {"name", "seen", "changed", "removed", "reasons":
    {reason: count}}."""
    return [
        {
            "name": step.label,
            "seen": step.seen,
            "changed": step.changed,
            "removed": step.reasons.total(),
            "reasons": dict(sorted(step.reasons.items())),
        }
        for step in filters
    ]
