"""Everything that is to be known of a GPU, in one command: `python -m epochal.benchmarks.gpu`.

Stages, in this order: environment, ceilings, correctness, speed, profile, kernels, scoring, crossover. Each prints its
table, takes at most 8 minutes of one command, and consists of cases, which are processes of their own. A case that is
finished is kept and not run again: run the same command once more to go on. Written into --out: a JSON file a case,
gpu.md with all tables, the machine's name and the kind of every figure, and a log a case.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from epochal.benchmarks.common import result_path
from epochal.common.cli import run_plainly
from epochal.common.errors import RequestError

NAMES = ("environment", "ceilings", "correctness", "speed", "profile", "kernels", "scoring", "crossover")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m epochal.benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=25.0, help="time that this command may take (default 25)")
    parser.add_argument("--dry-run", action="store_true", help="every stage on a CPU, with toy sizes")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go (default benchmarks/results/gpu)")
    parser.add_argument("--only", choices=NAMES, metavar="STAGE", help=f"one stage of {', '.join(NAMES)}")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier commands measured")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not yet measured; return 0, or 1 where a case failed or found something wrong."""
    args = _parser().parse_args(argv)
    end = time.monotonic() + 60 * args.minutes
    if not args.minutes > 0:
        raise RequestError(f"--minutes must be more than 0, got {args.minutes:g}")
    if args.dry_run:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["OMP_NUM_THREADS"] = "1"  # toys: threads would wait for each other longer than they work
    else:
        _need_gpu()
    from epochal.train.light_import import import_composer

    import_composer()
    from epochal.benchmarks.gpu.runner import Runner
    from epochal.benchmarks.gpu.sizes import FULL, TOY

    name = "gpu-dry-run" if args.dry_run else "gpu"
    out = (args.out or result_path(name).with_suffix("")).absolute()
    if args.fresh:
        for folder in ("cases", "work", "logs"):
            shutil.rmtree(out / folder, ignore_errors=True)
    return Runner(out, TOY if args.dry_run else FULL, end, args.only).run()


def _need_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise RequestError("torch sees no GPU here: --dry-run goes through all stages on a CPU, with toy sizes")


if __name__ == "__main__":
    sys.exit(run_plainly(main, sys.argv[1:]))
