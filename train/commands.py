"""`epochal train`."""

import argparse
import json
import sys
from collections.abc import Callable

Run = Callable[[argparse.Namespace], int]


def train(parser: argparse.ArgumentParser) -> Run:
    """Add the arguments of `epochal train`; return what runs it."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file, or the name of a shipped run such as tiny-mdm")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change, as in optimizer.lr=1e-3")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return _train


def _train(args: argparse.Namespace) -> int:
    from .config import load_config

    config = load_config(args.config, args.overrides)
    from composer.utils import dist

    from . import trainer

    result = trainer.train(config)
    if dist.get_global_rank() == 0:
        print(json.dumps(result) if args.json else describe(result))
    sys.stdout.flush()
    return 0


def describe(result: dict) -> str:
    """Return the lines that end a run."""
    losses = [f"{kind.upper()} {value:.4f}" for kind, value in result["validation"].items() if not kind.endswith("_se")]
    kinds = ", ".join(losses) or "none measured"
    bound = " (upper bound)" if "nelbo" in result["validation"] else ""
    return (
        f"{result['name']}: {result['steps']} steps, {result['tokens']:,} tokens, {result['passes']:.2f} passes\n"
        f"validation loss in nats per token: {kinds}{bound}\n"
        f"receipt {'valid' if result['receipt']['valid'] else 'NOT VALID'} ({result['receipt']['digest']})"
    )
