"""A crossover cut to the time that is left: autoregressive runs of a few lengths, each with its own decay, and one run
of masked diffusion of as many passes as time allows, on the same unique tokens.

Each length is a grid of one run: a run of a grid has the grid's length, and its schedule ends with it. What was begun
goes on from its last checkpoint when the command is run again.
"""

import json
from pathlib import Path
from typing import Any

from epochal.benchmarks.gpu.sizes import Place, Sizes
from epochal.common import storage
from epochal.common.config import validate
from epochal.common.errors import WorkError
from epochal.examples.functions import POOL, make_pool
from epochal.train.crossover import curves, launch
from epochal.train.crossover.grid import Grid, GridPlan, plan
from epochal.train.run_folder import METRICS_NAME, read_metrics
from epochal.train.trainer import train

Rows = list[dict[str, Any]]
PASSES_NAME = "mdm-passes.json"
SPARE = 0.75
"""Share of the time left that the run of masked diffusion is planned for: start, validation and saving take theirs."""


def pool(sizes: Sizes, place: Place) -> Rows:
    """Build the pool: the functions of the standard library, a document each."""
    folder = make_pool(place.kept / "artifacts", sizes.functions)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    what = f"pool {folder.name}: {manifest['documents']:,} documents, {manifest['tokens']:,} unique tokens"
    return [{"what": what}]


def autoregressive(passes: int, sizes: Sizes, place: Place) -> Rows:
    """Train the autoregressive model for so many passes, its decay at their end."""
    return _run("ar", passes, sizes, place)


def masked_diffusion(sizes: Sizes, place: Place) -> Rows:
    """Train masked diffusion for as many passes as time allows, at most `sizes.most_passes`."""
    return _run("mdm", _passes(sizes, place), sizes, place)


def grid(objective: str, passes: int, sizes: Sizes, kept: Path) -> GridPlan:
    """Return the grid of one run."""
    settings: dict[str, Any] = {
        "name": "gpu",
        "out": str(kept),
        "base": sizes.base,
        "pool": str(kept / "artifacts" / "pools" / POOL),
        "unique_tokens": [sizes.unique_tokens],
        "total_tokens": sizes.unique_tokens * passes,
        "objectives": ["ar" if objective == "ar" else {"name": "mdm", "weighting": "exact_count"}],
        "settings": sizes.crossover,
    }
    return plan(validate(Grid, settings, "gpu"))


def _run(objective: str, passes: int, sizes: Sizes, place: Place) -> Rows:
    planned = grid(objective, passes, sizes, place.kept)
    launch.prepare(planned, planned.runs)
    (spec,) = planned.runs
    train(spec.config)
    row = curves.summary(spec, curves.curve(spec))
    if row["receipt"] != "valid":
        raise WorkError(f"the receipt of {spec.name}: {row['receipt']}")
    names = ("kind", "best_loss", "best_passes", "final_loss", "final_loss_se", "receipt")
    rate = _rate(spec.folder)
    return [
        {
            "what": f"{objective}, {passes} {'pass' if passes == 1 else 'passes'}",
            "passes": passes,
            "tokens_per_sec": rate,
        }
        | {name: row.get(name) for name in names}
    ]


def _rate(folder: str) -> float | None:
    """Return the median of the tokens/s that a run noted, validations not counted."""
    rates = sorted(
        row["throughput/tokens_per_sec"] for row in read_metrics(folder) if "throughput/tokens_per_sec" in row
    )
    return rates[len(rates) // 2] if rates else None


def _passes(sizes: Sizes, place: Place) -> int:
    """Return the passes of masked diffusion: as begun, else by the pace of the longest autoregressive run."""
    noted = place.kept / PASSES_NAME
    if noted.is_file():
        return int(json.loads(noted.read_bytes()))
    (longest,) = grid("ar", max(sizes.ar_passes), sizes, place.kept).runs
    pace = _rate(longest.folder) if Path(longest.folder, METRICS_NAME).is_file() else None
    if pace is None:
        raise WorkError("the autoregressive runs, whose pace says how long masked diffusion may be, are not finished")
    possible = int(SPARE * place.seconds * pace / sizes.unique_tokens)
    passes = max(1, min(sizes.most_passes, possible))
    storage.write_atomic(str(noted), json.dumps(passes).encode())
    return passes
