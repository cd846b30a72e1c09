"""What all commands share: how they are run, how they fail, and tables of text.

A command is a function `(parser) -> runner`: it adds its arguments to `parser` and returns what runs it. Modules of
commands are imported only when theirs is chosen, so `--help` needs none of the heavy packages.
"""

import argparse
import codecs
import functools
import importlib
import io
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from .errors import EpochalError, RequestError, one_line, printable, public, system_line, without_secrets
from .problems import did_you_mean, nearest

Runner = Callable[[argparse.Namespace], int]
"""Runs a command on its arguments; returns the exit status."""

Command = Callable[[argparse.ArgumentParser], Runner]

Commands = Mapping[str, tuple[str, str]]
"""By name: the module in the package that holds the command, and one line that says what it does.

The command is the module's function of that name, `-` written `_`.
"""


def run_commands(commands: Commands, package: str, version: Callable[[], str], argv: Sequence[str]) -> int:
    """Run the command line of `package`; return the exit status, see `run_plainly`."""

    def run(words: list[str]) -> int:
        if words[:1] == ["help"]:
            words = [*words[1:], "--help"]
        if not words or words[0] not in commands:
            return _overview(commands, version, words)
        module, summary = commands[words[0]]
        return _run(words[0], _command(package, module, words[0]), summary, words[1:])

    return run_plainly(run, argv)


def run_command(name: str, command: Command, summary: str, argv: Sequence[str]) -> int:
    """Run the command line of one command, as `epochal name` does; return the exit status, see `run_plainly`."""
    return run_plainly(lambda words: _run(name, command, summary, words), argv)


PLAINER = "epochal.plainer"
_PLAIN = {"█": "#", "░": ".", "…": "...", "±": "+-", "×": "x", "–": "-", "—": "-", "’": "'", "≥": ">=", "≤": "<="}


def _plainer(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for a character that a stream cannot be written: a plain one like it, else its number."""
    if isinstance(error, UnicodeEncodeError) and (plain := _PLAIN.get(error.object[error.start])):
        return plain, error.start + 1
    if isinstance(error, UnicodeEncodeError):
        error.end = error.start + 1
    return codecs.backslashreplace_errors(error)


codecs.register_error(PLAINER, _plainer)


def run_plainly(run: Callable[[list[str]], int], argv: Sequence[str]) -> int:
    """Return what `run` returns; an error becomes one line on standard error and its exit status.

    0: done. 1: the work failed. 2: the request was wrong. 130: interrupted. `run` is given `argv` without `--debug`,
    which lets the traceback through.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where the locale is not UTF-8, names of others may not be written
            stream.reconfigure(errors=PLAINER)
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
        print(f"epochal: {printable(without_secrets(message))}", file=sys.stderr)
        return status


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, as every other wrong request, in words of ours."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for kind in (int, float):
            self.register("type", kind, _in_ascii(kind))

    def error(self, message: str) -> NoReturn:
        for pattern, words in _WRONG:
            if match := re.fullmatch(pattern, message, re.DOTALL):
                message = words(self, *match.groups())
                break
        raise RequestError(f"{message} (see {self.prog} --help)")

    def check_options(self, argv: Sequence[str]) -> None:
        """Raise RequestError for an option that is not known. argparse would first ask for what is missing."""
        words = list(argv[: argv.index("--") if "--" in argv else None])
        for word, after in zip(words, [*words[1:], ""], strict=False):
            option, _, value = word.partition("=")
            if option.startswith("--") and option not in self._option_string_actions:
                self.error(self._not_known(option, value or ("" if after.startswith("-") else after)))

    def _not_known(self, option: str, value: str) -> str:
        word = option.removeprefix("--")
        positional = [action for action in self._actions if not action.option_strings]
        if any(action.dest == word for action in positional):
            return f"{option} is written without its name: {self.prog} {' '.join(map(_shown, positional))}"
        known = {name.removeprefix("--"): name for name in self._option_string_actions if name.startswith("--")}
        near = next((name for name in known if word in name.split("-")), None) or nearest(word, known)
        if near is not None:
            return f"there is no option {option}: did you mean '{known[near]}'?"
        if any(_shown(action) == "key=value" for action in positional):
            return f"there is no option {option}: settings are written {word.replace('-', '_')}={value or 'VALUE'}"
        return f"there is no option {option}: there are {', '.join(known.values())}"

    def find(self, name: str) -> argparse.Action | None:
        """Return the argument of that name, as argparse's messages call it."""
        return next((a for a in self._actions if name in (argparse._get_action_name(a), _shown(a), a.dest)), None)


def _in_ascii(kind: type[int] | type[float]) -> Callable[[str], float]:
    """Return `kind` for what is typed in ASCII alone: Python also takes the digits of other scripts, unsaid."""

    def parse(text: str) -> float:
        if not text.isascii():
            raise ValueError(text)
        return kind(text)

    return parse


def _shown(action: argparse.Action) -> str:
    return str(action.metavar or action.dest)


def _missing(parser: _Parser, names: str) -> str:
    actions = [action for name in names.split(", ") if (action := parser.find(name)) and action.nargs != "*"]
    wanted = (f"{_usage(action)} ({action.help})" if action.help else _usage(action) for action in actions)
    return f"{parser.prog.removeprefix('epochal ')} needs {' and '.join(wanted)}"


def _usage(action: argparse.Action) -> str:
    if not action.option_strings:
        return _shown(action)
    shown = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    return f"{action.option_strings[0]} {shown}"


def _not_a_choice(parser: _Parser, name: str, value: str) -> str:
    choices = [str(choice) for choice in getattr(parser.find(name), "choices", None) or ()]
    given = value.strip("'\"")
    if name == "command":
        return f"there is no command '{given}'{did_you_mean(given, choices) or ': there are ' + ', '.join(choices)}"
    return f"{name} must be one of {', '.join(choices)}, got '{given}'{did_you_mean(given, choices)}"


def _no_value(parser: _Parser, name: str) -> str:
    action = parser.find(name)
    return f"{name} needs a value: {_usage(action)} ({action.help})" if action else f"{name} needs a value"


_WRONG: tuple[tuple[str, Callable[..., str]], ...] = (
    ("the following arguments are required: (.*)", _missing),
    ("unrecognized arguments: (.*)", lambda parser, words: f"'{words}' is too much"),
    (r"argument (.*?): invalid choice: (.*?) \(choose from .*\)", _not_a_choice),
    ("argument (.*?): invalid int value: (.*)", lambda _, name, value: f"{name} must be a whole number, got {value}"),
    ("argument (.*?): invalid float value: (.*)", lambda _, name, value: f"{name} must be a number, got {value}"),
    (r"argument (.*?): expected (?:one|at least one|\d+) arguments?", _no_value),
    (
        "argument (.*?): not allowed with argument (.*)",
        lambda _, a, b: f"{a} and {b} exclude each other: give one of them",
    ),
    (
        "one of the arguments (.*) is required",
        lambda parser, names: f"{parser.prog.removeprefix('epochal ')} needs one of {', '.join(names.split())}",
    ),
    ("argument (.*?): ignored explicit argument (.*)", lambda _, name, value: f"{name} takes no value, got {value}"),
)
"""argparse's messages and what is said instead, given the parser and the groups of the match."""


def _run(name: str, command: Command, summary: str, argv: Sequence[str]) -> int:
    parser, runner = _command_parser(name, command, summary)
    parser.check_options(argv)
    return runner(parser.parse_intermixed_args(argv))


def _command_parser(name: str, command: Command, summary: str) -> tuple[_Parser, Runner]:
    parser = _Parser(prog=f"epochal {name}", description=summary, formatter_class=_CommandFormatter, allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser, command(parser)


def command_parsers(commands: Commands, package: str) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command of `package`, by the command's name: for what is written from all of them."""
    return {
        name: _command_parser(name, _command(package, module, name), summary)[0]
        for name, (module, summary) in commands.items()
    }


def _command(package: str, module: str, name: str) -> Command:
    return getattr(importlib.import_module(f"{package}.{module}"), name.replace("-", "_"))


class _CommandFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of examples, and leaves room for the names of options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


class _OverviewFormatter(argparse.HelpFormatter):
    """Leaves room for the indent of subcommands, which argparse forgets: the longest one would break its line."""

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):
            self._action_max_length += self._indent_increment


def _overview(commands: Commands, version: Callable[[], str], argv: Sequence[str]) -> int:
    """Answer --help and --version, and refuse what is no command; imports nothing that a command needs."""
    parser = _Parser(
        prog="epochal",
        description="Exact unique-token datasets, deterministic repetition, and training that compares on them.",
        epilog="Begin with: epochal init FOLDER. Each command has its own --help; --debug shows a failure's traceback.",
        formatter_class=functools.partial(_OverviewFormatter, indent_increment=1),
        allow_abbrev=False,
    )
    shown = f"epochal {version()}" if "--version" in argv else ""  # it asks git, --help need not
    parser.add_argument("--version", action="version", version=shown, help="show the version and the commit, and exit")
    listed = parser.add_subparsers(metavar="command", required=True, title="commands")
    for name, (_, summary) in commands.items():
        listed.add_parser(name, help=summary)
    parser.check_options(argv)
    if not argv:
        parser.error("say what to do: epochal COMMAND ...")
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
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing not in ("", "epochal"):
        return f"this needs the package {missing}, which is not installed here: install it, or run this elsewhere", 2
    text = one_line(error, 300)
    return f"failed with {type(error).__name__}: {text} (run again with --debug for the traceback)", 1


def add_examples(parser: argparse.ArgumentParser, *lines: str) -> None:
    """Show what may be typed, without the `epochal ` in front, at the end of the command's help."""
    parser.epilog = "\n".join(["examples:", *(f"  epochal {line}" for line in lines)])


def device_argument(parser: argparse.ArgumentParser, what: str = "where to compute") -> None:
    """Add `--device`, which `train.checkpoint.check_device` understands."""
    said = f"{what}: auto, cpu, cuda, cuda:1 (default auto: a GPU of CUDA where there is one)"
    parser.add_argument("--device", metavar="DEVICE", default="auto", help=said)


def at_least_1(args: argparse.Namespace, *names: str) -> None:
    """Raise RequestError for the first of the options `names` that was given a number below 1."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise RequestError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def say_next(*commands: Sequence[str]) -> None:
    """Print the commands that come next, each as its words without `epochal` in front; they can be copied."""
    for head, words in zip(["next: ", *["      "] * len(commands)], commands, strict=False):
        print(head + shlex.join(["epochal", *(printable(without_secrets(word, {})) for word in words)]))


def short_path(path: str) -> str:
    """Return `path` as it is best typed: from this folder on when it lies below it."""
    here = os.getcwd() + os.sep
    return path.removeprefix(here) if path != here else path


def output_columns() -> int:
    """Return the columns of standard output; where it is no terminal, there is no end to them."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of text: `head`, a rule, `rows`; columns as wide as they must be, cells made printable.

    Where standard output is a terminal that is too narrow for it, each row becomes a paragraph, a line a cell.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    room = output_columns()
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    if sum(widths) + 2 * (len(widths) - 1) > room:
        return "\n\n".join(_paragraph(head, row) for row in rows)
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _paragraph(head: Sequence[str], row: Sequence[str]) -> str:
    width = max(map(len, head))
    return "\n".join(f"{name:<{width}}  {cell}" for name, cell in zip(head, row, strict=True) if cell)


def for_terminal(text: str, keep: str = "\n") -> str:
    """Return a text of others without its control characters, those in `keep` apart."""
    return "".join(c for c in text if c in keep or c.isprintable())


def say(text: str) -> None:
    """Print one line for the user on standard error, beside what a program may read; secrets are left out."""
    print(f"epochal: {without_secrets(text)}", file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """Print `value` as one line of JSON on standard output, URLs in it without credentials."""
    print(json.dumps(public(value, {})))
