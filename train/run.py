"""A configuration checked against its data and this machine, and what follows: plan, shape, objective, schedule."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from composer.utils import dist

from ..common import storage
from ..common.errors import RequestError
from ..common.remote.patience import ATTEMPTS, patiently
from ..shards.artifact import Artifact, open_artifact
from ..shards.loader.cache import default_cache, in_cache
from ..shards.order.amendment.amend import amend, ending_at
from ..shards.order.amendment.amended import Amended
from ..shards.order.base import Order
from ..shards.order.mixture_config import open_mixture
from ..shards.order.plan import Plan
from . import durations
from .config import TrainConfig
from .model.flops.formulas import Shares, block_shares
from .model.kernels import products
from .model.transformer import ModelConfig, config_dict
from .objective.block import BlockDiffusion
from .objective.documents import GIVEN_LENGTHS
from .objective.dual import Dual, DualValidation
from .objective.objectives import Autoregressive, MaskedDiffusion, Objective, SpecialIds
from .optimization.schedules import Schedule, cooled, cosine, cosine_cycles, cycle_ends, warmup, warmup_stable_decay
from .run_folder import PENALTIES, RunFolder
from .run_state.device import check_kernels, device_of
from .run_state.identity import figures
from .settings.objective import ARSection, BlockSection, DualSection, MDMSection
from .settings.optimization import ConstantSection, CosineSection, CyclesSection, WSDSection


@dataclass(frozen=True)
class Cooldown:
    """How a run ends that stopped early: from step `start` it takes `steps` more, over which the rate
    falls to `final` of its own.

    Attributes:
        start: steps that the best checkpoint has taken.
    """

    start: int
    steps: int
    final: float


@dataclass(frozen=True)
class Run:
    """A checked configuration with all that follows from it and its data.

    Attributes:
        artifacts: what is trained on, one, or the sources of a mixture.
        validation: its shards on this machine.
        steps: optimizer steps of the whole run, unless it stops early.
        folder: what the run leaves, and where.
        cooldown: how it ends, where it stopped early.
    """

    config: TrainConfig
    artifacts: tuple[Artifact, ...]
    validation: Artifact | None
    plan: Order
    shape: ModelConfig
    objective: Objective
    device: str
    steps: int
    folder: RunFolder | None
    cooldown: Cooldown | None = None

    @property
    def end(self) -> int:
        """Return the steps after which the run ends."""
        return min(self.cooldown.start + self.cooldown.steps, self.steps) if self.cooldown else self.steps

    @property
    def fed(self) -> Order:
        """Return the order of what the run is fed: its plan, cut where it stops early."""
        if self.end == self.steps:
            return self.plan
        return ending_at(self.plan, self.end * self.config.global_train_batch_size)

    @property
    def planned_steps(self) -> int:
        """Return the steps of the whole run if it skipped nothing: schedules and shares of the run are of these."""
        return self.plan.without_skips().steps(self.config.global_train_batch_size)

    def planned_step(self, step: int) -> int:
        """Return the step at which a run that skips nothing would be when this one has taken `step`: a schedule passes
        over what is skipped, too, so that up to a skip a run is the same with it and without it."""
        if not isinstance(self.plan, Amended):
            return step
        batch = self.config.global_train_batch_size
        own = self.plan.spans.read_to(min(step * batch, self.plan.positions))
        return min(-(-own // batch), self.planned_steps)

    @property
    def artifact(self) -> Artifact:
        """Return the first artifact, whose tokenizer and sample length all have."""
        return self.artifacts[0]

    @property
    def batch_tokens(self) -> int:
        """Return the tokens of a whole global batch."""
        return self.config.global_train_batch_size * self.plan.seq_len

    def span(self, text: str | int, what: str) -> int:
        """Return a span of the configuration in steps."""
        return durations.steps(text, self.planned_steps, self.batch_tokens, self.plan.unique_tokens, what)

    def step_at(self, planned_step: int) -> int:
        """Return how many steps this run has taken where one that skips nothing has taken `planned_step`."""
        if not isinstance(self.plan, Amended):
            return planned_step
        batch = self.config.global_train_batch_size
        own = min(planned_step * batch, self.plan.without_skips().positions)
        return -(-int(self.plan.spans.left_before(np.array([own], np.uint64))[0]) // batch)

    @property
    def precision(self) -> str:
        """Return the arithmetic that the model is computed in."""
        return self.config.precision or ("amp_bf16" if self.device == "gpu" else "fp32")

    @property
    def autocast(self) -> str:
        """Return Composer's name of the precision, but for products in float8."""
        return products.autocast(self.precision)

    @property
    def identity(self) -> dict[str, Any]:
        """Return what makes two runs the same, all that their figures follow from: JSON values only."""
        first = self.config.init_from
        if first and not storage.is_url(first):
            first = os.path.abspath(first)
        validation = self.validation.manifest.fingerprint if self.validation else None
        return {
            "plan": self.plan.to_dict(),
            "model": config_dict(self.shape),
            "objective": self.config.objective.figures(),
            "seed": self.config.seed,
            "global_train_batch_size": self.config.global_train_batch_size,
            "init_from": self.config.public(first),
        } | figures(self.config, self.span, self.precision, validation)


def prepare(config: TrainConfig) -> Run:
    """Check `config` against its data and this machine.

    Raises:
        RequestError: naming the first thing that is wrong.
    """
    artifacts, plan = _order(config)
    manifest = artifacts[0].manifest
    cache = config.train_loader.dataset.cache or default_cache()
    validation = _open(config.eval_loader.dataset.path, "eval_loader.dataset.path") if config.eval_loader else None
    _check_data(config, artifacts[0], validation)
    batch = plan.batch_samples(config.global_train_batch_size * manifest.seq_len)
    ranks = dist.get_world_size()
    if batch % ranks:
        raise RequestError(f"global_train_batch_size {batch} cannot be shared out evenly over {ranks} ranks")
    ids = SpecialIds(manifest.tokenizer.eod, manifest.tokenizer.pad, manifest.tokenizer.mask)
    objective = build_objective(config, ids, manifest.tokenizer.vocab_size)
    block_size, device = _block_size(config, manifest.seq_len), device_of(config)
    shape = config.model.shape(objective.causal, manifest.tokenizer.vocab_size, block_size)
    check_kernels(config, shape, manifest.seq_len, device)
    return Run(
        config=config,
        artifacts=artifacts,
        validation=in_cache(validation, cache) if validation else None,
        plan=plan,
        shape=shape,
        objective=objective,
        device=device,
        steps=plan.steps(batch),
        folder=RunFolder(config.save_folder, cache) if config.save_folder else None,
    )


def _open(path: str, key: str) -> Artifact:
    """Return the artifact that a key of the configuration names."""
    try:
        return patiently(lambda: open_artifact(path), f"read {path}", ATTEMPTS)
    except RequestError as error:
        raise RequestError(f"{key}: {error} (write {key}=PATH)") from None


def _order(config: TrainConfig) -> tuple[tuple[Artifact, ...], Order]:
    """Return what is trained on, and in which order."""
    data, span = config.train_loader.dataset, config.max_duration
    if data.mixture is not None:
        budget = (lambda unique: durations.total_tokens(span, unique)) if span else None
        opened = open_mixture(data.mixture, config.seed, budget, "max_duration")
        return opened.artifacts, _amended(opened.mixture, config)
    artifact = _open(data.path, "train_loader.dataset.path")
    total = durations.total_tokens(span, artifact.manifest.tokens)
    seed = config.seed if data.seed is None else data.seed
    return (artifact,), _amended(Plan.for_artifact(artifact.manifest, total, seed, data.policy), config)


def _amended(order: Order, config: TrainConfig) -> Order:
    try:
        return amend(order, config.train_loader.dataset.skip)
    except RequestError as error:
        raise RequestError(f"train_loader.dataset.skip: {error}") from None


def _block_size(config: TrainConfig, seq_len: int) -> int | None:
    if not isinstance(config.objective, BlockSection):
        return None
    size = config.objective.block_size
    if size > seq_len:
        raise RequestError(
            f"objective.block_size is {size}, but samples have {seq_len} tokens: give at most {seq_len}, which is "
            "masked diffusion"
        )
    return size


def build_objective(config: TrainConfig, ids: SpecialIds, vocab_size: int) -> Objective:
    """Return the objective of `config`, its noise keyed by the run's seed."""
    section = config.objective
    if isinstance(section, DualSection):
        ar, mdm = _autoregressive(section.ar, config, ids, vocab_size), _masked_diffusion(section.mdm, config, ids)
        return Dual(ar, mdm, section.ar_share, config.seed)
    if isinstance(section, BlockSection):
        return BlockDiffusion(ids, config.seed, section.block_size, section.sampling, config.global_train_batch_size)
    if isinstance(section, ARSection):
        return _autoregressive(section, config, ids, vocab_size)
    return _masked_diffusion(section, config, ids)


def _autoregressive(section: ARSection, config: TrainConfig, ids: SpecialIds, vocab_size: int) -> Autoregressive:
    keys = section.model_dump(exclude={"name", *PENALTIES})
    return Autoregressive(ids, config.seed, vocab_size=vocab_size, document_mask=config.model.document_mask, **keys)


def _masked_diffusion(section: MDMSection, config: TrainConfig, ids: SpecialIds) -> MaskedDiffusion:
    keys = section.model_dump(exclude={"name", *PENALTIES})
    group, told = config.global_train_batch_size, config.model.document_mask
    return MaskedDiffusion(ids, config.seed, group=group, document_mask=told, **keys)


def validation_objective(run: Run, noise_samples: int, noise_seed: int) -> Objective:
    """Return what validation measures: the exact likelihood, or the exact-count bound whatever was trained, or both.

    The exact-count form needs no eps and has the lower variance; its noise is fixed by `noise_seed`, stratified over
    the noise samples of each sample.
    """
    ids, told = run.objective.ids, run.shape.document_mask  # type: ignore[attr-defined]
    ar = Autoregressive(ids, document_mask=told)
    spread: dict[str, Any] = {"sampling": "stratified", "group": noise_samples}
    bound = MaskedDiffusion(ids, noise_seed, "exact_count", **spread, document_mask=told)
    if isinstance(run.config.objective, DualSection):
        return DualValidation(ar, bound, noise_samples)
    if isinstance(run.config.objective, BlockSection):
        size, group = run.config.objective.block_size, max(1, noise_samples)
        return BlockDiffusion(ids, noise_seed, size, sampling="stratified", group=group)
    return bound if isinstance(run.config.objective, MDMSection) else ar


def _check_data(config: TrainConfig, artifact: Artifact, validation: Artifact | None) -> None:
    manifest, path = artifact.manifest, config.train_loader.dataset.where
    stated = config.model.vocab_size
    if stated is not None and stated != manifest.tokenizer.vocab_size:
        raise RequestError(
            f"model.vocab_size is {stated}, but {path} was tokenized with {manifest.tokenizer.vocab_size} ids "
            f"({manifest.tokenizer.name}): remove model.vocab_size or use other data"
        )
    if config.max_seq_len is not None and config.max_seq_len != manifest.seq_len:
        raise RequestError(f"max_seq_len is {config.max_seq_len}, but the samples of {path} have {manifest.seq_len}")
    if validation is None:
        return
    other = validation.manifest
    if other.tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        raise RequestError(
            f"{validation.root} was tokenized with {other.tokenizer.name}, {path} with another tokenizer "
            f"({manifest.tokenizer.name}): losses would not compare"
        )


def schedule(run: Run) -> Schedule:
    """Return the learning rate's multiplier as a function of the step."""
    whole = _whole_schedule(run)
    return cooled(whole, run.cooldown.start, run.end, run.cooldown.final) if run.cooldown else whole


def _whole_schedule(run: Run) -> Schedule:
    planned = _planned_schedule(run)
    return lambda step: planned(run.planned_step(step))


def _planned_schedule(run: Run) -> Schedule:
    s, steps = run.config.scheduler, run.planned_steps
    warm = run.span(s.t_warmup, "scheduler.t_warmup")
    if isinstance(s, WSDSection):
        tail = run.span(s.t_decay, "scheduler.t_decay")
        return lambda step: warmup_stable_decay(step, steps, warm, tail, s.alpha_f, s.decay)
    if isinstance(s, CosineSection):
        return lambda step: cosine(step, steps, warm, s.alpha_f)
    if isinstance(s, CyclesSection):
        return lambda step: cosine_cycles(step, steps, warm, s.cycles, s.alpha_f)
    assert isinstance(s, ConstantSection), "the configuration knows four schedules"
    return lambda step: warmup(step, warm)


def snapshot_steps(run: Run) -> list[int]:
    """Return after how many steps a schedule of cycles has a model saved: at the end of each."""
    s = run.config.scheduler
    if not isinstance(s, CyclesSection):
        return []
    ends = cycle_ends(run.planned_steps, run.span(s.t_warmup, "scheduler.t_warmup"), s.cycles)
    return sorted({run.step_at(end) for end in ends} - {0})


def validation_kinds(run: Run) -> tuple[str, ...]:
    """Return the kinds of the validation losses: `nll`, `nelbo`, or both; a bound of a model that is told where
    documents end goes by another name, `nelbo_given_lengths`."""
    bound = "nelbo" + (GIVEN_LENGTHS if run.shape.document_mask else "")
    if run.config.objective.name == "dual":
        return "nll", bound
    return ("nll",) if run.shape.exact else (bound,)


def model_kind(run: Run) -> str:
    """Return what the model's loss is, as `validation_kinds` has it, `dual` of a model that has both."""
    kinds = validation_kinds(run)
    return kinds[0] if len(kinds) == 1 else "dual"


def selection_loss(run: Run, measured: Mapping[str, float]) -> float:
    """Return by which the best model is chosen: the validation loss, of both kinds the mean that is trained."""
    losses = [measured.get(kind, math.nan) for kind in validation_kinds(run)]
    if isinstance(run.config.objective, DualSection):
        share = run.config.objective.ar_share
        return share * losses[0] + (1 - share) * losses[1]
    return losses[0]


def flops_shares(run: Run) -> Shares:
    """Return what of a step must be computed."""
    objective = run.config.objective
    if isinstance(objective, BlockSection):
        return block_shares(objective.block_size, run.plan.seq_len)
    ar = objective.ar_share if isinstance(objective, DualSection) else float(run.objective.causal)
    return Shares(run.objective.target_share, ar / 2 + (1 - ar))


def run_name(config: TrainConfig) -> str:
    """Return the run's name: its own, or its folder's."""
    return config.run_name or (Path(config.save_folder).name if config.save_folder else "run")


def first_difference(saved: Any, asked: Any, path: str = "") -> str:
    """Return the first difference between two JSON-like values as `key is X there and Y here`, empty when equal."""
    if isinstance(saved, dict) and isinstance(asked, dict):
        for key in [*asked, *(k for k in saved if k not in asked)]:
            difference = first_difference(saved.get(key), asked.get(key), f"{path}.{key}" if path else str(key))
            if difference:
                return difference
        return ""
    return "" if saved == asked else f"{path} is {saved} there and {asked} here"
