"""What all commands share: how they are run, how they fail, and tables of text.

A command is a function `(parser) -> runner`: it adds its arguments to `parser` and returns what runs it. Modules of
commands are imported only when theirs is chosen, so `--help` needs none of the heavy packages.
"""

import argparse
import functools
import importlib
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from .errors import EpochalError, RequestError, one_line, printable, system_line, without_passwords

Runner = Callable[[argparse.Namespace], int]
"""Runs a command on its arguments; returns the exit status."""

Command = Callable[[argparse.ArgumentParser], Runner]

Commands = Mapping[str, tuple[str, str]]
"""By name: the module in the package that holds the command, and one line that says what it does.

The command is the module's function of that name, `-` written `_`.
"""


def run_commands(commands: Commands, package: str, version: str, argv: Sequence[str]) -> int:
    """Run the command line of `package`; return the exit status, see `run_plainly`."""

    def run(words: list[str]) -> int:
        if not words or words[0] not in commands:
            return _overview(commands, version, words)
        module, summary = commands[words[0]]
        return _run(
            words[0],
            getattr(importlib.import_module(f"{package}.{module}"), words[0].replace("-", "_")),
            summary,
            words[1:],
        )

    return run_plainly(run, argv)


def run_command(name: str, command: Command, summary: str, argv: Sequence[str]) -> int:
    """Run the command line of one command, as `epochal name` does; return the exit status, see `run_plainly`."""
    return run_plainly(lambda words: _run(name, command, summary, words), argv)


def run_plainly(run: Callable[[list[str]], int], argv: Sequence[str]) -> int:
    """Return what `run` returns; an error becomes one line on standard error and its exit status.

    0: done. 1: the work failed. 2: the request was wrong. 130: interrupted. `run` is given `argv` without `--debug`,
    which lets the traceback through.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where the locale is not UTF-8, names of others may not be written
            stream.reconfigure(errors="backslashreplace")
    try:
        return run([word for word in argv if word != "--debug"])
    except KeyboardInterrupt:
        print("epochal: interrupted; nothing was lost: run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away (`epochal show | head`)
        return 1
    except Exception as error:
        if "--debug" in argv:
            raise
        message, status = explain(error)
        print(f"epochal: {printable(without_passwords(message))}", file=sys.stderr)
        return status


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, as every other wrong request."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message} (see {self.prog} --help)")


def _run(name: str, command: Command, summary: str, argv: Sequence[str]) -> int:
    parser = _Parser(prog=f"epochal {name}", description=summary, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    runner = command(parser)
    return runner(parser.parse_intermixed_args(argv))


class _OverviewFormatter(argparse.HelpFormatter):
    """Leaves room for the indent of subcommands, which argparse forgets: the longest one would break its line."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment


def _overview(commands: Commands, version: str, argv: Sequence[str]) -> int:
    """Answer --help and --version, and refuse what is no command; imports nothing that a command needs."""
    parser = _Parser(
        prog="epochal",
        description="Exact unique-token datasets, deterministic repetition, and training that compares on them.",
        epilog="Each command has its own --help. --debug shows the traceback of a failure.",
        formatter_class=functools.partial(_OverviewFormatter, indent_increment=1),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"epochal {version}")
    listed = parser.add_subparsers(metavar="command", required=True, title="commands")
    for name, (_, summary) in commands.items():
        listed.add_parser(name, help=summary)
    parser.parse_args(argv)
    raise AssertionError("parse_args answers or refuses everything but a command")


def explain(error: Exception) -> tuple[str, int]:
    """Return one line for `error` and the exit status it stands for."""
    if isinstance(error, EpochalError):
        return str(error), error.exit_status
    if isinstance(error, OSError) and error.errno is not None:
        return system_line(error), 1
    if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding() != "utf-8":
        return f"a file's name cannot be written in {error.encoding}: set LC_ALL=C.UTF-8, or PYTHONUTF8=1", 2
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return "a name or text in this request is not Unicode: is the locale UTF-8 (LC_ALL=C.UTF-8)?", 2
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return "not enough memory: ask for less at once, or use a machine with more", 1
    text = one_line(error, 300)
    return f"failed with {type(error).__name__}: {text} (run again with --debug for the traceback)", 1


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text: `head`, a rule, `rows`; columns as wide as they must be, cells made printable."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def say(text: str) -> None:
    """Print one line for the user on standard error, beside what a program may read."""
    print(f"epochal: {text}", file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """Print `value` as one line of JSON on standard output."""
    print(json.dumps(value))
