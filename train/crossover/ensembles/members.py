"""Which ensembles a grid's `members` ask for, which models each is made of, and the files that their figures lie in.

An ensemble of m is the mean of the probabilities of m models of one kind of run (unique tokens, type, settings, arm)
on one draw of data: of each of the grid's first m seeds the best model, of the run of the whole length or of one with
its own decay, by the loss on the half of the validation pool that choices are made on.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....common.errors import EpochalError, RequestError, WorkError
from ....common.hashing import digest
from ....common.json_text import parse_json
from ....common.publish import FileInfo
from ....common.units import format_count
from ...checkpoint import WEIGHTS_NAME, load_card
from ...objective.halves import SELECTED_ON
from ...saved import hashes
from ..curves import MetricsRow, curve
from ..grid import GridPlan, RunSpec
from ..keys import DEFAULT
from ..launch import result_of

ENSEMBLES = "ensembles"
"""Folder of the files of ensembles in a grid's `out`."""

FORMAT_VERSION = 1
"""Of these files; raised when the same models would be measured otherwise."""

MODEL = "best"
"""Which of a run's models is a member."""

Record = dict[str, Any]
"""What was measured of an ensemble, JSON values; see `measure.measure`."""


@dataclass(frozen=True)
class EnsembleSpec:
    """One ensemble of a grid.

    Attributes:
        runs: of each seed in order, the run of the whole length and those with their own decay.
        out: the grid's folder.
    """

    runs: tuple[tuple[RunSpec, ...], ...]
    out: str

    @property
    def first(self) -> RunSpec:
        """Return a run whose kind and draw of data all have."""
        return self.runs[0][0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seed of each member."""
        return tuple(own[0].seed for own in self.runs)

    @property
    def finished(self) -> bool:
        """Return whether all of its runs are; before that its members are not known."""
        return all(result_of(run) is not None for own in self.runs for run in own)

    @property
    def stem(self) -> str:
        """Return its name without the fingerprint."""
        run = self.first
        unique = f"u{format_count(run.unique_tokens).replace(',', '')}"
        arm = [] if run.arm == DEFAULT else [run.arm]
        return "-".join([unique, run.objective, *arm, f"r{run.replicate}", f"m{len(self.runs)}"])

    @property
    def label(self) -> str:
        """Return the ensemble in words."""
        run = self.first
        parts = [run.objective.upper(), f"{format_count(run.unique_tokens)} unique", f"replicate {run.replicate}"]
        parts += [f"ensemble of seeds {', '.join(map(str, self.seeds))}"]
        return ", ".join([*parts, *(f"{k}={v}" for k, v in run.settings.items())])


@dataclass(frozen=True)
class Member:
    """A model of an ensemble.

    Attributes:
        row: of its run's curve, the evaluation that it was saved at.
        weights: size and hash of its file of weights.
    """

    run: RunSpec
    row: MetricsRow
    weights: FileInfo

    @property
    def folder(self) -> str:
        """Return where the model lies."""
        return os.path.join(self.run.folder, MODEL)


@dataclass(frozen=True)
class Measured:
    """What is known of a grid's ensembles.

    Attributes:
        missing: ensembles that are not measured yet.
    """

    records: tuple[Record, ...]
    missing: int


def planned(plan: GridPlan) -> list[EnsembleSpec]:
    """Return the ensembles of a grid, in the order of its runs, smaller ones first; none without `members`.

    Raises:
        RequestError: for runs whose models are sharded over GPUs.
    """
    if not plan.grid.members:
        return []
    if any(run.config.parallelism_config for run in plan.runs):
        raise RequestError(
            f"grid {plan.grid.name}: members reads whole models together on one device, those of parallelism_config "
            "are sharded: take members out, and put the best/ of runs together with `epochal evaluate --ensemble`"
        )
    return [
        EnsembleSpec(tuple(tuple(own[seed]) for seed in plan.grid.seeds[:size]), plan.grid.out)
        for own in _by_seed(plan.runs)
        for size in sorted(plan.grid.members)
    ]


def _by_seed(runs: Iterable[RunSpec]) -> Iterable[dict[int, list[RunSpec]]]:
    """Return the runs of each seed, for every kind of run on each draw of data."""
    kinds: dict[tuple[Any, ...], dict[int, list[RunSpec]]] = {}
    for run in runs:
        kind = run.unique_tokens, run.objective, json.dumps(run.settings, sort_keys=True), run.replicate
        kinds.setdefault(kind, {}).setdefault(run.seed, []).append(run)
    return kinds.values()


def members(spec: EnsembleSpec) -> list[Member]:
    """Return the models of an ensemble whose runs are finished, one of each seed.

    Raises:
        WorkError: where a model is gone, or is of no evaluation of its run.
    """
    return [min(map(_member, own), key=_selecting) for own in spec.runs]


def _selecting(member: Member) -> float:
    on = member.row.get(f"{SELECTED_ON}/loss")
    return member.row["loss"] if on is None else on


def _member(run: RunSpec) -> Member:
    folder = os.path.join(run.folder, MODEL)
    try:
        step = load_card(folder).training["steps"]
        weights = hashes.read(folder).get(WEIGHTS_NAME) or FileInfo.at(os.path.join(folder, WEIGHTS_NAME))
    except (RequestError, FileNotFoundError):
        raise WorkError(f"{folder} holds no model: put it back, or remove {run.folder} to train it again") from None
    row = next((row for row in curve(run) if row["step"] == step), None)
    if row is None:
        raise WorkError(f"{folder} is of step {step}, at which its run measured nothing: put the run's files back")
    return Member(run, row, weights)


def path_of(spec: EnsembleSpec, of: Sequence[Member]) -> str:
    """Return the file of an ensemble, whose name ends in a fingerprint of all that its figures follow from."""
    key = digest([FORMAT_VERSION, [[member.run.key, member.weights.model_dump()] for member in of]])
    return os.path.join(spec.out, ENSEMBLES, f"{spec.stem}-{key[:8]}.json")


def read(spec: EnsembleSpec) -> Record | None:
    """Return what was measured of an ensemble; None where it was not, or its models are no longer there.

    Raises:
        WorkError: for a damaged file.
    """
    if not spec.finished:
        return None
    try:
        path = path_of(spec, members(spec))
    except EpochalError:
        return None  # measuring says what is wrong
    if not os.path.isfile(path):
        return None
    body = parse_json(Path(path).read_bytes(), path)
    if not isinstance(body, dict) or not all(_is_loss(body.get(key)) for key in ("loss", "even", "odd")):
        raise WorkError(f"{path} is damaged: remove it, and the ensemble is measured again")
    return body


def _is_loss(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def measured(plan: GridPlan) -> Measured | None:
    """Return what is known of the ensembles of a grid, in order; None for a grid without `members`.

    Raises:
        WorkError: for a damaged file.
    """
    if not plan.grid.members:
        return None
    found = list(map(read, planned(plan)))
    return Measured(tuple(record for record in found if record is not None), sum(record is None for record in found))
