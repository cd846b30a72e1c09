"""The reporter: reports wait on the disk while the service is away, and a refusal stops a run before it starts."""

import json
import re
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.common.errors import RequestError
from epochal.service.client.client import AwayError
from epochal.service.client.reporter import JOURNAL, Reporter, send_rest
from epochal.tests.support.servers import serving
from epochal.tests.support.service_calls import claim, refused


@pytest.mark.slow
def test_reports_wait_on_the_disk_while_the_service_is_away(root: Path, tmp_path: Path, capsys):
    warned: list[str] = []
    with serving(root) as client:
        plan = client.plan("toy", epochs=2)
    body = {"name": "away", "plan": plan.to_dict(), "batch_samples": 8}
    reporter = Reporter(client.url, str(tmp_path / "run"), body, warned.append)
    reporter.start()
    for position in range(0, 80, 8):
        reporter.report(position=position, tokens=16 * position, digest=plan.digest(0, position))
    reporter.close("finished", None, wait=0.1)
    assert "the run goes on" in warned[0]
    assert "epochal register" in warned[1]
    lines = (tmp_path / "run" / JOURNAL).read_text().splitlines()
    assert [json.loads(line)["call"] for line in lines] == ["claim"] + ["reports"] * 10 + ["close"]
    with pytest.raises(AwayError):
        send_rest(str(tmp_path / "run"), warned.append)
    with serving(root) as client:  # at another port: the address in the journal is corrected
        text = (tmp_path / "run" / JOURNAL).read_text()
        (tmp_path / "run" / JOURNAL).write_text(re.sub(r"http://127.0.0.1:\d+", client.url, text))
        assert main(["register", str(tmp_path / "run"), "--root", str(root)]) == 0
        assert main(["register", str(tmp_path / "run"), "--root", str(root)]) == 0  # nothing is left to send
        run = client.get("/runs/away")
        assert (run["state"], run["position"], len(run["reports"])) == ("finished", 72, 10)


def test_a_refusal_at_the_start_is_told_and_another_process_cannot_share_the_folder(root: Path, tmp_path: Path):
    with serving(root) as client:
        plan = client.plan("toy", epochs=2)
        claim(client, "taken", plan)
        body = {"name": "taken", "plan": plan.to_dict(), "batch_samples": 8}
        assert "leased to a live run" in str(refused(Reporter(client.url, str(tmp_path / "r"), body, print).start))
        reporter = Reporter(client.url, str(tmp_path / "r"), body | {"name": "mine"}, print)
        reporter.start()
        with pytest.raises(RequestError, match="in use by another process"):
            Reporter(client.url, str(tmp_path / "r"), body, print)
        reporter.report(position=16, tokens=256)
        reporter.checkpoint(16, "ba2", None)
        reporter.close("stopped", None)
        again = Reporter(client.url, str(tmp_path / "r"), body | {"name": "mine"}, print)
        again.start()  # the same folder: no waiting for the lease to end
        again.close("stopped", None)
        run = client.get("/runs/mine")
        assert (run["position"], run["lease"]) == (16, 2)
        assert [n["name"] for n in client.get("/lineage", of="mine")["nodes"] if n["kind"] == "checkpoint"] == ["ba2"]
