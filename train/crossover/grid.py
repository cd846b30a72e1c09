"""A grid of training runs, from its YAML to one checked training configuration per run.

A grid is: base configuration x unique tokens x objective x replicate x seed x overridden keys, at one token budget.
Nothing here touches a run's folder; `launch` trains, `curves` reads what was measured.
"""

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ...common import storage
from ...common.config import Configuration, Count, PathText, file_or_shipped, load_yaml, validate
from ...common.errors import RequestError
from ...common.hashing import digest
from ...common.problems import NAME_PATTERN
from ...common.publish import MANIFEST_NAME
from ...common.units import format_count, parse_count
from ...shards.artifact import open_artifact, read_manifest
from ...shards.carve import default_out, locate_window
from ...shards.manifest import Manifest
from ..config import TrainConfig, load_config
from ..model.flops.formulas import training_flops_per_token
from ..model.transformer import ModelConfig
from ..run_state.identity import exact_of
from ..settings.objective import ARSection, MDMSection
from ..settings.types import FiguresSection, Positive
from . import keys

GRIDS = Path(__file__).parent / "grids"
"""The grids that come with this package."""

GPT2_IDS = 50259
"""Vocabulary assumed while a pool is not there to say its own: GPT-2's ids with MASK and PAD."""

SEQ_LEN = 2048
"""Length assumed while neither a pool nor the configuration says one."""

RUNS = "runs"
"""Folder of the runs in a grid's `out`."""


def _objective(value: object) -> object:
    value = {"name": value} if isinstance(value, str) else value
    name = value.get("name") if isinstance(value, Mapping) else None
    if name in ("dual", "block"):
        raise ValueError(f"a grid sets ar against mdm, and knows no '{name}': train such a model by itself")
    return value


TokenCount = Annotated[Count, Field(ge=1)]
"""A number of tokens."""

ObjectiveSection = Annotated[ARSection | MDMSection, Field(discriminator="name"), BeforeValidator(_objective)]
"""`ar`, `mdm`, or a whole section such as {name: mdm, weighting: exact_count}."""


class Grid(Configuration):
    """A whole grid. Counts are written 500k, 1M, 96B.

    Attributes:
        base: the training configuration, a file or a shipped name.
        pool: what unique tokens are drawn from.
        validation: the pool that all runs are validated on (`<pool>-val` when not given).
        total_tokens: every run's budget.
        replicates: disjoint draws of data per budget, one number or a number for each budget.
        seeds: of weights, order and noise.
        members: sizes of ensembles: the best models of a kind's first so many seeds are measured together.
        settings: training keys that replace the base's in all runs.
        overrides: training keys and lists of their values; every combination is run. `objective.input_masking` and
            other keys of one objective vary its runs only.
        arms: of each type of model, by name: training keys in place of the rest. Every budget is run with each, and
            the best is chosen afterwards; `default` is one of them always.
        own_decay: after each run of `total_tokens`, one for each of these factors that ends, with its schedule, at so
            many times the tokens at which that run was best.
        threads: of a run on a CPU; their number changes the last bits of sums, so it does not follow from the machine.
        gpus_per_run: processes that Composer's launcher starts per run.
        mfu: what H100-hours assume.
    """

    name: str = Field(pattern=NAME_PATTERN)
    out: PathText
    base: PathText
    pool: PathText
    validation: PathText | None = None
    unique_tokens: list[TokenCount] = Field(min_length=1)
    total_tokens: TokenCount
    objectives: list[ObjectiveSection] = Field(default=["ar", "mdm"], min_length=1, validate_default=True)
    replicates: Positive | dict[str, Positive] = 1
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[17], min_length=1)
    members: list[int] = Field([])
    settings: dict[str, Any] = Field({})
    overrides: dict[str, list[Any]] = Field({})
    arms: keys.Arms = Field({})
    own_decay: list[Annotated[float, Field(gt=0, le=100)]] = Field([])
    threads: Positive = 1
    gpus_per_run: Positive = 1
    mfu: float = Field(0.4, gt=0, le=1)
    variables: dict[str, Any] = Field({})

    @field_validator("overrides", mode="before")
    @classmethod
    def _dotted_lists(cls, value: Any) -> Any:
        return keys.lists(value) if isinstance(value, Mapping) else value

    @field_validator("settings", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        return keys.settable(value) if isinstance(value, Mapping) else value

    @field_validator("arms", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return keys.named_arms(value) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _no_doubles(self) -> "Grid":
        for name, values in (
            ("unique_tokens", self.unique_tokens),
            ("seeds", self.seeds),
            ("members", self.members),
            ("own_decay", self.own_decay),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice")
        keys.check_members(self.members, len(self.seeds))
        names = [o.name for o in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError("objectives names one twice: vary its keys under overrides, as in objective.input_masking")
        too_many = next((n for n in self.unique_tokens if n > self.total_tokens), None)
        if too_many:
            raise ValueError(
                f"{format_count(too_many)} unique tokens are more than total_tokens, "
                f"{format_count(self.total_tokens)}: take them out of unique_tokens, or raise total_tokens"
            )
        return self

    @model_validator(mode="after")
    def _objectives_have_their_keys(self) -> "Grid":
        fields: dict[str, set[str]] = {o.name: set(type(o).model_fields) - {"name"} for o in self.objectives}
        for key in self.overrides:
            keys.check_objective_key(key, set().union(*fields.values()), f"no objective of the grid has '{key}'")
        keys.check_arms(self.arms, fields, set(self.overrides))
        return self

    @model_validator(mode="after")
    def _replicates_of_every_budget(self) -> "Grid":
        if isinstance(self.replicates, dict):
            given = {parse_count(key) for key in self.replicates}
            if given != set(self.unique_tokens):
                raise ValueError("replicates must name exactly the counts of unique_tokens, or be one number")
        return self

    def replicates_of(self, unique_tokens: int) -> int:
        """Return how many disjoint draws of `unique_tokens` are run."""
        if isinstance(self.replicates, int):
            return self.replicates
        return next(n for key, n in self.replicates.items() if parse_count(key) == unique_tokens)

    def arms_of(self, objective: str) -> dict[str, dict[str, Any]]:
        """Return the training keys of each arm of a type of model, the default first."""
        return self.arms.get(objective, {keys.DEFAULT: {}})

    @property
    def validation_pool(self) -> str:
        """Return the pool that all runs are validated on."""
        return self.validation or f"{self.pool.rstrip('/')}-val"


@dataclass(frozen=True)
class RunSpec:
    """One run of a grid.

    Attributes:
        key: fingerprint of all that its figures follow from.
        settings: the grid's overridden keys with this run's values, and `arm` where it is not the default.
        decays_from: name of the run that its length follows from, empty for a run of the grid's whole length.
        subset: folder of its data, carved or not.
        shape: assumed where the pool is missing.
        seq_len: assumed where the pool is missing.
    """

    name: str
    key: str
    folder: str
    unique_tokens: int
    objective: str
    replicate: int
    seed: int
    settings: dict[str, Any]
    config: TrainConfig
    subset: str
    shape: ModelConfig
    seq_len: int
    decays_from: str = ""

    @property
    def arm(self) -> str:
        """Return the name of its arm."""
        return str(self.settings.get("arm", keys.DEFAULT))

    @property
    def unit(self) -> tuple[int, int]:
        """Return what AR and MDM runs are paired by: the draw of data and the seed."""
        return self.replicate, self.seed

    @property
    def total_tokens(self) -> int:
        """Return the run's token budget."""
        return parse_count(self.config.max_duration)

    @property
    def flops(self) -> float:
        """Return the training FLOPs that the model needs for the whole budget; validation is not counted."""
        share = 1.0 if self.shape.causal else 0.5
        return self.total_tokens * training_flops_per_token(self.shape, self.seq_len, share)

    @property
    def label(self) -> str:
        """Return the run in words."""
        parts = [self.objective.upper(), f"{format_count(self.unique_tokens)} unique", f"replicate {self.replicate}"]
        parts += [f"seed {self.seed}", *(f"{k}={v}" for k, v in self.settings.items())]
        parts += [f"own decay at {format_count(self.total_tokens)}"] if self.decays_from else []
        return ", ".join(parts)


@dataclass(frozen=True)
class GridPlan:
    """A grid with its runs in order.

    Attributes:
        pool: its manifest, None where it is not there (yet).
        validation: its manifest, None where it is not there (yet).
        waiting: runs whose own best length, and so the runs that end there, is not known yet.
    """

    grid: Grid
    runs: tuple[RunSpec, ...]
    pool: Manifest | None
    validation: Manifest | None = None
    waiting: int = 0


def load_grid(path: str, overrides: Iterable[str] = ()) -> Grid:
    """Return the grid in the file at `path`, or the shipped one of that name.

    Raises:
        RequestError: of one line.
    """
    return validate(Grid, load_yaml(file_or_shipped(GRIDS, path), list(overrides), Grid, path), path)


def plan(grid: Grid) -> GridPlan:
    """Return the grid's runs; every configuration is checked, nothing is written.

    A pool that does not exist yet is not an error here: its vocabulary and length are assumed.

    Raises:
        RequestError: for a configuration that is wrong, and for more unique tokens than the pool has.
    """
    manifest = _manifest(grid.pool)
    validation = _manifest(grid.validation_pool)
    if manifest is not None and validation is None:
        raise RequestError(f"the validation pool {grid.validation_pool} does not exist: name one with `validation`")
    if manifest is not None:
        pool = open_artifact(grid.pool)
        for n in grid.unique_tokens:
            locate_window(pool, n, grid.replicates_of(n) - 1)
    runs = tuple(_runs(grid, manifest, validation))
    first: dict[str, RunSpec] = {}
    for run in runs:
        same = first.setdefault(run.key, run)
        if same is not run:
            raise RequestError(f"grid {grid.name}: two of its runs are the same one: {same.label}, and {run.label}")
    return GridPlan(grid, runs, manifest, validation)


def _manifest(path: str) -> Manifest | None:
    return read_manifest(path) if storage.exists(storage.join(path, MANIFEST_NAME)) else None


def _runs(grid: Grid, manifest: Manifest | None, validation: Manifest | None) -> Iterable[RunSpec]:
    # Replicates come last, so that a grid that was stopped has a whole comparison of every budget first.
    most = max(grid.replicates_of(n) for n in grid.unique_tokens)
    for replicate, seed, n in itertools.product(range(most), grid.seeds, sorted(grid.unique_tokens)):
        if replicate >= grid.replicates_of(n):
            continue
        for objective in grid.objectives:
            for arm, settings in itertools.product(grid.arms_of(objective.name), _combinations(grid, objective)):
                named = settings | ({} if arm == keys.DEFAULT else {"arm": arm})
                yield _run(grid, n, objective, replicate, seed, named, manifest, validation)


def _combinations(grid: Grid, objective: ARSection | MDMSection) -> Iterable[dict[str, Any]]:
    """Yield every combination of overridden keys that `objective` has."""
    own = {f"objective.{name}" for name in type(objective).model_fields}
    varied = [k for k in grid.overrides if not k.startswith("objective.") or k in own]
    for values in itertools.product(*(grid.overrides[k] for k in varied)):
        yield dict(zip(varied, values, strict=True))


def _run(
    grid: Grid,
    n: int,
    objective: ARSection | MDMSection,
    replicate: int,
    seed: int,
    settings: dict[str, Any],
    manifest: Manifest | None,
    validation: Manifest | None,
) -> RunSpec:
    subset = _subset_path(grid, n, replicate)
    arm = settings.get("arm", keys.DEFAULT)
    given: dict[str, Any] = {
        "objective": objective.model_dump(),
        **grid.settings,
        **{k: v for k, v in settings.items() if k != "arm"},
        **grid.arms_of(objective.name)[arm],
        "seed": seed,
        "max_duration": str(grid.total_tokens),
        "train_loader.dataset.path": subset,
        "eval_loader.dataset.path": grid.validation_pool,
        "autoresume": True,
        "progress_bar": False,
        "save_folder": "runs/x",
        "run_name": "x",
    }
    config = load_config(grid.base, [f"{k}={json.dumps(v)}" for k, v in given.items()]).knowing(grid.written)
    if objective.name == "mdm" and config.model.document_mask:
        raise RequestError(
            f"grid {grid.name}: with model.document_mask an MDM is told where documents end, so that its bound does "
            "not compare with AR's NLL: leave the key out of MDM runs"
        )
    key = _key(config, n, replicate, manifest, validation)
    name = _name(n, objective.name, "" if arm == keys.DEFAULT else arm, replicate, seed, key)
    folder = os.path.join(grid.out, RUNS, name)
    shape = config.model.shape(objective.name == "ar", manifest.tokenizer.vocab_size if manifest else GPT2_IDS)
    return RunSpec(
        name=name,
        key=key,
        folder=folder,
        unique_tokens=n,
        objective=objective.name,
        replicate=replicate,
        seed=seed,
        settings=settings,
        config=config.model_copy(update={"save_folder": folder, "run_name": name}),
        subset=subset,
        shape=shape,
        seq_len=manifest.seq_len if manifest else config.max_seq_len or SEQ_LEN,
    )


def _name(n: int, objective: str, middle: str, replicate: int, seed: int, key: str) -> str:
    parts = [f"u{format_count(n).replace(',', '')}", objective, middle, f"r{replicate}", f"s{seed}", key[:8]]
    return "-".join(part for part in parts if part)


def shortened(plan: GridPlan, run: RunSpec, tokens: int) -> RunSpec:
    """Return the run that is `run` but for its length: its schedule ends at `tokens`."""
    config = run.config.model_copy(update={"max_duration": str(tokens)})
    key = _key(config, run.unique_tokens, run.replicate, plan.pool, plan.validation)
    middle = f"d{tokens}" if run.arm == keys.DEFAULT else f"{run.arm}-d{tokens}"
    name = _name(run.unique_tokens, run.objective, middle, run.replicate, run.seed, key)
    folder = os.path.join(plan.grid.out, RUNS, name)
    config = config.model_copy(update={"save_folder": folder, "run_name": name})
    return replace(run, name=name, key=key, folder=folder, config=config, decays_from=run.name)


def _subset_path(grid: Grid, n: int, replicate: int) -> str:
    """Return where `epochal carve` would put the subset."""
    pool = grid.pool.rstrip("/")
    if _manifest(pool) is not None:
        return os.path.relpath(default_out(open_artifact(pool), n, replicate))
    return f"{pool}-{format_count(n)}-r{replicate}"


def _key(config: TrainConfig, n: int, replicate: int, manifest: Manifest | None, validation: Manifest | None) -> str:
    """Return a digest of everything that the run's figures follow from.

    Data counts by fingerprint, not by path: a pool that was moved is the same pool, one that was built again from
    other text is not.
    """
    body = config.model_dump(mode="json", exclude=keys.COSMETIC)
    body |= {name: section.figures() for name, section in config if isinstance(section, FiguresSection)}
    if config.parallelism_config and config.parallelism_config.fsdp:
        body["parallelism_config"]["fsdp"] = config.parallelism_config.fsdp.model_dump(mode="json", exclude_none=True)
    body["service"] = None  # reports change no figure; the key stays, so that the names of finished runs do
    body["train_loader"] = {"policy": body["train_loader"]["dataset"]["policy"]}
    body["train_loader"]["seed"] = config.train_loader.dataset.seed
    assert config.eval_loader is not None, "the grid names a validation pool"
    body["eval_loader"]["dataset"].pop("path")
    body["eval_loader"] = {k: v for k, v in body["eval_loader"].items() if k != "exact"} | exact_of(body)
    data = [manifest.fingerprint if manifest else None, n, replicate, validation.fingerprint if validation else None]
    return digest({"format": 1, "config": body, "data": data})
