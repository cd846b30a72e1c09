"""The documentation's site is built without a warning and complete; what checks its links finds faults."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest

import epochal
from epochal.__main__ import COMMANDS
from epochal.tests.support.checks import site

ROOT = Path(__file__).parents[2]


def build(folder: Path, strict: bool = True) -> None:
    """Build the site into `folder`."""
    from mkdocs.commands.build import build as build_site
    from mkdocs.config import load_config

    config: Any = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=strict)
    config.plugins.on_startup(command="build", dirty=False)
    build_site(config)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_or_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *address: pytest.fail(f"connects to {address[1:]}"))
    build(tmp_path)  # --strict: a warning is an error
    pages = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.html")}
    written = {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")}
    assert written | {"index.html", "reference/commands.html", "reference/python.html"} <= set(pages)
    commands, python = pages["reference/commands.html"], pages["reference/python.html"]
    assert all(f'<h2 id="epochal-{name}">' in commands for name in COMMANDS)
    assert "epochal carve artifacts/pools/mine --unique-tokens 500M" in re.sub(r"<[^>]+>", "", commands)
    for name in epochal.__all__:
        (title,) = re.findall(rf'<h3 id="[\w.]*\.{name}"[^>]*>(.*?)</h3>', python, re.DOTALL)
        assert f"epochal.{name}" in title
    assert "RequestError" in python
    assert "exactly so many unique tokens" in python
    assert not re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", "".join(pages.values()))


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="gone.html">x</a>', "a.html links to gone.html, which is not there"),
        ('<a href="b.html#nowhere">x</a>', "a.html links to b.html#nowhere, which is not there"),
        ('<a href="#nowhere">x</a>', "a.html links to #nowhere, which is not there"),
        ('<img src="gone.png">', "a.html links to gone.png, which is not there"),
        ('<script src="https://example.org/x.js"></script>', "a.html loads https://example.org/x.js"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "a.html loads //example.org/x.css"),
    ],
)
def test_what_leads_nowhere_or_is_loaded_from_elsewhere_is_found(tmp_path: Path, html: str, problem: str):
    (tmp_path / "a.html").write_text(html)
    (tmp_path / "b.html").write_text('<h1 id="here">B</h1>')
    assert list(site.problems(tmp_path)) == [problem]


def test_what_leads_somewhere_passes(tmp_path: Path):
    links = '<a href="b.html#he%72e">x</a><a href="b.html">x</a><a href="#t">x</a><a href="https://example.org/">x</a>'
    (tmp_path / "a.html").write_text(f'<h1 id="t"></h1>{links}')
    (tmp_path / "b.html").write_text('<h1 id="here">B</h1>')
    assert list(site.problems(tmp_path)) == []


@pytest.mark.slow
def test_a_broken_link_stops_a_strict_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from mkdocs.exceptions import Abort
    from mkdocs.structure.pages import Page

    def render(page: Any, *arguments: Any) -> None:
        real(page, *arguments)
        page.content += '<a href="building.html#no-such-heading">x</a>'  # in what was built: only we can see it

    real = Page.render
    monkeypatch.setattr(Page, "render", render)
    with pytest.raises(Abort):
        build(tmp_path)


def test_text_for_a_table_is_no_markup():
    assert site._cell("a|b <c> *d* `e_*f|`") == "a\\|b \\<c> \\*d\\* `e_*f\\|`"


@pytest.mark.slow
def test_every_option_is_in_the_reference_of_commands():
    from epochal.common.cli import command_parsers

    text = site.command_reference()
    for name, parser in command_parsers(COMMANDS, "epochal").items():
        section = text.partition(f"## epochal {name}\n")[2].partition("\n## ")[0]
        flags = {f for action in parser._actions for f in action.option_strings} - {"-h", "--help", "--debug"}
        assert all(f"`{flag}" in section for flag in flags), name
        assert f"epochal {name}" in section
