"""A run as OpenLineage events: a pure function of what the service knows of it.

A job is a run's name, an OpenLineage run is what one lease on it covers, the inputs are the subsets that its plan
reads (version: the fingerprint), the output is the model. Facets of our own stand in `service/observe/facets.json`.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import epochal

EventType = Literal["START", "RUNNING", "COMPLETE", "FAIL", "ABORT"]

SPEC = "https://openlineage.io/spec"
EVENT_SCHEMA = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = {
    "version": f"{SPEC}/facets/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet",
    "inputStatistics": f"{SPEC}/facets/1-0-0/InputStatisticsInputDatasetFacet.json"
    "#/$defs/InputStatisticsInputDatasetFacet",
    "processing_engine": f"{SPEC}/facets/1-1-1/ProcessingEngineRunFacet.json#/$defs/ProcessingEngineRunFacet",
    "errorMessage": f"{SPEC}/facets/1-0-1/ErrorMessageRunFacet.json#/$defs/ErrorMessageRunFacet",
    "jobType": f"{SPEC}/facets/2-0-4/JobTypeJobFacet.json#/$defs/JobTypeJobFacet",
    "epochal_tokens": "urn:epochal:facets:1-0-0:facets.json#/$defs/EpochalTokensDatasetFacet",
    "epochal_exposure": "urn:epochal:facets:1-0-0:facets.json#/$defs/EpochalExposureInputDatasetFacet",
    "epochal_run": "urn:epochal:facets:1-0-0:facets.json#/$defs/EpochalRunFacet",
}
PRODUCER = f"urn:epochal:service:{epochal.__version__}"
NAMESPACE = "epochal"


@dataclass(frozen=True)
class Input:
    """A subset or pool that a run reads, and how far it has got in it.

    Attributes:
        name: `subsets/web-500M`; where the catalogue lacks it, the fingerprint.
        documents: None where the catalogue lacks it.
        source: of a mixture, else empty.
        positions: samples read so far.
        passes: over the unique tokens, so far.
        expected: unique_tokens_seen is an expectation (`global` with many passes).
    """

    name: str
    fingerprint: str
    unique_tokens: int
    samples: int
    documents: int | None
    source: str
    policy: str
    seed: int
    positions: int
    tokens: int
    passes: float
    unique_tokens_seen: int
    expected: bool


@dataclass(frozen=True)
class RunFacts:
    """What an event says of a run.

    Attributes:
        lease: its number.
        position: samples trained on so far; positions: of the whole plan.
        parent: name and fingerprint of the run whose model it continues, and the position there.
    """

    name: str
    fingerprint: str
    lease: int
    plan: str
    position: int
    positions: int
    tokens: int
    inputs: Sequence[Input]
    parent: tuple[str, str, int] | None


def run_id(fingerprint: str, lease: int) -> str:
    """Return the UUID of what a run did under one lease."""
    return str(uuid.uuid5(uuid.UUID(fingerprint), str(lease)))


def run_event(facts: RunFacts, kind: EventType, at: float) -> dict[str, Any]:
    """Return one event, JSON data.

    Args:
        facts: see above.
        kind: see above.
        at: seconds since 1970.
    """
    outputs = [_model(facts.name, facts.fingerprint)]
    parent = [_model(facts.parent[0], facts.parent[1])] if facts.parent else []
    return {
        "eventType": kind,
        "eventTime": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "producer": PRODUCER,
        "schemaURL": EVENT_SCHEMA,
        "run": {"runId": run_id(facts.fingerprint, facts.lease), "facets": _run_facets(facts, kind)},
        "job": {
            "namespace": NAMESPACE,
            "name": facts.name,
            "facets": {"jobType": _facet("jobType", processingType="BATCH", integration="EPOCHAL", jobType="TRAINING")},
        },
        "inputs": [*map(_input, facts.inputs), *parent],
        "outputs": outputs,
    }


def _facet(name: str, /, **fields: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": FACETS[name], **fields}


def _run_facets(facts: RunFacts, kind: EventType) -> dict[str, Any]:
    parent = dict(zip(("name", "fingerprint", "position"), facts.parent, strict=True)) if facts.parent else None
    facets = {
        "processing_engine": _facet("processing_engine", name="epochal", version=epochal.__version__),
        "epochal_run": _facet(
            "epochal_run",
            fingerprint=facts.fingerprint,
            lease=facts.lease,
            plan=facts.plan,
            position=facts.position,
            positions=facts.positions,
            tokens=facts.tokens,
            parent=parent,
        ),
    }
    if kind == "FAIL":
        said = f"the run closed as failed at position {facts.position} of {facts.positions}"
        facets["errorMessage"] = _facet("errorMessage", message=said, programmingLanguage="Python")
    return facets


def _input(i: Input) -> dict[str, Any]:
    size = {"uniqueTokens": i.unique_tokens, "samples": i.samples, "documents": i.documents}
    exposure = {
        "source": i.source,
        "policy": i.policy,
        "seed": i.seed,
        "positions": i.positions,
        "tokens": i.tokens,
        "passes": i.passes,
        "uniqueTokensSeen": i.unique_tokens_seen,
        "expected": i.expected,
    }
    return {
        "namespace": NAMESPACE,
        "name": i.name,
        "facets": {
            "version": _facet("version", datasetVersion=i.fingerprint),
            "epochal_tokens": _facet("epochal_tokens", **size),
        },
        "inputFacets": {
            "inputStatistics": _facet("inputStatistics", rowCount=i.positions),
            "epochal_exposure": _facet("epochal_exposure", **exposure),
        },
    }


def _model(name: str, fingerprint: str) -> dict[str, Any]:
    version = {"version": _facet("version", datasetVersion=fingerprint)}
    return {"namespace": NAMESPACE, "name": f"models/{name}", "facets": version}
