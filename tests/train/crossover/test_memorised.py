"""What runs know of their documents, gathered over a grid: pooled by exposures, and never of another training."""

import json
from pathlib import Path
from typing import Any

from epochal.train.crossover import analysis
from epochal.train.crossover.memorised import memorised
from epochal.train.crossover.report import render as report
from epochal.train.run_folder import MEMORISATION_NAME

from .report.test_render import Strict, measured


def write(run: Any, digest: str, groups: list[dict[str, Any]]) -> None:
    kind = "nll" if run.objective == "ar" else "nelbo"
    body = {"k": 8, "receipt": {"digest": digest}, "models": [{"kind": kind, "groups": groups}]}
    Path(run.folder).mkdir(parents=True)
    Path(run.folder, MEMORISATION_NAME).write_text(json.dumps(body))


def group(exposures: int, documents: int, tokens: int, per_token: float, reproduced: int) -> dict[str, Any]:
    figures = {"documents": documents, "tokens": tokens, "per_token": per_token, "reproduced": reproduced}
    return {"exposures": exposures, "held_out": not exposures} | figures


def test_draws_are_pooled_by_documents_and_tokens_and_what_is_left_out_is_named(make_plan):
    plan = make_plan(unique_tokens=[300], replicates=3)
    rows, runs = measured(plan)
    runs = [r | {"receipt_digest": r["run"]} for r in runs]
    ar, mdm = ([r for r in plan.runs if r.objective == kind] for kind in ("ar", "mdm"))
    write(ar[0], ar[0].name, [group(0, 4, 100, 5.0, 0), group(20, 10, 100, 1.0, 9)])
    write(ar[1], ar[1].name, [group(0, 4, 300, 6.0, 0), group(20, 30, 300, 3.0, 1)])
    write(ar[2], "another training", [group(20, 30, 300, 0.0, 30)])
    write(mdm[0], mdm[0].name, [group(0, 4, 100, 7.0, 0), group(20, 10, 100, 4.0, 0)])
    found = memorised(plan.runs, runs)
    fed, held_out = (
        next(g for g in found["groups"] if g["objective"] == "ar" and g["exposures"] == n) for n in (20, 0)
    )
    assert (fed["runs"], fed["documents"], fed["per_token"], fed["share"]) == (2, 40, 2.5, 0.25)
    assert (held_out["held_out"], held_out["per_token"]) == (True, 5.75)
    assert (found["stale"], found["missing"]) == ([ar[2].name], 2)
    page = report.render(plan, rows, runs, analysis.analyse(rows, runs) | {"memorised": found})
    Strict(page)
    assert "Loss over exposures" in page
    assert "2 finished runs not measured." in page
    assert ar[2].name in page.partition("trained on since they were measured")[2]


def test_a_grid_without_it_has_no_such_section(make_plan):
    plan = make_plan()
    rows, runs = measured(plan)
    found = memorised(plan.runs, runs)
    assert found == {"groups": [], "stale": [], "missing": len(plan.runs)}
    page = report.render(plan, rows, runs, analysis.analyse(rows, runs) | {"memorised": found})
    assert "Memorisation" not in page
