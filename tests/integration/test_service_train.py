"""Runs of the trainer that report to the service: registered, followed, continued, refused, resumed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epochal.common.errors import RequestError
from epochal.service.client import reporter
from epochal.service.document_index import read_spans
from epochal.shards.carve import carve
from epochal.tests.support.pools import EOD, tiny_run
from epochal.tests.support.servers import PATIENCE, serving, until
from epochal.train.config import TrainConfig
from epochal.train.run import prepare
from epochal.train.trainer import build_trainer, train

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "ANSWER_SECONDS", PATIENCE)


@pytest.fixture
def config(make_pool, tmp_path: Path):
    """Return `make(data, name, **changes)`: a tiny run on an artifact."""
    text = np.random.default_rng(1).integers(0, 8, 1003).astype(np.uint16)
    text[49::50] = text[-1] = EOD
    make_pool(text, 16)

    def make(data: str, name: str, objective: str = "ar", policy: str = "reshuffle", **changes: Any) -> TrainConfig:
        settings = {
            "seed": 3,
            "objective": {"name": objective},
            "train_loader": {"dataset": {"path": data, "policy": policy}},
            "max_duration": "2.5ep",
            "save_folder": str(tmp_path / "runs" / name),
            "autoresume": True,
        }
        return TrainConfig.model_validate(tiny_run(data, **(settings | changes)))

    return make


def walked(root: Path, runs: list[tuple[Any, int]]) -> dict[str, list[int]]:
    """Return the exposures of every token of the pool's documents, from the positions that runs trained on."""
    stream = np.zeros(1003, int)
    for plan, stop in runs:
        ids = plan.ids(range(stop))
        where, inner = plan.locate(ids)
        for s, part in enumerate(plan.components().values()):
            for id_ in inner[where == s].tolist():
                begin = (part.start_sample + id_) * 16
                stream[begin : min(begin + 16, part.start_sample * 16 + part.unique_tokens)] += 1
    spans = [span for chunk in read_spans(str(root / "pools" / "toy")) for span in zip(*chunk.values(), strict=True)]
    return {key.as_py().hex(): stream[start : start + n].tolist() for key, start, n in spans}


def test_a_run_and_its_continuation_on_another_subset(config, tmp_path: Path, capfd):
    root = tmp_path / "artifacts"
    pool = str(root / "pools" / "toy")
    subset, _ = carve(pool, 450)
    with serving(root) as client:
        service = {"url": client.url, "interval": 0}
        first = config(pool, "first", service=service, eval_loader={"dataset": {"path": pool, "samples": 4}})
        result = train(first)
        shown = client.get("/runs/first")
        assert (shown["state"], shown["position"], shown["tokens"]) == ("finished", 157, result["tokens"])
        assert shown["digest"] == result["receipt"]["digest"]
        assert [r["position"] for r in shown["reports"]] == [*range(8, 157, 8), 157]
        assert {r["kind"] for r in shown["reports"]} == {"nll"}
        assert client.get("/runs/first", split="validation")["reports"][-1]["loss"] == result["validation"]["nll"]
        more = {"url": client.url, "parent": "first"}
        final = str(tmp_path / "runs" / "first" / "final")
        second = config(subset, "second", policy="global", service=more, init_from=final)
        started = build_trainer(prepare(config(subset, "probe", init_from=final))).state.model.state_dict()
        trained = build_trainer(prepare(first)).state.model.state_dict()
        assert all(torch.equal(started[k], trained[k]) for k in trained)
        train(second)
        plans = prepare(first).plan, prepare(second).plan
        expected = walked(root, [(plans[0], 157), (plans[1], plans[1].positions)])
        for key, counts in expected.items():
            (run,) = client.seen(key=key, run="second")["documents"][0]["runs"]
            assert [i["exposures"] for i in run["intervals"] for _ in range(i["start"], i["stop"])] == counts
        nodes = client.get("/lineage", of="second")["nodes"]
        names = {n["name"].partition("-")[0] for n in nodes if n["kind"] == "checkpoint"}
        assert names == {"ba20", "ba5", "ba9"}  # of the first run the one that was continued, and the two of the second
        assert client.get("/runs/second")["receipt"] in ("valid", "not checked yet")
        assert train(first) == result  # over: nothing happens, nothing is left to send
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_on_a_mixture(config, tmp_path: Path, capfd):
    """A mixture of two subsets, stopped by nothing, then a plan that continues it."""
    root = tmp_path / "artifacts"
    pool = str(root / "pools" / "toy")
    sources = {
        "a": {"path": carve(pool, 300)[0], "epochs": 3},
        "b": {"path": carve(pool, 300, 1)[0], "epochs": 1.5, "policy": "global", "seed": 8},
    }
    loader = {"dataset": {"mixture": {"sources": sources, "window": 12}}}
    with serving(root) as client:
        service = {"url": client.url, "interval": 0}
        mixed = config("", "mixed", service=service, train_loader=loader, max_duration="")
        result = train(mixed)
        mixture = prepare(mixed).plan
        shown = client.get("/runs/mixed")
        assert (shown["state"], shown["position"], shown["tokens"]) == ("finished", mixture.positions, result["tokens"])
        assert shown["details"]["subset"] == " + ".join(sorted(p.name for p in (root / "subsets").iterdir()))
        assert [r["tokens"] for r in shown["reports"]] == [
            mixture.tokens_before(r["position"]) for r in shown["reports"]
        ]
        assert all(r["digest"] == mixture.digest(0, r["position"]) for r in shown["reports"])
        until(lambda: client.get("/runs/mixed")["receipt"] == "valid", "the receipt was found valid")
        more = service | {"parent": "mixed", "parent_position": 50}
        train(config(pool, "second", service=more, max_duration="1ep"))
        plan = client.plan("toy", epochs=1, seed=3)
        expected = walked(root, [(mixture, 50), (plan, plan.positions)])
        for key, counts in expected.items():
            (run,) = client.seen(key=key, run="second")["documents"][0]["runs"]
            assert [i["exposures"] for i in run["intervals"] for _ in range(i["start"], i["stop"])] == counts
        client.post("/limits", kind="subset_exposures", cap=2)
        with pytest.raises(RequestError, match="this run would come to 3: 1 too many"):
            train(mixed.model_copy(update={"run_name": "again", "save_folder": str(tmp_path / "runs" / "again")}))
    assert "Traceback" not in capfd.readouterr().err


def test_a_refusal_stops_a_run_before_its_first_step_and_nothing_else_does(config, tmp_path: Path, capfd):
    root = tmp_path / "artifacts"
    pool = str(root / "pools" / "toy")
    with serving(root) as client:
        client.post("/limits", kind="exposures", cap=2)
        with pytest.raises(RequestError, match="this run would come to 3: 1 too many"):
            train(config(pool, "run", service=client.url))
        assert not (tmp_path / "runs" / "run" / "run.json").exists()
        client.remove_limit(1)
    away = config(pool, "run", service=client.url, max_duration="1ep")
    assert train(away)["receipt"]["valid"]
    assert "the run goes on, its reports wait" in capfd.readouterr().err
    with serving(root) as client:  # elsewhere now: the next start sends what waits
        journal = tmp_path / "runs" / "run" / "service.jsonl"
        journal.write_text(journal.read_text().replace(away.service.url, client.url))
        train(away)
        run = client.get("/runs/run")
        assert (run["state"], run["position"]) == ("finished", 63)


def test_the_key_is_an_address_or_a_section(config):
    assert config("x", "y", service="http://here:1").service.url == "http://here:1"
    dumped = config("x", "y", service="http://here:1").model_dump(mode="json")
    assert TrainConfig.model_validate(dumped).service.interval == 10.0
    with pytest.raises(ValueError, match="init_from needs"):
        config("x", "y", init_from="z", model={"layers": 1, "hidden": 16, "heads": 2, "ffn": 16, "init_device": "meta"})
