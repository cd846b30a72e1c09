"""The card says what the manifest says, and nothing in it can be more than text."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from epochal.benchmarks.common import write_manifest
from epochal.shards.artifact import read_manifest
from epochal.shards.carve import carve
from epochal.shards.description.card import shareable
from epochal.shards.description.hub import configs, licences, size_category
from epochal.shards.description.markdown import code, escaped, fenced, front_matter, linked
from epochal.shards.facts import plain

HOSTILE = [
    "a\n---\n# heading",
    "x | y | z",
    "[click](javascript:alert(1))",
    "<script>alert(1)</script>",
    "``` ends the block\n# heading",
    "- license: mit",
    "key: value\nother: [1, 2",
    "\x1b[31mred\u202e",
    "1. item",
    "&amp; *!* _x_ ~~y~~ $z$",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_yaml_gives_back_one_line_for_hostile_text(text):
    block = front_matter({"pretty_name": plain(text), "license": ["mit"]})
    assert block.count("\n---\n") == 1
    assert yaml.safe_load(block.split("---\n")[1]) == {"pretty_name": plain(text), "license": ["mit"]}
    assert "\n" not in plain(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_in_markdown(text):
    from markdown import Markdown  # of the documentation's packages: an independent reader

    page = f"| a | b |\n|---|---|\n| {escaped(text)} | end |\n\n{escaped(text)}\n\n({code(text)})\n"
    html = Markdown(extensions=["tables"]).convert(page)
    for tag in ("<script", "<a ", "<h1", "<li", "<em", "<strong", "<code"):
        assert tag not in html, html
    assert html.count("<td") == 2


def test_fingerprints_of_others_are_text(make_pool, tmp_path):
    pool, odd = make_pool(300), "x`<script>alert(1)</script>`"
    m = read_manifest(str(pool))
    tokenizer = m.tokenizer.model_copy(update={"fingerprint": odd})
    write_manifest(pool, m.model_copy(update={"fingerprint": odd, "tokenizer": tokenizer}))
    text = Path(carve(str(pool), 100, out=str(tmp_path / "s"))[0], "README.md").read_text()
    assert "\\<script" in text
    assert not re.search(r"(?<!\\)<script", text)
    assert code("0" * 32) == f"`{'0' * 32}`"


def test_tables_that_have_rows_have_a_configuration():
    steps = [("where of s", -1), ("exact duplicates", 0), ("empty", -2)]
    waterfall = [{"step": step, "documents": n, "tokens": None} for step, n in steps]
    files = dict.fromkeys(["documents.parquet", "filtered.parquet", "duplicates.parquet", "rejects.parquet"])
    subject = SimpleNamespace(
        manifest=SimpleNamespace(statistics={"waterfall": waterfall}), rows="documents", window=None, files=files
    )
    assert [found["config_name"] for found in configs(subject)] == ["documents", "rejects", "filtered"]


def test_a_fence_is_longer_than_any_in_the_text():
    assert fenced("a\n````\nb") == "`````\na\n````\nb\n`````"
    assert fenced("a\x1b[0m", "python") == "```python\na\\x1b[0m\n```"


def test_only_web_addresses_become_links():
    assert linked("https://example.org/a?b=c") == "<https://example.org/a?b=c>"
    for text in ("javascript:alert(1)", "https://a.org/> <script>", "https://a b.org", "ftp://x"):
        assert "<" not in linked(text).replace("\\<", "")


def test_licences_are_those_that_the_hub_knows():
    def of(*names):
        return licences(SimpleNamespace(sources=[{"name": "s", "license": n} if n else {"name": "s"} for n in names]))

    assert of("CC-BY-4.0", "apache-2.0", "GPL-3.0-only") == ["apache-2.0", "cc-by-4.0", "gpl-3.0"]
    assert of("Terms of Us\n- mit", None) == ["other", "unknown"]
    assert of() == ["unknown"]
    assert of(["MIT", "ODC-By-1.0"]) == ["mit", "odc-by"]


def test_sizes_have_the_hubs_names():
    names = {1: "n<1K", 999: "n<1K", 1000: "1K<n<10K", 123_456: "100K<n<1M", 10**12 - 1: "100B<n<1T", 10**13: "n>1T"}
    assert {n: size_category(n) for n in names} == names


def test_no_path_of_a_machine_is_shown():
    config = {"sources": [{"path": "/home/me/x", "name": "a"}, {"path": "s3://b/c"}], "sha256": "ab"}
    shown = str(shareable(config | {"decontaminate": {"files": ["~/e"]}, "filters": [{"model": "/opt/m.bin"}]}))
    assert "s3://b/c" in shown
    for secret in ("/home", "~/e", "/opt", "ab'"):
        assert secret not in shown


def test_a_card_names_its_sources_and_what_is_not_known(made):
    text = Path(made.forms["view"], "README.md").read_text()
    data = yaml.safe_load(text.split("---\n")[1])
    assert data["license"] == ["cc-by-4.0", "other", "unknown"]
    assert data["language"] == ["en", "de"]
    assert "| we\\|b | CC-BY-4.0 | <https://example.org/web> | not stated | en, de | not stated |" in text
    assert "````\n@misc{a,\n  title = {``` ends}\n}\n````" in text
    assert "names and \\<addresses\\>" in text
    assert "../../pools/toy" in text
