"""The report of made-up runs: what its charts hold, that its bytes are the same, and how it works in a browser."""

import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from epochal.tests.support.browser import CHROMIUM, browser
from epochal.train.crossover import analysis, compare, curves
from epochal.train.crossover.report import charts
from epochal.train.crossover.report import render as report
from epochal.train.crossover.report.overlay import BUDGET_COLOURS, Line, Overlay, figure

EVALUATIONS = 6
HOSTILE = "</svg><script>alert(1)</script>\"'&"


def loss(run: Any, passes: float, share: float) -> float:
    """AR learns faster and rises with passes; MDM is slower and does not."""
    if run.objective == "ar":
        return 2 + 4 * math.exp(-6 * share) + 0.1 * passes + 0.01 * run.replicate
    return 2.5 + 4 * math.exp(-3 * share) + 0.02 * run.replicate


def measured(plan: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows and runs as `curves` would."""
    rows, runs = [], []
    for run in plan.runs:
        own = []
        for i in range(1, EVALUATIONS + 1):
            tokens = run.total_tokens * i // EVALUATIONS
            passes = tokens / run.unique_tokens
            kind = "nll" if run.objective == "ar" else "nelbo"
            row = {"step": i, "tokens": tokens, "passes": passes, "kind": kind, "loss_se": 0.0, "parameters": 1}
            row |= {"loss": loss(run, passes, i / EVALUATIONS), "quiz/accuracy": i / 10, "quiz/delta_nll": i - 3.0}
            own.append(curves.identity(run) | row)
        summary = {"state": "finished", "receipt": "valid", "kind": own[0]["kind"]}
        for which in ("best", "final"):
            summary |= {f"{which}_{k}": own[-1][k] for k in ("loss", "loss_se", "passes")}
        runs.append(curves.identity(run) | summary)
        rows += own
    return rows, runs


NOTHING: dict[str, Any] = {"groups": [], "stale": [], "missing": 0}


def analysed(rows: list[dict[str, Any]], runs: list[dict[str, Any]]) -> dict[str, Any]:
    return analysis.analyse(rows, runs) | {"memorised": NOTHING}


def rendered(plan: Any) -> str:
    rows, runs = measured(plan)
    return report.render(plan, rows, runs, analysed(rows, runs))


class Strict(HTMLParser):
    """Every element must be closed, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def overlay(lines: list[Line], **changes: Any) -> str:
    given: dict[str, Any] = {"name": "x", "title": "t", "y_label": "y", "lines": lines, "types": [("ar", "AR")]}
    return figure(Overlay(**given | changes), 0)


def test_the_page_is_the_same_twice_and_well_formed(make_plan):
    page = rendered(make_plan(replicates=2))
    assert page == rendered(make_plan(replicates=2))
    Strict(page)
    assert page.count("<script>") == 1


def test_all_budgets_lie_in_one_chart_with_a_ring_where_mdm_overtakes(make_plan):
    page = rendered(make_plan())
    first = page[page.index('<figure class="overlay"') :]
    first = first[: first.index("</figure>")]
    data = json.loads(re.search(r'data-lines="([^"]*)"', first)[1].replace("&quot;", '"'))
    assert [line[:3] for line in data["lines"]] == [
        ["AR, 300 unique", "b0", 300],
        ["MDM, 300 unique", "b0", 300],
        ["AR, 1,003 unique", "b1", 1003],
        ["MDM, 1,003 unique", "b1", 1003],
    ]
    assert [len(line[3]) for line in data["lines"]] == [EVALUATIONS] * 4
    assert first.count("<svg") == 4
    assert first.count("<polyline") == 4 * 4
    assert first.count("overtakes for good") == 4


def test_a_logarithmic_chart_places_equal_ratios_at_equal_distances():
    axes = charts.Axes(title="", x_label="", y_label="", logarithmic=True, upright_logarithmic=True)
    frame = charts.frame(axes, [(1, 1), (10, 2), (100, 4)])
    assert frame.across(10) - frame.across(1) == pytest.approx(frame.across(100) - frame.across(10), abs=0.2)
    assert frame.down(1) - frame.down(2) == pytest.approx(frame.down(2) - frame.down(4), abs=0.2)


@pytest.mark.parametrize(
    "points", [[(1, 0.5)], [(1, -2.0), (5, 3.0)], [(3, 2.0), (3, 2.0)], [(10**15, 1e-9), (10**16, 1e9)]]
)
def test_odd_curves_have_charts(points):
    svg = overlay([Line("l", "ar", 0, 10**15, points), Line("l", "mdm", 1, 7, points)])
    Strict(svg)
    assert "nan" not in svg


def test_what_comes_from_data_is_escaped_and_colours_come_round():
    line = Line(HOSTILE, "mdm", BUDGET_COLOURS + 1, 300, [(1, 2.0), (2, 3.0)])
    svg = overlay([line], name=HOSTILE, title=HOSTILE, y_label=HOSTILE, types=[("mdm", HOSTILE)])
    assert "<script" not in svg
    assert 'class="b1 mdm"' in svg
    Strict(svg)


def test_a_long_answer_is_folded(make_plan, monkeypatch):
    monkeypatch.setattr(report, "MOST_ROWS", 1)
    assert "1 other comparison" in rendered(make_plan())


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_in_a_browser_it_switches_reads_and_saves(make_plan, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(rendered(make_plan(unique_tokens=[100, 300, 1003], replicates=2)))
    pictures = "[...document.querySelectorAll('.overlay:not(.chart) svg')]"
    seen = f"{pictures}.filter((s) => getComputedStyle(s).display !== 'none')"
    with browser() as page:
        page.open(path.as_uri(), 390, dark=True)
        assert page.run("document.documentElement.scrollWidth") == 390
        assert page.run("document.documentElement.scrollHeight") < 6000
        lefts = "[...document.querySelectorAll('.stack td small')].map((s) => s.getBoundingClientRect().left)"
        assert min(x for x in page.run(lefts) if x) > 130  # beside the number, not below the column's name
        page.run("for (const d of document.querySelectorAll('details')) d.open = true")
        assert page.run("document.documentElement.scrollWidth") == 390

        page.send("Emulation.setScriptExecutionDisabled", value=True)
        page.open(path.as_uri(), 390)
        assert page.run(f"{seen}.length") == page.run("document.querySelectorAll('.overlay:not(.chart)').length")
        assert page.run("document.querySelectorAll('button').length") == 0
        page.send("Emulation.setScriptExecutionDisabled", value=False)

        page.open(path.as_uri(), 1280)
        assert page.run("document.querySelectorAll('details:not([open])').length") == 0
        for value, kind in (("log", "logarithmic"), ("passes", "by-passes"), ("linear", "linear")):
            page.run(f"document.querySelector('.overlay:not(.chart) [value={value}]').click()")
            assert page.run(f"{seen}[0].classList.contains('{kind}')")
        assert page.run(f"{seen}.length") == page.run("document.querySelectorAll('.overlay:not(.chart)').length")

        page.run(f"{seen}[0].scrollIntoView({{block: 'center'}})")
        x, y = page.run(
            f"(() => {{const b = {seen}[0].getBoundingClientRect(); return [b.right - 20, b.top + 200]}})()"
        )
        page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert re.match(r"60\.2 passes\nAR, 100 unique: [\d.]+\nMDM, 100 unique: ", page.run("tip.innerText"))

        page.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved"))
        for i in range(3):
            page.run(f"document.querySelectorAll('.overlay:not(.chart) button')[{i}].click()")
            page.wait("true")
        files = [tmp_path / "saved" / f"toy-loss.{end}" for end in ("csv", "svg", "png")]
        _wait_for(page, files)
        lines = files[0].read_text().splitlines()
        assert lines[0] == '"line","unique_tokens","tokens","passes","toy loss"'
        assert len(lines) == 1 + 3 * 2 * EVALUATIONS
        assert files[1].read_text().startswith("<svg")
        assert "stroke: rgb(" in files[1].read_text()
        assert files[2].read_bytes().startswith(b"\x89PNG")
        page.run("document.querySelector('.chart button').click()")
        best = tmp_path / "saved" / "toy-best-loss.csv"
        _wait_for(page, [best])
        lines = best.read_text().splitlines()
        assert lines[0] == '"line","unique tokens","toy best loss"'
        assert [line.rpartition(",")[0] for line in lines[1:3]] == ['"AR, default arm",100', '"AR, default arm",300']
        assert page.errors == []


def _wait_for(page: Any, files: list[Path]) -> None:
    for _ in range(200):
        if all(file.exists() for file in files):
            return
        page.run("new Promise((done) => setTimeout(done, 50))")
    raise AssertionError([file.name for file in files if not file.exists()])


EXACT = "exact/confidence/1"


def with_exact(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give MDM's rows an exact likelihood 0.5 nats below the bound at every second evaluation, and AR's rows theirs."""
    return [
        r | ({EXACT: r["loss"] - 0.5 * (r["objective"] == "mdm")} if r["kind"] == "nll" or r["step"] % 2 == 0 else {})
        for r in rows
    ]


def test_exact_curves_stand_beside_the_bound_and_are_compared_by_themselves(make_plan):
    plan = make_plan(unique_tokens=[300], replicates=2)
    rows, runs = measured(plan)
    assert EXACT not in rendered(plan)
    assert "exact likelihoods of the same texts" not in rendered(plan)
    found = analysed(with_exact(rows), runs)
    bound, exact = (next(c for c in found["crossovers"] if c["metric"] == m) for m in (compare.LOSS, EXACT))
    assert exact["tokens"] < bound["tokens"]  # half a nat better: earlier
    assert {p["metric"] for p in found["potentials"]} >= {compare.LOSS, EXACT}
    assert [f["kind"] for f in found["fits"]] == ["nll"] * 3 + ["nelbo"] * 3  # laws are of the bound, as they were
    page = report.render(plan, with_exact(rows), runs, found)
    Strict(page)
    assert page.count("MDM, NLL, confidence order") >= 3  # the third curve, its legend, and the comparison of its own
    assert "mdm exact" in page
    assert "exact NLL (confidence order), nats per token" in page
    accuracy = page[page.index('id="tasks"') :]
    assert "exact NLL" not in accuracy[: accuracy.index("</section>")]


def test_ars_likelihood_is_its_own_under_every_order(make_plan, monkeypatch):
    rows = [{"kind": "nll", "loss": 2.0, "objective": "ar"}, {"kind": "nelbo", "loss": 3.0, EXACT: 2.5}]
    monkeypatch.setattr(curves, "curve", lambda run: [dict(run)])
    assert [r.get(EXACT) for r in curves.curves(rows)] == [2.0, 2.5]  # type: ignore[arg-type]
    assert curves.curves(rows[:1]) == rows[:1]  # type: ignore[arg-type]
    assert curves.exact(rows) == [EXACT]


def test_best_against_best_and_what_a_budget_is_worth_are_in_all_three(make_plan, tmp_path, monkeypatch):
    """Page, Markdown and CSV say the same of arms, stops and decays."""
    arms = {"ar": {"regular": {"model.dropout": 0.1}}, "mdm": {"eps": {"objective.eps": 0.01}}}
    plan = make_plan(unique_tokens=[100, 300], replicates=3, arms=arms, own_decay=[1])
    rows, runs = measured(plan)
    rows = [r | {f"{half}/loss": r["loss"] - 0.3 * (r["arm"] != "default") for half in ("even", "odd")} for r in rows]
    monkeypatch.setattr(curves, "curves", lambda of: rows)
    monkeypatch.setattr(curves, "summary", lambda run, own: next(r for r in runs if r["run"] == run.name))
    body = report.publish(plan)
    page, markdown = ((tmp_path / "out" / name).read_text() for name in ("report.html", "summary.md"))
    Strict(page)
    assert page.count("regular (best)") == 2 * 2  # two budgets, against MDM's default and its best
    assert "In unique tokens of AR, default arm" in page
    assert 'class="overlay chart" data-name="toy best loss"' in page
    assert "| loss | 300 | regular (best) | " in markdown
    assert "## What a budget is worth" in markdown
    assert "## Laws" in markdown
    table = list(csv.DictReader((tmp_path / "out" / "summary.csv").open()))
    leads = [r for r in table if r["table"] == "best lead" and r["unique_tokens"] == "300"]
    assert [(r["ar_arm"], r["mdm_arm"]) for r in leads] == [
        *(("default", "default"), ("default", "eps")),
        *(("regular", "default"), ("regular", "eps")),
    ]
    found = [f for f in body["best"] if f["unique_tokens"] == 300]
    assert [float(r["value"]) for r in leads] == [f["lead"] for f in found]
    assert all(float(r["low"]) <= float(r["value"]) <= float(r["high"]) for r in leads)
    gains = {"arm best gain", "arm final gain"}
    assert {r["table"] for r in table} == {"crossover", "best lead", "best below from", "multiple"} | gains
    of_arm = {r["table"]: float(r["value"]) for r in table if r["ar_arm"] == "regular" and r["unique_tokens"] == "100"}
    assert of_arm["arm best gain"] == pytest.approx(0.3)
    assert "Every arm" in page
    assert "| loss | 300 | AR | regular | " in markdown
    saved = json.loads((tmp_path / "out" / "crossovers.json").read_text())
    assert {"best", "multiples", "crossovers", "fits", "left_out"} <= saved.keys()
