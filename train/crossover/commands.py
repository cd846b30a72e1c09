"""`epochal crossover`."""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from ...common.cli import Runner, add_examples, say, say_next
from ...common.errors import RequestError

if TYPE_CHECKING:
    from .ensembles.measure import EnsembleFailure
    from .grid import GridPlan
    from .launch import Failure

GRID = """a grid of your own, mine.yaml:
  name: mine
  out: runs/mine                # results, and a folder a run
  base: tiny-ar                 # the settings of `epochal train` that all runs share
  pool: artifacts/pools/mine    # validated on mine-val beside it, or on `validation: PATH`
  unique_tokens: [100k, 1M]     # budgets, each no larger than total_tokens
  total_tokens: 1M              # of every run
  settings: {optimizer.lr: 1e-3}  # in place of the base's
objectives (default [ar, mdm]), replicates (1), seeds ([17]) and overrides (none) make more runs, and so do
arms, {ar: {regular: {model.dropout: 0.1}}}, of which the best is chosen, and own_decay, [1]: after each run one that
ends, decayed, where it was best; members, [2, 3], also measures the best models of the first 2 and 3 seeds together"""


def crossover(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal crossover`; return what runs it."""
    add_examples(
        parser,
        "crossover crossover-cpu --plan",
        "crossover crossover-cpu name=mine out=runs/mine pool=artifacts/pools/mine",
        "crossover mine.yaml --jobs 2",
    )
    parser.epilog = f"{parser.epilog}\n\n{GRID}"
    parser.add_argument("grid", metavar="GRID", help="YAML file, or the name of a shipped grid such as crossover-cpu")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as in total_tokens=500k or settings.optimizer.lr=1e-3"
    )
    parser.add_argument("--plan", "--dry-run", action="store_true", help="say what would be run and what it costs")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: what cores or GPUs allow)")
    parser.add_argument("--slurm", action="store_true", help="print a job array of what is left instead of running it")
    parser.add_argument("--report-only", action="store_true", help="curves and report of what has been run so far")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return _crossover


def _crossover(args: argparse.Namespace) -> int:
    from . import cost, grid, launch, stages
    from .ensembles import members

    if args.jobs is not None and args.jobs < 1:
        raise RequestError(f"--jobs must be at least 1, got {args.jobs}")
    if args.plan + args.slurm + args.report_only > 1:
        raise RequestError("--plan, --slurm and --report-only exclude each other: choose one")
    plan = stages.whole(grid.plan(grid.load_grid(args.grid, args.overrides)))
    members.planned(plan)  # what cannot be measured is refused before anything is trained
    if args.plan:
        body = cost.estimate(plan, args.jobs)
        print(json.dumps(body) if args.json else cost.describe(body))
        if not args.json:
            say_next(["crossover", args.grid, *args.overrides])
        return 0
    if args.slurm:
        return _slurm(plan, args.jobs)
    plan, failures = (plan, []) if args.report_only else _train(plan, args.jobs, args.quiet)
    unmeasured = [] if args.report_only else _measure_ensembles(plan, args.quiet)
    from . import analysis
    from .report import render, wording

    body = render.publish(plan)
    body["failures"] = [{"run": f.run.name, "reason": f.reason} for f in failures]
    body["failures"] += [{"ensemble": f.spec.stem, "reason": f.reason} for f in unmeasured]
    print(json.dumps(analysis.plain(body)) if args.json else wording.describe(body))
    for failure in failures:
        log = os.path.join(failure.run.folder, launch.LOG_NAME)
        say(f"{failure.run.label}: {failure.reason} ({log})")
    for missing in unmeasured:
        say(f"{missing.spec.label}: {missing.reason}")
    return 1 if failures or unmeasured else 0


def _measure_ensembles(plan: "GridPlan", quiet: bool) -> "list[EnsembleFailure]":
    """Measure the grid's ensembles whose runs are finished; return those that failed."""
    if not plan.grid.members:
        return []
    from ..light_import import import_composer

    import_composer()
    from .ensembles import measure

    return measure.measure_missing(plan, quiet)


def _slurm(plan: "GridPlan", jobs: int | None) -> int:
    """Print a job array of the runs that are left and can be trained now."""
    from . import launch

    runs = launch.unfinished(plan)
    if runs:
        launch.prepare(plan, runs)
    print(launch.slurm_script(plan, runs, jobs) if runs else "# every run is finished", end="")
    return 0


def _train(plan: "GridPlan", jobs: int | None, quiet: bool) -> "tuple[GridPlan, list[Failure]]":
    """Train what is left, then what follows from it; return the plan with all runs, and those that failed."""
    from . import cost, launch, stages

    failures: list[Failure] = []
    while True:
        failed = {failure.run.name for failure in failures}
        runs = [run for run in launch.unfinished(plan) if run.name not in failed]
        if not runs:
            return plan, failures
        launch.prepare(plan, runs)
        if not quiet:
            print(cost.describe(cost.estimate(plan, jobs)), file=sys.stderr, flush=True)
        failures += launch.launch(plan, runs, jobs or launch.default_jobs(plan), quiet)
        plan = stages.whole(plan)
