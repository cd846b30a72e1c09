"""From the scores of a benchmark's items to accuracy, ΔNLL and the score of a model that only counts.

Every function takes records as `encoding.record` makes them, one per item.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Record = Mapping[str, Any]
Norm = Literal["characters", "tokens", "none"]
NORMS: tuple[Norm, ...] = get_args(Norm)
"""What an answer's log-likelihood is divided by: its characters (the paper), its tokens, nothing."""


def per_unit(nats: Sequence[float], record: Record, norm: Norm) -> NDArray[np.float64]:
    """Return nats of each answer per character, per token or as they are, float64 (choices,)."""
    values = np.asarray(nats, np.float64)
    return values if norm == "none" else values / np.maximum(record[norm], 1)


def credit(nats: Sequence[float], record: Record, norm: Norm) -> float:
    """Return 1 when the right answer alone is the likeliest, 1 / n when it is one of n equally likely, else 0."""
    values = per_unit(nats, record, norm)
    best = np.isclose(values, values.min(), rtol=1e-12, atol=0)
    return float(best[record["gold"]] / best.sum())


def counting_nats(record: Record) -> list[float]:
    """Return what a model scores that finds all tokens equally likely: it knows nothing but lengths.

    Its nats are tokens * ln V; V does not matter to the order.
    """
    return [float(n) for n in record["tokens"]]


def mean_and_se(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean and its standard error over items, sqrt(s^2 / n) with s^2 over n - 1 (NaN for one item)."""
    x = np.asarray(values, np.float64)
    return float(x.mean()), float(x.std(ddof=1) / math.sqrt(len(x))) if len(x) > 1 else math.nan


def delta_nll(record: Record, norm: Norm) -> tuple[float, float]:
    """Return nats of the right answer and the mean over the wrong ones, per unit of `norm`."""
    values = per_unit(record["nats"], record, norm)
    return float(values[record["gold"]]), float(np.delete(values, record["gold"]).mean())


def summarise(records: Sequence[Record], norm: Norm) -> dict[str, Any]:
    """Return the figures of a benchmark.

    accuracy, accuracy_se: by `norm`; accuracy_by: by each. counting, counting_se: the accuracy of `counting_nats`;
    over_counting, over_counting_se: the mean difference to it, item by item. nll_right, nll_wrong, delta_nll(_se): nats
    per unit of `norm`, wrong minus right. subjects: accuracy, error and items of each, and macro_accuracy their mean.
    noise_se: mean standard error of an answer's nats (0 for exact ones, None when not known).
    """
    body: dict[str, Any] = {"items": len(records), "norm": norm}
    if len(records[0]["nats"]) == 1:
        return body | _one_answer(records)
    right = np.array([credit(r["nats"], r, norm) for r in records])
    counting = np.array([credit(counting_nats(r), r, norm) for r in records])
    nll = np.array([delta_nll(r, norm) for r in records])
    body |= _named("accuracy", right) | _named("counting", counting) | _named("over_counting", right - counting)
    body["accuracy_by"] = {n: float(np.mean([credit(r["nats"], r, n) for r in records])) for n in NORMS}
    body |= {"nll_right": float(nll[:, 0].mean()), "nll_wrong": float(nll[:, 1].mean())}
    body |= _named("delta_nll", nll[:, 1] - nll[:, 0])
    body |= _subjects(records, right) | {"noise_se": _noise_se(records)}
    return body


def _one_answer(records: Sequence[Record]) -> dict[str, Any]:
    """Return the figures of items with one answer: the share a model would write itself, nats per item."""
    body = _named("accuracy", np.array([r["greedy"][0] for r in records], np.float64))
    nats = np.array([r["nats"][0] for r in records])
    body |= _named("nats_per_item", nats)
    return body | {"perplexity": float(np.exp(nats.mean())), "noise_se": _noise_se(records)}


def _named(name: str, values: NDArray[np.float64]) -> dict[str, float | None]:
    mean, se = mean_and_se(values)
    return {name: mean, f"{name}_se": None if math.isnan(se) else se}


def _subjects(records: Sequence[Record], right: NDArray[np.float64]) -> dict[str, Any]:
    names = np.array([r["subject"] for r in records])
    if not any(names):
        return {}
    own = {str(subject): right[names == subject] for subject in sorted(set(names))}
    subjects = {subject: _named("accuracy", values) | {"items": len(values)} for subject, values in own.items()}
    macro = float(np.mean([values.mean() for values in own.values()]))
    return {"macro_accuracy": macro, "subjects": subjects}


def _noise_se(records: Sequence[Record]) -> float | None:
    errors = [e for r in records for e in r["se"]]
    return None if None in errors else float(np.mean(errors))
