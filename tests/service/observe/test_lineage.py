"""OpenLineage events: as the standard's own classes write them, valid against its schema, and equal to the ledger."""

import contextlib
import importlib.resources
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import referencing
from fastapi import FastAPI, Request
from openlineage.client import facet_v2, serde
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.generated.base import set_producer

from epochal.service.api.app import create_app
from epochal.service.client.client import Client
from epochal.service.observe import lineage as observed
from epochal.service.observe.lineage import Lineage
from epochal.service.observe.lineage_events import PRODUCER
from epochal.service.security import AccessRules
from epochal.service.service import Service
from epochal.shards import carve
from epochal.tests.support.servers import serving_app, until
from epochal.tests.support.service_calls import claim, report

SPEC_VARIABLE = "OPENLINEAGE_SPEC"
SPEC = Path(os.environ.get(SPEC_VARIABLE, "/nowhere"))
STANDARD = {  # our facets of the standard's, by its classes
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "inputStatistics": facet_v2.input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
    "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
}


@contextlib.contextmanager
def serving_with_lineage(root: Path, target: str) -> Iterator[tuple[Client, Lineage]]:
    """Serve `root` with events that go to `target`; yield a client."""
    service = Service(str(root))
    lineage = Lineage(service, target)
    with serving_app(create_app(service, AccessRules(), lineage=lineage)) as url:
        yield Client(url, timeout=300), lineage


@pytest.fixture
def events(root: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """Return the events of a run on a subset, which ends, and of one on a mixture that continues it and fails."""
    for number, name in enumerate(("one", "two")):
        carve.carve(str(root / "pools" / "toy"), 1000, number, str(root / "subsets" / name))
    target = tmp_path / "events.jsonl"
    with serving_with_lineage(root, str(target)) as (client, _):
        plan = client.plan("one", epochs=3, seed=4)
        claim(client, "a", plan)
        claim(client, "a", plan)  # the same session again is no other run
        report(client, "a", 1, 70, tokens=plan.tokens_before(70))
        report(client, "a", 1, 80, tokens=plan.tokens_before(80))  # within a minute: no event
        client.post("/runs/a/close", token=1, state="finished")
        mixed = client.mixture({"x": {"subset": "two", "epochs": 1}, "y": {"subset": "one", "epochs": 2}}, seed=1)
        claim(client, "b", mixed, parent={"run": "a", "position": 70})
        report(client, "b", 1, 30, tokens=mixed.tokens_before(30))
        client.post("/runs/b/close", token=1, state="failed")
    return [json.loads(line) for line in target.read_text().splitlines()]


def test_a_run_is_start_running_and_an_end(events: list[dict[str, Any]]):
    told = [(e["job"]["name"], e["eventType"], e["run"]["facets"]["epochal_run"]["position"]) for e in events]
    assert told == [
        ("a", "START", 0),
        ("a", "RUNNING", 70),
        ("a", "COMPLETE", 80),
        ("b", "START", 0),
        ("b", "RUNNING", 30),
        ("b", "FAIL", 30),
    ]
    assert len({e["run"]["runId"] for e in events}) == 2
    assert [set(e["run"]["facets"]) & {"errorMessage"} for e in events] == [set()] * 5 + [{"errorMessage"}]


def test_they_say_what_the_ledger_says(events: list[dict[str, Any]], root: Path):
    (one,) = events[2]["inputs"]
    manifest = json.loads((root / "subsets" / "one" / "manifest.json").read_text())
    assert (one["name"], one["facets"]["version"]["datasetVersion"]) == ("subsets/one", manifest["fingerprint"])
    assert one["facets"]["epochal_tokens"]["uniqueTokens"] == 1000
    assert one["facets"]["epochal_tokens"]["documents"] == manifest["documents"]
    exposure = one["inputFacets"]["epochal_exposure"]
    assert (exposure["positions"], exposure["passes"]) == (80, exposure["tokens"] / 1000)
    assert exposure["uniqueTokensSeen"] == 1000  # 63 samples: all were seen by position 80
    two, again, parent = events[-1]["inputs"]
    sources = [i["inputFacets"]["epochal_exposure"] for i in (two, again)]
    assert [s["source"] for s in sources] == ["x", "y"]
    assert sum(s["positions"] for s in sources) == 30
    assert sum(s["tokens"] for s in sources) == events[-1]["run"]["facets"]["epochal_run"]["tokens"]
    assert parent["name"] == events[0]["outputs"][0]["name"] == "models/a"
    assert events[-1]["run"]["facets"]["epochal_run"]["parent"]["position"] == 70


def standard_facets(facets: dict[str, Any]) -> dict[str, Any]:
    """Return those facets that the standard has, made by its own classes."""
    bare = {n: {k: v for k, v in f.items() if not k.startswith("_")} for n, f in facets.items()}
    return {name: STANDARD[name](**fields) for name, fields in bare.items() if name in STANDARD}


def test_the_standards_own_classes_write_the_same(events: list[dict[str, Any]]):
    set_producer(PRODUCER)

    def rebuilt(event: dict[str, Any]) -> dict[str, Any]:
        run, job = event["run"], event["job"]
        inputs = [
            InputDataset(
                i["namespace"],
                i["name"],
                facets=standard_facets(i["facets"]),
                inputFacets=standard_facets(i.get("inputFacets", {})),
            )
            for i in event["inputs"]
        ]
        outputs = [
            OutputDataset(o["namespace"], o["name"], facets=standard_facets(o["facets"])) for o in event["outputs"]
        ]
        made = RunEvent(
            eventType=RunState[event["eventType"]],
            eventTime=event["eventTime"],
            run=Run(run["runId"], standard_facets(run["facets"])),
            job=Job(job["namespace"], job["name"], standard_facets(job["facets"])),
            producer=event["producer"],
            inputs=inputs,
            outputs=outputs,
        )
        return serde.Serde.to_dict(made)

    def without_own(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {k: without_own(v) for k, v in value.items() if not k.startswith("epochal_")}
            return {k: v for k, v in kept.items() if v not in ({}, None)}
        return [without_own(v) for v in value] if isinstance(value, list) else value

    for event in events:
        assert without_own(rebuilt(event)) == without_own(event)


@pytest.mark.skipif(not SPEC.is_dir(), reason=f"${SPEC_VARIABLE} names no folder `spec` of a checkout of OpenLineage")
def test_they_are_valid_against_the_schema(events: list[dict[str, Any]]):
    own = importlib.resources.files("epochal.service.observe") / "facets.json"
    schemas = [json.loads(p.read_text()) for p in [SPEC / "OpenLineage.json", *SPEC.glob("facets/*.json")]]
    schemas.append(json.loads(own.read_text()))
    registry = referencing.Registry().with_resources(
        (s["$id"], referencing.Resource.from_contents(s)) for s in schemas if "$id" in s
    )
    core = schemas[0]["$id"]
    checker = jsonschema.FormatChecker()

    def check(value: Any, reference: str) -> None:
        jsonschema.Draft202012Validator({"$ref": reference}, registry=registry, format_checker=checker).validate(value)

    def facets_of(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict) and "_schemaURL" in value:
            yield value
        elif isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                yield from facets_of(part)

    for event in events:
        check(event, f"{core}#/$defs/RunEvent")
        for facet in facets_of(event):
            check(facet, facet["_schemaURL"])
    with pytest.raises(jsonschema.ValidationError):
        check(events[0] | {"eventType": "BEGIN"}, f"{core}#/$defs/RunEvent")


def test_a_receiver_that_is_away_costs_no_request_and_is_counted(root: Path, capfd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(observed, "PAUSES", ())
    with serving_with_lineage(root, "http://user:secret@127.0.0.1:9/x") as (client, lineage):
        plan = client.plan("toy", epochs=1)
        claim(client, "a", plan)
        client.post("/runs/a/close", token=1, state="stopped")
        until(lambda: lineage.counts["failed"] == 2, "both events have failed")
        assert 'epochal_openlineage_events_total{outcome="failed"} 2.0' in httpx.get(f"{client.url}/metrics").text
    said = [line for line in capfd.readouterr().err.splitlines() if "OpenLineage" in line]
    assert len(said) == 1
    assert said[0].startswith("epochal: OpenLineage events do not reach http://***@127.0.0.1:9/x (1 so far): ")
    assert "secret" not in said[0]


def test_events_are_posted_with_the_key(root: Path, monkeypatch: pytest.MonkeyPatch):
    got: list[tuple[str, str]] = []
    receiver = FastAPI()

    @receiver.post("/api/v1/lineage", status_code=201)
    async def take(request: Request) -> None:
        got.append((json.loads(await request.body())["eventType"], request.headers.get("authorization", "")))

    monkeypatch.setenv(observed.KEY_VARIABLE, "k" * 20)
    with serving_app(receiver) as url, serving_with_lineage(root, url) as (client, lineage):
        claim(client, "a", client.plan("toy", epochs=1))
        client.post("/runs/a/close", token=1, state="finished")
        until(lambda: lineage.counts["sent"] == 2, "both events were sent")
    assert got == [("START", f"Bearer {'k' * 20}"), ("COMPLETE", f"Bearer {'k' * 20}")]
