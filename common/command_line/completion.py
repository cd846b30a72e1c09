"""Scripts that let a shell complete `epochal`: written from the commands' parsers, so they know what the parsers know.

A script is text that the shell reads once; completing starts no Python. Options are offered after a `-`, choices and
names that come with the package where they fit, files everywhere else.
"""

import argparse
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        flags: its names, as in `--passes`, `--epochs`.
        summary: what its help says, one line.
        takes_value: whether a value follows.
        choices: the values that it takes; none where they are not listed.
    """

    flags: tuple[str, ...]
    summary: str
    takes_value: bool
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Completable:
    """What can be typed after `epochal NAME`.

    Attributes:
        name: of the command.
        summary: what it does, one line.
        options: all of them.
        words: what can stand in place of a file.
    """

    name: str
    summary: str
    options: tuple[Option, ...]
    words: tuple[str, ...]


def completable(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> Completable:
    """Return what can be typed after a command.

    Args:
        parser: the command's.
        words: names that come with the package and can be typed in place of a file.
    """
    options = tuple(_option(action) for action in parser._actions if action.option_strings)
    choices = [str(c) for action in parser._actions if not action.option_strings for c in action.choices or ()]
    return Completable(parser.prog.split()[-1], _line(parser.description), options, (*choices, *words))


def _option(action: argparse.Action) -> Option:
    choices = tuple(map(str, action.choices or ()))
    return Option(tuple(action.option_strings), _line(action.help), action.nargs != 0, choices)


def _line(text: str | None) -> str:
    return " ".join((text or "").replace("%%", "%").split())


def bash(commands: Sequence[Completable]) -> str:
    """Return the script for bash 4 and newer."""
    return _BASH.format(
        commands=_words([*_names(commands), "help", "--help", "--version"]),
        names=_words(_names(commands)),
        choices=_lines(
            f'{_values(c, o)}) COMPREPLY=($(compgen -W {_words(o.choices)} -- "$cur")); return ;;'
            for c, o in _with_choices(commands)
        ),
        values="|".join(_values(c, o) for c, o in _with_values(commands)),
        options=_lines(
            f"{c.name}) options={_words([f for o in c.options for f in o.flags])}; words={_words(c.words)} ;;"
            for c in commands
        ),
    )


def zsh(commands: Sequence[Completable]) -> str:
    """Return the script for zsh: to be sourced, or put as `_epochal` into a folder of its `fpath`."""
    return _ZSH.format(
        commands=_array([*((c.name, c.summary) for c in commands), ("help", "the help of a command")]),
        names=" ".join(_names(commands)),
        choices=_lines(
            f"{_values(c, o)}) compadd -- {shlex.join(o.choices)}; return ;;" for c, o in _with_choices(commands)
        ),
        values="|".join(_values(c, o) for c, o in _with_values(commands)),
        options=_lines(
            f"{c.name}) options={_array([(f, o.summary) for o in c.options for f in o.flags])}; "
            f"words_=({shlex.join(c.words)}) ;;"
            for c in commands
        ),
    )


def fish(commands: Sequence[Completable]) -> str:
    """Return the script for fish."""
    lines = ["# fish completion for epochal, written by `epochal completion fish`"]
    first = "complete -c epochal -f -n 'test (count (commandline -opc)) -eq 1'"
    lines += [f"{first} -a {c.name} -d {_fish(c.summary)}" for c in commands]
    lines += [f"{first} -a help -d 'the help of a command'", f"{first} -l help", f"{first} -l version"]
    lines.append(f"{_fish_after('help')} -f -a {_fish(' '.join(_names(commands)))}")
    for c in commands:
        lines += [f"{_fish_after(c.name)} -a {_fish(' '.join(c.words))}"] if c.words else []
        lines += [f"{_fish_after(c.name)} {_fish_option(o)}" for o in c.options]
    return "\n".join(lines) + "\n"


def _fish_after(command: str) -> str:
    """Return the beginning of a line that holds after `epochal COMMAND`."""
    return f"complete -c epochal -n 'set -l typed (commandline -opc); test \"$typed[2]\" = {command}'"


def _fish_option(option: Option) -> str:
    flags = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in option.flags)
    value = f" -x -a {_fish(' '.join(option.choices))}" if option.choices else " -r" if option.takes_value else ""
    return f"{flags}{value} -d {_fish(option.summary)}"


def _fish(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{quoted}'"


def _names(commands: Sequence[Completable]) -> list[str]:
    return [command.name for command in commands]


def _with_values(commands: Sequence[Completable]) -> list[tuple[Completable, Option]]:
    return [(command, option) for command in commands for option in command.options if option.takes_value]


def _with_choices(commands: Sequence[Completable]) -> list[tuple[Completable, Option]]:
    return [(command, option) for command, option in _with_values(commands) if option.choices]


def _values(command: Completable, option: Option) -> str:
    """Return the pattern of the words `COMMAND OPTION`."""
    return "|".join(shlex.quote(f"{command.name} {flag}") for flag in option.flags)


def _words(words: Sequence[str]) -> str:
    return shlex.quote(" ".join(words))


def _array(described: Sequence[tuple[str, str]]) -> str:
    return "(" + " ".join(shlex.quote(name + ":" + text.replace(":", "\\:")) for name, text in described) + ")"


def _lines(lines: Iterable[str]) -> str:
    return "\n        ".join(lines)


_BASH = """\
# bash completion for epochal, written by `epochal completion bash`
_epochal() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} options= words=
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W {commands} -- "$cur")); return
    fi
    # bash takes --option=value apart at the sign
    if [ "$cur" = = ]; then cur=; elif [ "$before" = = ]; then before=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    case "${{COMP_WORDS[1]}} $before" in
        'help help') COMPREPLY=($(compgen -W {names} -- "$cur")); return ;;
        {choices}
        {values}) COMPREPLY=(); return ;;
    esac
    case ${{COMP_WORDS[1]}} in
        {options}
    esac
    case $cur in
        -*) COMPREPLY=($(compgen -W "$options" -- "$cur")) ;;
        *) COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
    esac
}}
complete -o bashdefault -o default -F _epochal epochal
"""

_ZSH = """\
#compdef epochal
# zsh completion for epochal, written by `epochal completion zsh`
_epochal() {{
    local -a commands options words_
    if (( CURRENT == 2 )); then
        commands={commands}
        _describe command commands
        return
    fi
    case "$words[2] $words[CURRENT-1]" in
        'help help') compadd -- {names}; return ;;
        {choices}
        {values}) _files; return ;;
    esac
    case $words[2] in
        {options}
    esac
    if [[ $PREFIX == -* ]]; then
        _describe -o option options
    else
        compadd -- $words_
        _files
    fi
}}
if [[ $funcstack[1] == _epochal ]]; then _epochal "$@"; else compdef _epochal epochal; fi
"""

SCRIPTS: Mapping[str, Callable[[Sequence[Completable]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
"""By the shell's name, what writes its script."""
