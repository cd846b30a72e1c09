import dataclasses
import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epochal.common.units import parse_count
from epochal.datapipe import report, report_sources, report_text
from epochal.datapipe.stages.duplicates import DUPLICATES
from epochal.datapipe.stages.ingest import REJECTED
from epochal.datapipe.text.decontaminate import CONTAMINATED
from epochal.datapipe.text.excerpts import Excerpts, Passage
from epochal.datapipe.text.filters import FILTERED
from epochal.shards.artifact import Artifact, open_artifact
from epochal.shards.carve import capacity, locate_window
from epochal.tests.support.browser import CHROMIUM, browser

HOSTILE = "<script>alert('1')</script>\"&amp;\x1b\u202e\x00end"
SHOWN = "<script>alert('1')</script>\"&amp;\\x1b\\u202e\\x00end"

STATISTICS: dict[str, Any] = {
    "waterfall": [
        {"step": "rows read", "documents": 12_345, "tokens": None},
        {"step": "unusable rows", "documents": -45, "tokens": None},
        {"step": f"filter {HOSTILE}", "documents": -300, "tokens": None},
        {"step": "empty", "documents": 0, "tokens": None},
        {"step": "contaminated", "documents": -2, "tokens": None},
        {"step": "encoded", "documents": 11_998, "tokens": 7_654_321},
        {"step": "exact duplicates", "documents": -1_111, "tokens": -22_222},
        {"step": "near-duplicates", "documents": -3, "tokens": -444},
        {"step": "validation pool", "documents": -555, "tokens": -66_666},
        {"step": "pool", "documents": 10_329, "tokens": 7_564_989},
    ],
    "sources": {
        "small": {"rows": 345, "encoded": 344, "documents": 343, "tokens": 1_002},
        HOSTILE: {"rows": 12_000, "encoded": 11_654, "documents": 10_541, "tokens": 7_630_653},
    },
    "rejected": {"bad JSON": 5, HOSTILE: 40},
    "filters": [
        {"name": HOSTILE, "seen": 12_300, "changed": 56, "removed": 300, "reasons": {"too_short": 100, HOSTILE: 200}}
    ],
    "files_not_read": 3,
    "text_bytes": 30_000_000,
    "document_lengths": [[1, 7], [2, 0], [4, 10_877]],
    "cluster_sizes": [[2, 2], [4, 0], [8, 1]],
    "evaluation": {
        "ngram": 13,
        "too_short": 77,
        "files": [
            {"name": HOSTILE, "items": 1_234, "digest": "0" * 32},
            {"name": "clean.jsonl", "items": 99, "digest": "1" * 32},
        ],
    },
}


EXCERPTS = Excerpts(
    kept=[Passage("first", "s", "the first of the pool")],
    filtered={HOSTILE: [Passage(HOSTILE, HOSTILE, f"removed\n\tby {HOSTILE}", HOSTILE)]},
    near=[(Passage("twin", "s", "one text", "near-duplicate"), Passage("kept-twin", "s", "another text"), 0.875)],
    clusters=[(1, 8), (0, 1), (9, 1)],
    hits={HOSTILE: 3},
)


class Page(HTMLParser):
    """Reads a page strictly: every element must be closed, in order. Collects tags, attributes and text by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text: dict[str, str] = {}
        self.section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text[self.section] = self.text.get(self.section, "") + data + " "


def write_tables(root: Path) -> None:
    """Write the tables of a build: 45 rejects, three clusters (2, 2 and 9 documents), three hits in two documents."""
    rejects = [("s", HOSTILE if i == 3 else f"file{i}", 1_000_000 + i, "bad JSON") for i in range(45)]
    removed = [("a", 1), ("big", 8), ("z", 1)]
    duplicates = [
        (bytes(16), f"{c}-{HOSTILE if i == 1 else i}", "s", bytes(16), f"kept-{c}", "s", "near", c, 0.25 + i / 8)
        for c, n in removed
        for i in range(n)
    ]
    hits = [(bytes(16), HOSTILE, "s", HOSTILE, 7, f"some words {i} {HOSTILE}") for i in range(3)]
    for name, rows, schema in (
        ("rejects", rejects, REJECTED),
        ("duplicates", duplicates, DUPLICATES),
        ("contaminated", hits, CONTAMINATED),
    ):
        write_table(root, name, rows, schema)
    write_table(root, "filtered", [(bytes(16), "i", "s", HOSTILE, "r")], FILTERED)


def write_table(root: Path, name: str, rows: list[tuple[Any, ...]], schema: pa.Schema) -> None:
    arrays = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), schema, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), root / f"{name}.parquet", row_group_size=4)


@pytest.fixture
def pool(make_pool) -> Artifact:
    """A pool of 5,000 tokens whose statistics, unlike its tokens, are made up and hostile."""
    root = make_pool(5000)
    write_tables(root)
    return with_statistics(open_artifact(str(root)), **STATISTICS)


def with_statistics(pool: Artifact, **changed: Any) -> Artifact:
    update = {"statistics": pool.manifest.statistics | changed, "versions": {"numpy": "2.1.3", HOSTILE: "1"}}
    return dataclasses.replace(pool, manifest=pool.manifest.model_copy(update=update))


@pytest.mark.parametrize(
    ("section", "shown"),
    [
        ("", ["toy", "5,000 unique tokens", "12,345 rows"]),
        ("pool", ["5,000", "313", "40", "16", "uint16", "bytes", "259 ids", "EOD 256, PAD 257, MASK 258"]),
        (
            "waterfall",
            ["12,345", "unknown", "−300", "11,998", "7,654,321", "−1,111", "−22,222", "7,564,989", "30.0 MB"],
        ),
        ("sources", ["345", "344", "343", "1,002", "12,000", "11,654", "10,541", "7,630,653"]),
        ("lengths", ["1", "7", "2 – 3", "0", "4 – 7", "10,877", "701 on average"]),
        ("rejects", ["45 rows", "3 whole files", "bad JSON", "the first 20 of 45", "1,000,000", "1,000,019"]),
        ("filters", ["12,300", "300", "too_short", "100", "200", "56 documents", "filtered.parquet"]),
        ("decontamination", ["2 documents", "13 words", "77 items", "1,234", "99", "clean.jsonl", "some words 2"]),
        ("duplicates", ["1,111", "22,222", "444", "2 – 3", "8 – 15", "kept-big", "9", "big-2", "0.25", "0.50"]),
        ("text", ["first", "the first of the pool", "removed", "twin", "one text", "another text", "0.88 alike"]),
        ("subsets", ["5,000", "epochal carve pools/toy --unique-tokens 5k"]),
        ("versions", ["numpy", "2.1.3"]),
    ],
)
def test_section_holds_its_counts(pool, section, shown):
    text = Page(report.render(pool, EXCERPTS)).text[section]
    for value in shown:
        assert re.search(rf"(?<![\w,]){re.escape(value)}(?![\w,])", text), value


def test_every_section_is_linked(pool):
    page = Page(report.render(pool, EXCERPTS))
    linked = [value[1:] for name, value in page.attributes if name == "href"]
    assert linked == [key for key in page.text if key]
    assert set(linked) == {"text", *(key for key, _, _ in report.SECTIONS)}


def test_hostile_values_are_text_and_nothing_else(pool):
    page = report.render(pool, EXCERPTS)
    assert not {"script", "img"} & Page(page).tags
    assert not set(page) & {"\x1b", "\x00", "\u202e"}
    for section in ("waterfall", "sources", "rejects", "filters", "decontamination", "duplicates", "text", "versions"):
        assert SHOWN in Page(page).text[section], section


def test_long_values_are_cut(pool):
    page = report.render(with_statistics(pool, rejected={"x" * 100_000: 3}), EXCERPTS)
    assert "x" * 159 + "…" in page
    assert len(page) < 100_000


def test_page_needs_nothing_from_outside(pool):
    page = report.render(pool, EXCERPTS)
    parsed = Page(page)
    assert {"script", "link", "img", "iframe"}.isdisjoint(parsed.tags)
    assert all(value.startswith("#") for name, value in parsed.attributes if name in ("href", "src"))
    assert not re.search(r"https?:|url\(|@import", page)


def test_equal_pools_give_equal_bytes(pool, tmp_path):
    moved = shutil.copytree(pool.root, tmp_path / "elsewhere")
    reordered = {
        name: dict(reversed(value.items())) if isinstance(value, dict) else value for name, value in STATISTICS.items()
    }
    other = with_statistics(dataclasses.replace(pool, root=str(moved)), **reordered)
    report.write_report(pool, EXCERPTS, str(tmp_path / "a.html"))
    report.write_report(other, EXCERPTS, str(tmp_path / "b.html"))
    written = (tmp_path / "a.html").read_bytes()
    assert written == (tmp_path / "b.html").read_bytes()
    assert str(tmp_path).encode() not in written


def test_largest_clusters_come_with_their_own_rows(pool):
    table = report._open_table(pool, "duplicates")
    assert [r["id"] for r in report._rows_at(table, 9, 3, ["id"])] == ["z-0"]
    text = Page(report.render(pool, EXCERPTS)).text["duplicates"]
    assert text.index("kept-big") < text.index("kept-a") < text.index("kept-z")


def test_every_command_shown_can_be_run(pool):
    page = html.unescape(report.render(pool, EXCERPTS))
    rows = re.findall(r'data-head="Replicates that fit"><span>(\d)</span></td>.*?--unique-tokens ([0-9.kMB]+)<', page)
    assert [size for _, size in rows] == ["1k", "2k", "5k"]
    for replicates, size in rows:
        for replicate in range(int(replicates)):
            locate_window(pool, parse_count(size), replicate)
    for n in report.REPLICATES:
        assert f"{capacity(pool, n - 1):,} tokens" in page


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, [1]),
        (9, [1, 2, 5]),
        (499_999, [50_000, 100_000, 200_000]),
        (500_000, [500_000]),
        (25_205_925, [500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000]),
    ],
)
def test_round_sizes(most, sizes):
    assert report._round_sizes(most) == sizes


def test_a_build_without_losses_says_so(pool):
    plain = with_statistics(pool, rejected={}, filters=[], evaluation=None, cluster_sizes=[], files_not_read=0)
    text = Page(report.render(plain, Excerpts())).text
    assert "Every row could be used." in text["rejects"]
    assert "No filter was used." in text["filters"]
    assert "No evaluation files were given" in text["decontamination"]
    assert "Cluster sizes" not in text["duplicates"]


def test_empty_rows_are_told_apart_from_others(pool):
    steps = [step | {"documents": -9} if step["step"] == "empty" else step for step in STATISTICS["waterfall"]]
    text = Page(report.render(with_statistics(pool, waterfall=steps), EXCERPTS)).text["rejects"]
    assert "54 rows could not be used" in text
    assert re.search(r"empty\s+9", text)


def test_excerpts_keep_their_lines_and_tabs():
    page = report_text.some_text(Excerpts(kept=[Passage("a", "s", "def f():\r\n\treturn 1\n")]))
    assert '<blockquote dir="auto">def f():\n    return 1\n</blockquote>' in page


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_pairs_lie_side_by_side_where_there_is_room(pool, tmp_path, width):
    long = Passage("x" * 200, "s", "y" * 300)
    excerpts = Excerpts(EXCERPTS.kept, EXCERPTS.filtered, [*EXCERPTS.near, (long, long, 1.0)])
    report.write_report(pool, excerpts, str(tmp_path / "report.html"))
    with browser() as page:
        page.open((tmp_path / "report.html").as_uri(), width)
        assert page.run("document.documentElement.scrollWidth") <= width
        lefts = page.run("[...document.querySelectorAll('.pair')[1].children].map(f => f.getBoundingClientRect().left)")
        assert (lefts[0] == lefts[1]) == (width == 390)
        assert page.errors == []


def test_the_way_of_each_source_adds_up_and_is_escaped(pool):
    """The small source lost an unusable row and a near-duplicate; what no table has was contaminated."""
    rejects = [("small", "f", 1, "bad JSON"), *[(HOSTILE, "f", i, HOSTILE) for i in range(44)]]
    filtered = [(bytes(16), str(i), HOSTILE, HOSTILE, "too_short") for i in range(300)]
    copies = [(bytes(16), str(i), HOSTILE, bytes(16), "k", "small", "exact", "c", 1.0) for i in range(1_111)]
    copies.append((bytes(16), "x", "small", bytes(16), "k", "small", "near", "c", 0.9))
    for name, rows, schema in (
        ("rejects", rejects, REJECTED),
        ("filtered", filtered, FILTERED),
        ("duplicates", copies, DUPLICATES),
    ):
        write_table(Path(pool.root), name, rows, schema)
    ways = report_sources.steps_by_source(pool)
    assert list(ways) == [HOSTILE, "small"]
    assert ways["small"] == [
        ("rows read", 345),
        ("unusable rows", -1),
        (f"filter {HOSTILE}", 0),
        ("contaminated", 0),
        ("encoded", 344),
        ("exact duplicates", 0),
        ("near-duplicates", -1),
        ("kept", 343),
    ]
    assert dict(ways[HOSTILE])["contaminated"] == -2
    for way in ways.values():
        left = 0
        for step, n in way:
            assert n == left or step not in ("encoded", "kept")
            left = n if n > 0 else left + n
    page = Page(report.render(pool, EXCERPTS))
    assert re.search(r"12,000 rows\s+read, 10,541 kept", page.text["sources"])
    assert page.text["sources"].count(f"filter {SHOWN}") == 2


def test_a_single_source_has_no_way_of_its_own(pool):
    alone = {"small": STATISTICS["sources"]["small"]}
    assert "by itself" not in report.render(with_statistics(pool, sources=alone), EXCERPTS)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_is_short_on_a_phone_and_whole_when_unfolded(pool, tmp_path):
    """What is long is folded away, in a pool of many packages, sizes, lengths, sources and rejects."""
    sources = {f"source {i}": {"rows": 9, "encoded": 8, "documents": 7, "tokens": 6} for i in range(40)}
    lengths = [[2**i, 10 + i] for i in range(15)]
    steps = [step for step in STATISTICS["waterfall"] if HOSTILE not in step["step"]]  # names are not so long
    filters = [{"name": "Filter", "seen": 9, "changed": 0, "removed": 3, "reasons": {"too_short": 1, "too_long": 2}}]
    big = with_statistics(
        pool,
        sources=sources,
        document_lengths=lengths,
        waterfall=steps,
        filters=filters,
        rejected={"bad JSON": 45},
    )
    manifest = big.manifest.model_copy(update={"versions": {f"package-{i}": "1.2.3" for i in range(300)}})
    long = Passage("x" * 60, "s", "some words in a line of it\n" * 11)
    excerpts = Excerpts([long] * 4, {"Filter": [long] * 3}, [(long, long, 0.9)] * 3)
    report.write_report(dataclasses.replace(big, manifest=manifest), excerpts, str(tmp_path / "report.html"))
    with browser() as page:
        page.open((tmp_path / "report.html").as_uri(), 390)
        assert page.run("document.documentElement.scrollHeight") < 6_000
        page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert page.run("document.documentElement.scrollWidth") == 390
        assert page.run("document.documentElement.scrollHeight") > 15_000
