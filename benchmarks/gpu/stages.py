"""The stages, their cases, and the tables that these fill."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from epochal.benchmarks.gpu import ceilings, correctness, crossover, scoring, speed
from epochal.benchmarks.gpu.sizes import Place, Sizes

Rows = list[dict[str, Any]]
TYPES = ("ar", "mdm")
ENVIRONMENT = "environment"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: of a row's figure; one that a row lacks is an empty cell.
        pattern: its format.
        kind: what kind of figure it is; empty for names.
    """

    key: str
    title: str
    pattern: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Case:
    """What one process does. `run(place)` returns rows of JSON values."""

    name: str
    run: Callable[[Place], Rows]


@dataclass(frozen=True)
class Stage:
    """Cases that fill one table."""

    name: str
    title: str
    columns: tuple[Column, ...]
    cases: tuple[Case, ...]


WHAT = Column("what", "what")
MEDIAN = "measured: median of the steps after the first 5, one round"
HELD = "measured: the most that torch's allocator held"
RATE = Column("tokens_per_sec", "tokens/s", ",.0f", "measured: median of the steps")


def stages(sizes: Sizes) -> tuple[Stage, ...]:
    """Return all stages in the order in which they are run: the last takes what time is left."""
    made = (_environment, _ceilings, _correctness, _speed, _profile, _kernels, _scoring, _crossover)
    return tuple(make(sizes) for make in made)


def _environment(sizes: Sizes) -> Stage:
    columns = (WHAT, Column("figure", "here", kind="as the machine, torch and git say it"))
    return Stage(ENVIRONMENT, "Machine", columns, (Case("machine", partial(ceilings.environment, sizes)),))


def _ceilings(sizes: Sizes) -> Stage:
    best = f"measured: the best of {ceilings.ROUNDS} rounds; a copy's bytes count as read and as written"
    columns = (WHAT, Column("figure", "most", ".4g", best), Column("unit", "unit"))
    cases = (
        Case("products", partial(ceilings.products, sizes)),
        Case("copies", partial(ceilings.copies, sizes)),
    )
    return Stage("ceilings", "Ceilings", columns, cases)


def _correctness(sizes: Sizes) -> Stage:
    limits = "; ".join(f"{name} {loss:g} and {whole:g}" for name, (loss, whole) in correctness.LIMITS.items())
    error = "measured: relative to float64 on a CPU, same weights, same micro-batch"
    columns = (
        Column("case", "case"),
        WHAT,
        Column("loss_error", "loss's error", ".1e", error),
        Column("gradient_error", "gradient's error", ".1e", f"{error}; norm of the difference, all weights"),
        Column("worst_error", "worst weight's", ".1e", "the same of the one weight where it is largest"),
        Column("worst", "which"),
        Column("passed", "passed", kind=f"compared: errors of loss and gradient at most ({limits}); runs bit for bit"),
    )
    cases = tuple(
        Case(f"{name} {objective}", partial(run, objective, sizes))
        for name, run in (("gradients", correctness.gradients), ("kill and resume", correctness.resume))
        for objective in TYPES
    )
    return Stage("correctness", "Correctness", columns, cases)


def _speed(sizes: Sizes) -> Stage:
    measured, peak = MEDIAN, HELD
    columns = (
        WHAT,
        Column("composer_tokens_per_sec", "Composer, tokens/s", ",.0f", measured),
        Column("plain_tokens_per_sec", "plain loop, tokens/s", ",.0f", measured),
        Column("ratio", "Composer / plain", ".3f", "derived: from the two"),
        Column("mfu", "MFU", ".3f", "derived: Composer's tokens/s x FLOPs by formula / the vendor's dense bf16 peak"),
        Column("composer_peak_memory_gib", "Composer, GiB", ".1f", peak),
        Column("plain_peak_memory_gib", "plain loop, GiB", ".1f", peak),
    )
    cases = tuple(
        Case(f"{model} {objective} {'compiled' if compiled else 'not compiled'}", run)
        for model in sizes.models
        for compiled in (True, False)
        for objective in TYPES
        for run in [partial(speed.speed, model, objective, compiled, sizes)]
    )
    return Stage("speed", "Training", columns, cases)


def _profile(sizes: Sizes) -> Stage:
    by = f"measured: torch's profiler, {sizes.profiled} steps of the plain loop, compiled"
    columns = (
        WHAT,
        Column("kernel", "kernel" if sizes.gpu else "operation (no GPU: no kernels)"),
        Column("calls", "calls a step", ",.0f", by),
        Column("milliseconds", "ms a step", ",.2f", by),
        Column(
            "share",
            "share",
            ".1%",
            "derived: of the time of all that are listed and the others; gaps between kernels not counted",
        ),
    )
    model = list(sizes.models)[-1]
    cases = tuple(Case(f"{model} {o}", partial(speed.kernels, model, o, sizes)) for o in TYPES)
    return Stage("profile", "Where a step goes", columns, cases)


def _kernels(sizes: Sizes) -> Stage:
    columns = (
        WHAT,
        Column("plain_tokens_per_sec", "plain loop, compiled, tokens/s", ",.0f", MEDIAN),
        Column("plain_peak_memory_gib", "GiB", ".1f", HELD),
        Column("refused", "not on this machine", kind="as `epochal train` says it"),
    )
    model = list(sizes.models)[-1]
    cases = tuple(
        Case(f"{model} {objective} {value}", partial(speed.arm, model, objective, key, value, sizes))
        for key, value in sizes.arms
        for objective in reversed(TYPES)
    )
    return Stage("kernels", "Kernels of attention, products in float8", columns, cases)


def _scoring(sizes: Sizes) -> Stage:
    by = f"measured: {sizes.items} items of random tokens, of HellaSwag's form and about its lengths, random weights"
    columns = (
        WHAT,
        Column("kind", "likelihood"),
        Column("items_per_sec", "items/s", ",.1f", by),
        Column("sequences_per_sec", "rows/s", ",.1f", "measured: rows of model input in the same time"),
        Column("passed", "all finite", kind="compared: every likelihood is finite"),
    )
    cases = tuple(Case(f"{m} {o}", partial(scoring.score, m, o, sizes)) for m in sizes.scored for o in TYPES)
    return Stage("scoring", "Scoring multiple choice", columns, cases)


def _crossover(sizes: Sizes) -> Stage:
    loss = "measured: nats per token of held-out functions; `nll` is exact, `nelbo` an upper bound"
    columns = (
        WHAT,
        Column("kind", "loss is"),
        Column("best_loss", "best", ".4f", loss),
        Column("best_passes", "at pass", ".1f", "measured: where the best of the validations was"),
        Column("final_loss", "at the end", ".4f", loss),
        Column("final_loss_se", "s.e.", ".4f", "measured: what noise leaves of the bound; 0 where it is exact"),
        RATE,
        Column("receipt", "receipt", kind="checked: every sample fed as often as the plan says"),
    )
    return Stage("crossover", "A crossover cut to the time", columns, tuple(_crossover_cases(sizes)))


def _crossover_cases(sizes: Sizes) -> Iterator[Case]:
    yield Case("pool", partial(crossover.pool, sizes))
    for passes in sizes.ar_passes:
        yield Case(f"ar {passes} passes", partial(crossover.autoregressive, passes, sizes))
    yield Case("mdm", partial(crossover.masked_diffusion, sizes))
