"""mkdocs' hook for the documentation's site (mkdocs.yml): pages written from the code, and every link followed.

README.md, CONTRIBUTING.md and CHANGELOG.md become pages, the parsers the reference of the commands, the public names
the reference of the Python interface. In the pages as they are built, every link inside the site must lead to a file
and to a name in it, and nothing may be loaded from elsewhere; otherwise `mkdocs build --strict` fails.
"""

import argparse
import atexit
import html.parser
import logging
import re
import shutil
import tempfile
import textwrap
import tomllib
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

log = logging.getLogger("mkdocs.hooks.site")  # below `mkdocs`, whose warnings --strict counts
ROOT = Path(__file__).parents[3]

FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the root and the pages that they become."""

MORE_NAMES = {
    "Also used with them": [
        "epochal.shards.artifact.Artifact",
        "epochal.shards.manifest.Manifest",
        "epochal.datapipe.build.BuildResult",
        "epochal.shards.order.base.Order",
        "epochal.shards.order.mixing.Ingredient",
        "epochal.shards.order.mixing.by_tokens",
    ],
    "Errors": [
        "epochal.common.errors.EpochalError",
        "epochal.common.errors.RequestError",
        "epochal.common.errors.WorkError",
    ],
}
"""By heading: what stands in the Python reference beside the public names."""


@event_priority(100)  # before mkdocstrings reads its configuration
def on_config(config: Any) -> Any:
    """Show mkdocstrings a copy of the package alone: the checkout, its root, holds environments and much else."""
    copy = Path(tempfile.mkdtemp(prefix="epochal-site-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    for name in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]:
        folder = Path(*name.split(".")[1:])
        (copy / "epochal" / folder).mkdir(parents=True, exist_ok=True)
        for path in (ROOT / folder).glob("*.py"):
            shutil.copy(path, copy / "epochal" / folder)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(copy)]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are written from the code to mkdocs' own list of files."""
    from mkdocs.structure.files import File

    pages = {page: from_root(name) for name, page in FROM_ROOT.items()}
    pages |= {"reference/commands.md": command_reference(), "reference/python.md": python_reference()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_post_build(config: Any) -> None:
    """Warn of every link in the built site that leads nowhere, and of everything that it would load from elsewhere."""
    for problem in problems(Path(config["site_dir"])):
        log.warning(problem)


def from_root(name: str) -> str:
    """Return a file of the root as a page: its links to docs/ and to the other files lead to their pages."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\[docs/(\w+)\.md\]", r"[\1]", text).replace("](docs/", "](")
    for file, page in FROM_ROOT.items():
        text = text.replace(f"]({file}", f"]({page}")
    return text


def command_reference() -> str:
    """Return a page with every command: what it does, its usage, arguments, options and examples."""
    from epochal.__main__ import COMMANDS
    from epochal.common.cli import command_parsers

    head = "# Commands\n\nWritten from the commands themselves; `epochal COMMAND --help` says the same.\n"
    return "\n".join([head, *(_command(parser) for parser in command_parsers(COMMANDS, "epochal").values())])


def _command(parser: argparse.ArgumentParser) -> str:
    usage = " ".join(parser.format_usage().removeprefix("usage: ").replace("[-h] [--debug] ", "").split())
    usage = textwrap.fill(usage, 76, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    parts = [f"## {parser.prog}", _sentence(parser.description or ""), _fenced(usage)]
    actions = [action for action in parser._actions if action.dest not in ("help", "debug")]
    if actions:
        rows = [f"| {_shown(action)} | {_cell(_help(action))} |" for action in actions]
        parts.append("\n".join(["| argument | what it is |", "|---|---|", *rows]))
    if parser.epilog:
        parts.append(_fenced(re.sub(r"(?m)^  (?=epochal )", "", parser.epilog.removeprefix("examples:\n"))))
    return "\n\n".join(parts) + "\n"


def _shown(action: argparse.Action) -> str:
    choices = "\\|".join(map(str, action.choices or ()))
    value = str(action.metavar or choices or action.dest.upper()) if action.nargs != 0 else ""
    names = [f"`{flag} {value}`" if value else f"`{flag}`" for flag in action.option_strings]
    return ", ".join(names) or f"`{value}`"


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%") + (" (required)" if action.option_strings and action.required else "")


def _cell(text: str) -> str:
    """Return text for a cell of a table: nothing in it is markup, but for `code`."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(re.sub(r"([<*_\[\]])", r"\\\1", part) if i % 2 == 0 else part for i, part in enumerate(parts))


def _sentence(text: str) -> str:
    return _cell(text[:1].upper() + text[1:]) + "."


def _fenced(text: str) -> str:
    return f"```text\n{text.strip(chr(10))}\n```"


def python_reference() -> str:
    """Return a page with the guide to the public names, and a directive for each that mkdocstrings fills in."""
    import epochal

    guide = (epochal.__doc__ or "").partition("\n")[2].strip()
    parts = ["# Python", guide, "## The public names"]
    for name in sorted(epochal.__all__, key=str.lower):
        home = epochal._HOMES.get(name, "train" if name == "train" else "")
        parts.append(_directive(".".join(filter(None, ["epochal", home, name])), f"epochal.{name}"))
    for title, paths in MORE_NAMES.items():
        parts += [f"## {title}", *(_directive(path, path) for path in paths)]
    return "\n\n".join(parts) + "\n"


def _directive(path: str, heading: str) -> str:
    return f"::: {path}\n    options:\n      heading: {heading}\n      toc_label: {heading.rpartition('.')[2]}"


class _Links(html.parser.HTMLParser):
    """What a page links to, what it loads, and the names in it that a link can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "src" in given or (tag == "link" and "href" in given):
            self.loads.append(given.get("src") or given["href"])


def problems(site: Path) -> Iterator[str]:
    """Yield every link in the pages below `site` that leads nowhere, and everything that they load from elsewhere."""
    pages = {path.resolve(): _Links(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        shown = path.relative_to(site.resolve())
        yield from (f"{shown} loads {url}" for url in page.loads if _elsewhere(url))
        if path.name == "404.html":  # its links are those of wherever it is shown
            continue
        for url in (*page.links, *page.loads):
            if not _elsewhere(url) and not _leads_somewhere(path, url, pages):
                yield f"{shown} links to {url}, which is not there"


def _elsewhere(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "mailto")


def _leads_somewhere(page: Path, url: str, pages: dict[Path, _Links]) -> bool:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "data":
        return True
    target = (page.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else page
    if target not in pages:
        return target.is_file()
    name = urllib.parse.unquote(parts.fragment)
    return not name or name.startswith("__") or name in pages[target].names
