"""What was in step N, over HTTP: as `contents` says it, in as many answers as it takes."""

import pytest

from epochal.service.api import contents as endpoint
from epochal.service.client.client import Client
from epochal.shards.artifact import open_artifact
from epochal.shards.order.contents import contents, documents_of
from epochal.shards.order.mixture import Mixture
from epochal.tests.support.service_calls import refused


@pytest.fixture
def made(client: Client, root) -> tuple:
    subset = client.carve("toy", 901, 1)
    plan = client.plan(subset["fingerprint"], epochs=2.3, seed=3)
    where = root / "subsets" / "toy-901-r1"
    return plan, [documents_of(open_artifact(str(where)))]


def as_json(found) -> list[dict]:
    return [content.to_dict() | {"documents": [dict(vars(piece)) for piece in content.documents]} for content in found]


@pytest.mark.slow
def test_the_documents_of_a_step_and_of_positions(client: Client, made: tuple) -> None:
    plan, tables = made
    path = f"/plans/{plan.fingerprint}/documents"
    step = client.get(path, step=3, batch_samples=8)
    assert step["positions"] == as_json(contents(plan, tables, range(24, 32)))
    assert (step["start"], step["stop"], step["next"]) == (24, 32, None)
    last = client.get(path, step=plan.steps(8) - 1, batch_samples=8)
    assert last["stop"] == plan.positions < plan.steps(8) * 8
    assert list(client.documents(plan.fingerprint, 5, 100)) == as_json(contents(plan, tables, range(5, 105)))


@pytest.mark.slow
def test_what_does_not_fit_is_asked_for_again(client: Client, made: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, tables = made
    monkeypatch.setattr(endpoint, "MOST_DOCUMENTS", 3)
    monkeypatch.setattr(endpoint, "PART", 2)
    first = client.get(f"/plans/{plan.fingerprint}/documents", start=0, count=50)
    assert 0 < len(first["positions"]) == first["next"] < 50
    assert list(client.documents(plan.fingerprint, 0, 50)) == as_json(contents(plan, tables, range(50)))


@pytest.mark.slow
def test_a_mixture_names_the_source(client: Client) -> None:
    sources = {name: {"subset": client.carve("toy", 600, r)["fingerprint"], "epochs": 2} for r, name in enumerate("ab")}
    mixture = client.mixture(sources)
    assert isinstance(mixture, Mixture)
    rows = list(client.documents(mixture.fingerprint, 0, mixture.positions))
    numbers, samples = mixture.locate(mixture.ids(range(mixture.positions)))
    assert [(row["component"], row["sample"]) for row in rows] == [
        ("ab"[n], s) for n, s in zip(numbers.tolist(), samples.tolist(), strict=True)
    ]


@pytest.mark.slow
def test_wrong_questions_are_one_sentence(client: Client, made: tuple) -> None:
    plan, _ = made
    path = f"/plans/{plan.fingerprint}/documents"
    assert "step goes with batch_samples" in str(refused(client.get, path, step=1))
    assert "batch_samples goes with step" in str(refused(client.get, path, batch_samples=8))
    assert "the plan ends at step" in str(refused(client.get, path, step=10**15, batch_samples=8))
    assert "the plan ends at position" in str(refused(client.get, path, start=10**9))
    assert refused(client.get, path, start=0, count=1001).status == 422
    assert refused(client.get, "/plans/nobody/documents").status == 404
