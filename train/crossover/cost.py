"""What a grid costs before it is run: runs, tokens, FLOPs, H100-hours, and time on this machine."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...common.cli import text_table
from ...common.html import count
from ...common.json_text import parse_json
from ...common.progress import clock
from ...common.units import format_count, round_count
from .. import durations
from ..model.flops.formulas import PEAK_BF16
from ..model.transformer import Transformer
from ..settings.data import ExactSection
from .ensembles import members
from .grid import GridPlan, RunSpec
from .launch import TIMING_NAME, default_jobs, result_of, uses_gpu

START_SECONDS = 12.0
"""Of a process, before its first step: imports, checks of shards, the model."""

LARGEST_TIMED = {"cpu": 2e10, "cuda": 1e15}
"""FLOPs of the largest step on one sample that planning times, about a second; larger ones are left to H100-hours."""


@dataclass(frozen=True)
class Clock:
    """Seconds per training token of one kind of run, its validation included.

    Attributes:
        source: where that is from.
    """

    seconds: float
    source: str


def h100_hours(flops: float, mfu: float) -> float:
    """Return the hours of one H100 (989 TFLOP/s dense bfloat16) at model FLOPs utilisation `mfu`."""
    return flops / (PEAK_BF16["H100"] * mfu) / 3600


def validation_flops_share(run: RunSpec) -> float:
    """Return the FLOPs of a run's validation losses over those of its training (a forward pass is a third)."""
    section = run.config.eval_loader
    assert section is not None, "the grid names a validation pool"
    samples = section.dataset.samples
    if samples is None:
        return 0.0
    batch = run.config.global_train_batch_size * run.seq_len
    steps = max(1, run.total_tokens // batch)
    every = durations.steps(run.config.eval_interval, steps, batch, run.unique_tokens, "eval_interval")
    draws = 1.0 if run.shape.causal else section.noise_samples + _exact_reads(section.exact, run.seq_len)
    return steps / every * samples * draws * run.seq_len / 3 / run.total_tokens


def _exact_reads(section: ExactSection | None, seq_len: int) -> float:
    """Return how often an evaluation reads a sample for its exact likelihood, in the mean."""
    return -(-seq_len // section.tokens_per_step) / section.every if section else 0.0


def clocks(runs: Sequence[RunSpec], threads: int) -> dict[tuple[Any, ...], Clock | None]:
    """Return the clock of every kind of run, from finished runs where there are any, else from one step timed here.

    None for models too large to time on this machine.
    """
    kinds: dict[tuple[Any, ...], list[RunSpec]] = {}
    for run in runs:
        kinds.setdefault(kind(run), []).append(run)
    return {k: _measured(own) or _probed(own[0], threads) for k, own in kinds.items()}


def kind(run: RunSpec) -> tuple[Any, ...]:
    """Return what runs of equal speed share."""
    return run.shape, run.seq_len, run.config.global_train_batch_size, str(run.config.device_train_microbatch_size)


def _measured(runs: Sequence[RunSpec]) -> Clock | None:
    timings = [parse_json(p.read_bytes(), str(p)) for run in runs if (p := Path(run.folder, TIMING_NAME)).is_file()]
    rates = [t["seconds"] / t["tokens"] for t in timings if t["tokens"]]
    return Clock(statistics.median(rates), f"{len(rates)} finished runs") if rates else None


def _probed(run: RunSpec, threads: int) -> Clock | None:
    device = "cuda" if uses_gpu(run) else "cpu"
    if run.flops / run.total_tokens * run.seq_len > LARGEST_TIMED[device]:
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.device(device):
            model, tokens = Transformer(run.shape), torch.zeros(1, run.seq_len, dtype=torch.int64)
        model.draws.words = torch.zeros_like(tokens[:, 0])  # dropout costs the same whatever it draws
        seconds = []
        for _ in range(4):  # the first one warms up
            started = time.perf_counter()
            torch.logsumexp(model(tokens).float(), -1).mean().backward()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return Clock(min(seconds[1:]) / run.seq_len * (1 + validation_flops_share(run)), "one step timed here")


def estimate(plan: GridPlan, jobs: int | None = None) -> dict[str, Any]:
    """Return what `plan` costs, JSON values.

    seconds_here: None where the models are too large to time on this machine, or the pool is not there.
    budgets: one entry for each number of unique tokens. Time assumes `jobs` runs at once.
    """
    jobs = jobs or default_jobs(plan)
    left = [run for run in plan.runs if result_of(run) is None]
    speed = clocks(plan.runs, plan.grid.threads) if plan.pool else {}
    seconds = [_seconds(run, speed.get(kind(run))) for run in left]
    known = None if None in seconds else sum(s for s in seconds if s is not None) / min(jobs, max(1, len(left)))
    flops = sum(run.flops for run in plan.runs)
    return {
        "grid": plan.grid.name,
        "out": plan.grid.out,
        "pool": plan.grid.pool,
        "pool_exists": plan.pool is not None,
        "runs": len(plan.runs),
        "finished": len(plan.runs) - len(left),
        "waiting": plan.waiting,
        "own_decay": sum(bool(run.decays_from) for run in plan.runs),
        "tokens": sum(run.total_tokens for run in plan.runs),
        "flops": flops,
        "mfu": plan.grid.mfu,
        "h100_hours": h100_hours(flops, plan.grid.mfu),
        "jobs": jobs,
        "seconds_here": known,
        "seconds_from": sorted({c.source for c in speed.values() if c}),
        "budgets": [_budget(plan, n) for n in sorted(plan.grid.unique_tokens)],
    } | _ensembles(plan)


def _ensembles(plan: GridPlan) -> dict[str, Any]:
    """Return how many ensembles a grid with `members` has, and how many of them are measured."""
    found = members.measured(plan)
    return {} if found is None else {"ensembles": len(found.records) + found.missing, "measured": len(found.records)}


def _seconds(run: RunSpec, speed: Clock | None) -> float | None:
    return None if speed is None else START_SECONDS + speed.seconds * run.total_tokens


def _budget(plan: GridPlan, n: int) -> dict[str, Any]:
    own = [run for run in plan.runs if run.unique_tokens == n]
    flops = sum(run.flops for run in own)
    return {
        "unique_tokens": n,
        "passes": plan.grid.total_tokens / n,
        "replicates": plan.grid.replicates_of(n),
        "runs": len(own),
        "finished": sum(result_of(run) is not None for run in own),
        "tokens": sum(run.total_tokens for run in own),
        "flops": flops,
        "h100_hours": h100_hours(flops, plan.grid.mfu),
    }


def describe(body: dict[str, Any]) -> str:
    """Return the lines of `epochal crossover --plan`."""
    head = ["unique tokens", "passes", "replicates", "runs", "finished", "tokens", "FLOPs", "H100-hours"]
    rows = [
        [
            *(format_count(b["unique_tokens"]), f"{b['passes']:.4g}", str(b["replicates"]), str(b["runs"])),
            *(str(b["finished"]), round_count(b["tokens"]), f"{b['flops']:.3g}", f"{b['h100_hours']:,.3g}"),
        ]
        for b in [*body["budgets"]]
    ]
    total = f"{round_count(body['tokens'])} tokens, {body['flops']:.3g} FLOPs"
    lines = [
        f"{body['grid']}: {count(body['runs'], 'run')}, {total}, {body['h100_hours']:,.3g} H100-hours "
        f"at {body['mfu']:.0%} MFU; {body['finished']} finished",
        text_table(head, rows),
    ]
    if body["own_decay"] or body["waiting"]:
        lines.append(_own_decay(body))
    if "ensembles" in body:
        lines.append(
            f"ensembles: {body['ensembles']} planned, {body['measured']} measured; each is measured once when its runs "
            "are finished, nothing more is trained"
        )
    if not body["pool_exists"]:
        lines.append(f"the pool {body['pool']} does not exist yet: GPT-2's vocabulary is assumed, build it first")
    elif body["seconds_here"] is None:
        lines.append("time on this machine: not known, the models are too large to time here")
    elif body["finished"] < body["runs"]:
        source = " and ".join(body["seconds_from"])
        at_once = f"{body['jobs']} runs at once" if body["jobs"] > 1 else "one run at a time"
        lines.append(f"time on this machine: about {clock(body['seconds_here'])}, {at_once} (from {source})")
    return "\n".join(lines)


def _own_decay(body: dict[str, Any]) -> str:
    """Return how far the second stage is: runs whose lengths are known, and runs that must be finished first."""
    known = f"own decay: {count(body['own_decay'], 'run')} planned from best lengths"
    after = f"more follow from {count(body['waiting'], 'run')} when finished, none longer than its own"
    return f"{known}; {after}" if body["waiting"] else known
