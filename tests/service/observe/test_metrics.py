"""Metrics: valid to Prometheus' own checker, and equal to what was done."""

import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from epochal.service.client.client import Client
from epochal.service.security import AccessRules
from epochal.tests.support.servers import serving
from epochal.tests.support.service_calls import claim, refused, report


def read(client: Client, **headers: str) -> str:
    """Return the text of /metrics."""
    answer = httpx.get(f"{client.url}/metrics", headers=headers)
    assert answer.status_code == 200
    return answer.text


def values(client: Client) -> dict[tuple[str, ...], float]:
    """Return the samples by name and labels' values."""
    families = text_string_to_metric_families(read(client))
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_they_count_what_was_done(client: Client):
    plan = client.plan("toy", epochs=2)
    claim(client, "a", plan)
    report(client, "a", 1, 40, tokens=640)
    report(client, "a", 1, 40, tokens=640)  # again: nothing new
    report(client, "a", 1, 100, tokens=1600)
    claim(client, "b", plan, "b")
    client.post("/runs/b/close", token=1, state="failed")
    refused(client.get, "/runs/nobody")
    refused(client.get, "/no/such/path")
    found = values(client)
    assert found["epochal_reported_positions_total",] == 100
    assert found["epochal_reported_tokens_total",] == 1600
    assert found["epochal_http_requests_total", "POST", "/runs/{run}/reports", "200"] == 3
    assert found["epochal_http_requests_total", "GET", "/runs/{run}", "404"] == 1
    assert found["epochal_http_requests_total", "GET", "unknown", "404"] == 1
    assert found["epochal_http_request_duration_seconds_count", "POST", "/runs/{run}/reports"] == 3
    assert (found["epochal_runs", "live"], found["epochal_runs", "failed"], found["epochal_runs", "open"]) == (1, 1, 0)
    assert (found["epochal_leases",], found["epochal_leases_granted_total",]) == (1, 2)
    assert found["epochal_artifacts", "pool"] == 1
    assert found["epochal_database_up",] == 1
    assert found["epochal_database_writes_total",] >= 6
    assert found["epochal_database_write_duration_seconds_count",] >= 5
    assert found["epochal_database_statement_duration_seconds_count",] > 20
    assert found["epochal_queue_items", "database_writes"] == 0
    assert found["epochal_http_requests_in_progress",] == 1  # this one


def test_a_run_that_goes_back_is_not_counted_twice_for_that(client: Client):
    plan = client.plan("toy", epochs=2)
    claim(client, "a", plan)
    report(client, "a", 1, 100, tokens=1600)
    assert claim(client, "a", plan, session="later")["token"] == 2
    report(client, "a", 2, 60, tokens=960)
    report(client, "a", 2, 120, tokens=1920)
    assert values(client)["epochal_reported_positions_total",] == 160  # of which 60 to 100 were trained on twice


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed: apt-get install prometheus")
def test_prometheus_takes_them(client: Client):
    report_of = subprocess.run(["promtool", "check", "metrics"], input=read(client), capture_output=True, text=True)
    assert (report_of.returncode, report_of.stderr) == (0, "")


def test_openmetrics_is_sent_where_it_is_asked_for(root: Path):
    with serving(root) as client:
        text = read(client, accept="application/openmetrics-text; version=1.0.0")
        assert text.endswith("# EOF\n")
        names = {family.name for family in parse_openmetrics(text)}
    assert {"epochal_http_requests", "epochal_runs", "process_resident_memory_bytes"} <= names


def test_others_names_make_no_series(root: Path):
    with serving(root) as client:
        for i in range(20):
            httpx.request(f"ODD{i}", f"{client.url}/odd/{i}")
        found = values(client)
    assert [k for k in found if k[0] == "epochal_http_requests_total" and "unknown" in k[1:3]] == [
        ("epochal_http_requests_total", "unknown", "unknown", "404")
    ]


def test_with_tokens_they_need_one_and_what_is_refused_is_counted(root: Path):
    token = "r" * 16
    with serving(root, rules=AccessRules({token: "read"})) as client:
        assert httpx.get(f"{client.url}/metrics").status_code == 401
        text = read(client, authorization=f"Bearer {token}")
    assert 'epochal_http_requests_total{method="GET",route="unknown",status="401"} 1.0' in text
