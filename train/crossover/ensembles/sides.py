"""What ensembles say beside single models: sides of best against best, and what each gains over its members.

A side is the ensemble of m of one type on one budget, of the arm whose ensembles are best on the half of the
validation pool that choices are made on. Its units are draws of data, under the first seed of each: seeds of one draw
are in the ensemble and no replicates of it.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...objective.halves import MEASURED_ON, SELECTED_ON
from ..compare import LOSS
from ..fair import Side
from ..fits.best import Arm, Stop, best_arm
from ..fits.intervals import half_width
from ..keys import DEFAULT
from .members import Record

Kind = tuple[int, str, str, int]
"""Unique tokens, type, settings without the arm as JSON, and members."""


def ensemble_sides(records: Sequence[Record], held_out: bool) -> Iterator[Side]:
    """Yield the ensembles of each size of every budget, type and setting, as `fair.sides` does single models.

    Args:
        held_out: whether the runs' figures are of halves of the pool; where not, neither are these.
    """
    on, at = _halves(held_out)
    for (n, objective, settings, size), arms in _by_kind(records).items():
        stops = {arm: {_unit(r): [_stop(r, on, at)] for r in own} for arm, own in arms.items()}
        chosen = best_arm(stops)
        error = float(np.mean([r["loss_se"] or 0.0 for r in arms[chosen]])) * (2**0.5 if held_out else 1)
        members: Arm = {_unit(r): [_stop(m, on, at) for m in r["members"]] for r in arms[chosen]}
        which = f"ensemble of {size}"
        yield Side(LOSS, n, objective, settings, which, chosen, stops[chosen], held_out, error, size, members)


def gains(records: Sequence[Record], held_out: bool) -> Iterator[dict[str, Any]]:
    """Yield a row for every budget, type, arm and size of ensembles.

    Of each, means over draws of data in nats per token: `loss`, `alone` (the mean loss of the members) and the `gain`
    of the one over the other, with the `half_width` of its 95 % interval. Noise samples are the same for all, so that
    their error is no part of a gain.

    Args:
        held_out: see `ensemble_sides`.
    """
    _, at = _halves(held_out)
    for (n, objective, settings, size), arms in sorted(_by_kind(records).items()):
        for arm, own in arms.items():
            loss = np.array([r[at] for r in own])
            alone = np.array([np.mean([m[at] for m in r["members"]]) for r in own])
            stopped = [m for r in own for m in r["members"]]
            yield {
                "metric": LOSS,
                "unique_tokens": n,
                "objective": objective,
                "kind": own[0]["kind"],
                "settings": settings,
                "arm": arm,
                "members": size,
                "held_out": held_out,
                "draws": [r["replicate"] for r in own],
                "loss": float(loss.mean()),
                "loss_se": max(r["loss_se"] or 0.0 for r in own) * (2**0.5 if held_out else 1),
                "alone": float(alone.mean()),
                "gain": float((alone - loss).mean()),
                "half_width": float(half_width((alone - loss)[:, None])[0]),
                "passes": float(np.mean([m["tokens"] for m in stopped])) / n,
                "decayed": sum(m["decayed"] for m in stopped),
                "fingerprints": [r["fingerprint"] for r in own],
                "receipts": [[m["receipt"] for m in r["members"]] for r in own],
            }


def _halves(held_out: bool) -> tuple[str, str]:
    return (SELECTED_ON, MEASURED_ON) if held_out else (LOSS, LOSS)


def _by_kind(records: Sequence[Record]) -> dict[Kind, dict[str, list[Record]]]:
    """Return the records of each arm by its name, one a draw, for every kind of ensemble."""
    found: dict[Kind, dict[str, list[Record]]] = {}
    for record in records:
        settings = json.dumps({k: v for k, v in record["settings"].items() if k != "arm"}, sort_keys=True)
        kind = record["unique_tokens"], record["objective"], settings, len(record["members"])
        found.setdefault(kind, {}).setdefault(record["settings"].get("arm", DEFAULT), []).append(record)
    return found


def _unit(record: Record) -> tuple[int, int]:
    return record["replicate"], record["members"][0]["seed"]


def _stop(record: Record, on: str, at: str) -> Stop:
    """Return an ensemble or a member as a stop; the tokens of an ensemble are the mean of its members'."""
    of = record.get("members", [record])
    tokens = round(float(np.mean([m["tokens"] for m in of])))
    decayed = all(m["decayed"] for m in of)
    return Stop(tokens, record[on], record[at], decayed, ", ".join(m["run"] for m in of))
