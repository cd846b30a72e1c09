"""The `epochal` command: a table of subcommands, each in the folder that does its work.

A command is a function `(parser) -> run`: it adds its arguments and returns what runs them. Its module is imported
only when the command is chosen, so `epochal --help` needs none of the heavy packages.
"""

import argparse
import errno
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

COMMANDS: dict[str, tuple[str, str]] = {
    "build": ("datapipe.commands", "text -> pool and validation pool"),
    "carve": ("shards.commands", "pool -> subset with an exact number of unique tokens"),
    "crossover": ("train.crossover.commands", "a grid of AR and MDM runs: trained, compared, reported"),
    "evaluate": ("train.commands", "likelihoods and benchmarks of checkpoints, either type, kinds declared"),
    "export": ("shards.commands", "subset -> WebDataset, Parquet, Megatron-LM, flat or Hugging Face files"),
    "flops": ("train.commands", "FLOPs of a model: training, and generating with either type"),
    "generate": ("train.commands", "text from a checkpoint of either type"),
    "plan": ("shards.order.commands", "how a token budget repeats a subset: passes, steps, samples"),
    "order": ("shards.order.commands", "which samples a run reads at which positions"),
    "audit": ("shards.order.commands", "whether a run trained on exactly the samples of its plan"),
    "register": ("service.commands", "tell the service of an artifact that lies elsewhere, or of a run's reports"),
    "seen": ("service.commands", "how often runs were fed a document, over their whole ancestry"),
    "serve": ("service.commands", "the repetition-control service: catalogue, plans, runs, exposures, a page"),
    "show": ("shards.commands", "what an artifact is: counts, fingerprint, parent"),
    "train": ("train.commands", "train an autoregressive or masked-diffusion model on a subset, repeated as planned"),
    "verify": ("shards.commands", "recompute every hash and count of an artifact from its bytes"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (0 done, 1 the work failed, 2 the request was wrong)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    try:
        return _run(argv)
    except KeyboardInterrupt:
        print("epochal: interrupted; nothing was lost: run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away (`epochal show | head`)
        return 1
    except Exception as error:
        if debug:
            raise
        message, status = _explain(error)
        print(f"epochal: {message}", file=sys.stderr)
        return status


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, as every other wrong request."""

    def error(self, message: str) -> NoReturn:
        from epochal.common.errors import RequestError

        raise RequestError(f"{message} (see {self.prog} --help)")


def _run(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        return _overview(argv)
    command, (module, summary) = argv[0], COMMANDS[argv[0]]
    parser = _Parser(prog=f"epochal {command}", description=summary, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    run: Callable[[argparse.Namespace], int] = getattr(importlib.import_module(f"epochal.{module}"), command)(parser)
    return run(parser.parse_intermixed_args(argv[1:]))


def _overview(argv: list[str]) -> int:
    """Answer --help and --version, and refuse what is no command; imports nothing that a command needs."""
    parser = _Parser(
        prog="epochal",
        description="Exact unique-token datasets, deterministic repetition, and training that compares on them.",
        epilog="Each command has its own --help. --debug shows the traceback of a failure.",
        # argparse leaves the indent of subcommands out of its columns: at 2 the longest one would break its line.
        formatter_class=functools.partial(argparse.HelpFormatter, indent_increment=1),
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"epochal {importlib.import_module('epochal').__version__}"
    )
    commands = parser.add_subparsers(metavar="command", required=True, title="commands")
    for command, (_, summary) in COMMANDS.items():
        commands.add_parser(command, help=summary)
    parser.parse_args(argv)
    raise AssertionError("parse_args answers or refuses everything but a command")


def _explain(error: Exception) -> tuple[str, int]:
    """Return one line for `error` and the exit status it stands for."""
    from epochal.common.errors import EpochalError, one_line

    if isinstance(error, EpochalError):
        return str(error), error.exit_status
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on the disk{_at(error)}: free some and run the same command again", 1
    if isinstance(error, PermissionError):
        return f"permission denied{_at(error)}", 1
    text = one_line(error, 300)
    return f"failed with {type(error).__name__}: {text} (run again with --debug for the traceback)", 1


def _at(error: OSError) -> str:
    return f" at {Path(str(error.filename))}" if error.filename else ""


if __name__ == "__main__":
    sys.exit(main())
