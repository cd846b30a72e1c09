"""Markdown and YAML from text of others: names, licences and citations come from configurations, and none of them may
begin a heading, a link, a row of a table or a new key."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from ...common.errors import printable
from ..facts import plain

_MARKED = re.compile(r"([\\`*_{}\[\]<>#|~&!$])")
_NAME = re.compile(r"[\w.:-]+")
_WEB = re.compile(r"https?://[^\s<>\"'`\\|()\[\]{}^]+")


def escaped(text: Any) -> str:
    """Return a value as Markdown that shows it as it is, in one line."""
    line = _MARKED.sub(r"\\\1", plain(text))
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", re.sub(r"^([-+=:])", r"\\\1", line))


def code(text: Any) -> str:
    """Return a name that a program made (a fingerprint) in the type of code, any other text as `escaped`."""
    line = plain(text)
    return f"`{line}`" if _NAME.fullmatch(line) else escaped(line)


def linked(text: Any) -> str:
    """Return the address of a web page as a link, anything else as `escaped`."""
    line = plain(text)
    return f"<{line}>" if _WEB.fullmatch(line) else escaped(line)


def web_address(text: Any) -> bool:
    """Return whether a value is the address of a web page."""
    return bool(_WEB.fullmatch(plain(text)))


def fenced(text: str, language: str = "") -> str:
    """Return lines of text as a block of code; its fence is longer than any in the text."""
    lines = [printable(line.rstrip()).replace("\\t", "    ") for line in text.strip("\n").splitlines()]
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence + language, *lines, fence])


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Return a table of cells that are Markdown already; the columns `numbers` are set to the right."""
    rule = ["---:" if i in numbers else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def front_matter(values: dict[str, Any]) -> str:
    """Return the YAML block that a card begins with."""
    return f"---\n{dump_yaml(values)}---\n"


def dump_yaml(values: Any) -> str:
    """Return values as YAML, each of its strings on one line."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1 << 30, default_flow_style=False)
