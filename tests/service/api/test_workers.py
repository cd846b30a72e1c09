"""What takes long has threads of its own: others are answered meanwhile, and nobody works for a client that is gone."""

import threading
from pathlib import Path

import pytest

from epochal.service import exposures
from epochal.service.api import workers
from epochal.service.client.client import AwayError, Client
from epochal.tests.support.servers import PATIENCE, serving, until


class Blocked:
    """In place of a digest: waits until it may go on, or nobody waits for the answer any more."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun: list[int] = []
        self.gone: list[int] = []

    def __call__(self, order, start, stop, check) -> str:
        self.begun.append(start)
        try:
            while not self.go_on.wait(0.02):
                check()
        except workers.GoneError:
            self.gone.append(start)
            raise
        return exposures.digest_of(order, start, stop, check)


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Blocked:
    """Return what digests wait for; two of them may run and one may wait."""
    block = Blocked()
    monkeypatch.setattr("epochal.service.api.plans.digest_of", block)
    monkeypatch.setattr("epochal.service.api.plans.COUNTS", workers.Workers("counts", 2, 60))
    yield block
    block.go_on.set()


def test_digests_that_wait_do_not_hold_up_other_requests(root: Path, blocked: Blocked):
    with serving(root) as client:
        plan = client.plan("toy", epochs=2)
        answers: list[str] = []

        def ask(start: int) -> None:
            own = Client(client.url, timeout=PATIENCE)
            answers.append(own.get(f"/plans/{plan.fingerprint}/digest", start=start)["digest"])
            own.close()

        threads = [threading.Thread(target=ask, args=(start,)) for start in range(50)]
        for thread in threads:
            thread.start()
        until(lambda: len(blocked.begun) == 2, "two digests have begun")
        quick = Client(client.url, timeout=PATIENCE)
        assert quick.get("/runs")["runs"] == []
        assert len(quick.get("/artifacts")["artifacts"]) == 1
        assert len(blocked.begun) == 2
        blocked.go_on.set()
        for thread in threads:
            thread.join()
        assert sorted(answers) == sorted(plan.digest(start, plan.positions) for start in range(50))
        quick.close()


def test_nobody_works_for_a_client_that_is_gone(root: Path, blocked: Blocked):
    with serving(root) as client:
        path = f"/plans/{client.plan('toy', epochs=2).fingerprint}/digest"
        for start in range(3):  # the third waits for a thread
            with pytest.raises(AwayError):
                Client(client.url, timeout=0.5).get(path, start=start)
        until(lambda: len(blocked.gone) == len(blocked.begun), "what has begun has ended")
        blocked.go_on.set()
        assert client.get(path, start=5)
        assert workers.COUNTS._busy == 0


def test_too_many_that_wait_are_refused(root: Path, blocked: Blocked, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("epochal.service.api.plans.COUNTS", workers.Workers("counts", 1, 0))
    with serving(root) as client:
        path = f"/plans/{client.plan('toy', epochs=2).fingerprint}/digest"
        thread = threading.Thread(target=client.get, args=(path,))
        thread.start()
        until(lambda: blocked.begun, "one has begun")
        answer = client._http.get(path)
        assert answer.status_code == 503
        assert answer.json()["detail"] == "1 counts wait or are at work: try again later"
        assert answer.headers["retry-after"] == "5"
        blocked.go_on.set()
        thread.join()


def test_a_digest_in_parts_is_the_digest(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exposures, "DIGEST_PART", 7)
    with serving(root) as client:
        plan = client.plan("toy", epochs=2)
        assert client.get(f"/plans/{plan.fingerprint}/digest", start=3, stop=90)["digest"] == plan.digest(3, 90)
        assert client._http.get(f"/plans/{plan.fingerprint}/digest?start=90&stop=3").status_code == 422
