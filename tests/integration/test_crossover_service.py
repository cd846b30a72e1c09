"""A crossover grid whose base configuration names the service: trained two at a time, every run known to it."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from epochal.service.document_index import read_spans
from epochal.shards.order.plan import Plan
from epochal.tests.support.pools import TINY_RUN
from epochal.tests.support.servers import serving, until
from epochal.train.crossover import launch


def walked(pool: Path, plan: Plan) -> dict[str, list[int]]:
    """Return the exposures of every token of the pool's documents after the whole of a plan."""
    stream = np.zeros(4003, int)
    low = plan.start_sample * plan.seq_len
    for id_ in plan.ids(range(plan.positions)).tolist():
        begin = low + id_ * plan.seq_len
        stream[begin : min(begin + plan.seq_len, low + plan.unique_tokens)] += 1
    spans = [span for chunk in read_spans(str(pool)) for span in zip(*chunk.values(), strict=True)]
    return {key.as_py().hex(): stream[start : start + n].tolist() for key, start, n in spans}


@pytest.mark.processes
def test_a_grid_reports_every_run_under_a_name_of_its_own(make_plan, tmp_path: Path, capfd):
    root, base = tmp_path / "artifacts", tmp_path / "with-service.yaml"
    plain = make_plan(total_tokens=2006)
    with serving(root) as client:
        base.write_text(yaml.safe_dump(TINY_RUN | {"service": {"url": client.url, "interval": 0}}))
        made = make_plan(total_tokens=2006, base=str(base))
        # Who is told of a run makes it no other run: what was trained without the service stays finished with it.
        assert [(r.key, r.folder) for r in made.runs] == [(r.key, r.folder) for r in plain.runs]
        assert len({r.config.run_name for r in made.runs}) == 4
        # Both budgets and both types are among two of the four.
        first, second, third, last = made.runs
        assert {(r.objective, r.unique_tokens) for r in (first, last)} == {("ar", 300), ("mdm", 1003)}
        launch.prepare(made, [first, last])
        assert launch.launch(made, [first, last], jobs=2, quiet=True) == []
        assert [r.name for r in launch.unfinished(plain)] == [second.name, third.name]
        found = {run["name"]: run for run in client.get("/runs")["runs"]}
        assert set(found) == {first.name, last.name}
        for run in (first, last):
            shown = found[run.name]
            plan = client.plan(shown["subset"], total_tokens=2006, seed=run.seed)
            assert (shown["plan"], shown["state"], shown["position"]) == (plan.fingerprint, "finished", plan.positions)
            assert shown["details"]["objective"] == run.objective
            for key, counts in walked(root / "pools" / "toy", plan).items():
                (seen,) = client.seen(key=key, run=run.name)["documents"][0]["runs"]
                assert [i["exposures"] for i in seen["intervals"] for _ in range(i["start"], i["stop"])] == counts
            until(lambda name=run.name: client.get(f"/runs/{name}")["receipt"] == "valid", "the receipt was valid")
    assert "Traceback" not in capfd.readouterr().err
