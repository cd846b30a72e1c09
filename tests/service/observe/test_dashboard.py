"""The dashboard for Grafana: its metrics are those that the service has, and it is what Grafana's schema asks for."""

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from epochal.service.api.app import create_app
from epochal.service.observe.lineage import Lineage
from epochal.service.observe.log import RequestLog
from epochal.service.security import AccessRules
from epochal.service.service import Service
from epochal.tests.support.servers import serving_app

FILE = Path(__file__).parents[3] / "docs" / "deploy" / "grafana.json"
DASHBOARD = json.loads(FILE.read_text(encoding="utf-8"))
TARGETS = [(panel, target) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
SERIES = re.compile(r"\b((?:epochal|process)_\w+)(\{[^}]*\})?")
GIVEN_BY_PROMETHEUS = {"job", "instance"}


@pytest.fixture
def series(root: Path, tmp_path: Path) -> dict[str, set[str]]:
    """Return the labels of each series of a server that has everything switched on."""
    service = Service(str(root))
    log, lineage = RequestLog("json", io.StringIO()), Lineage(service, str(tmp_path / "events.jsonl"))
    with serving_app(create_app(service, AccessRules(), log, lineage)) as url:
        httpx.get(f"{url}/health")
        text = httpx.get(f"{url}/metrics").text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_series_and_label_in_it_is_there_and_none_is_left_out(series: dict[str, set[str]]):
    shown = set()
    for _, target in TARGETS:
        expr, labels = target["expr"], set(GIVEN_BY_PROMETHEUS)
        assert SERIES.findall(expr), expr
        for name, where in SERIES.findall(expr):
            assert name in series, name
            labels |= series[name]
            assert set(re.findall(r"(\w+)=~?\"", where)) <= series[name] | GIVEN_BY_PROMETHEUS, expr
            shown.add(name)
        grouped = {word for words in re.findall(r"by \(([^)]*)\)", expr) for word in words.split(", ")}
        assert grouped <= labels, expr
        kept = grouped or labels
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, expr
    ours = {name for name in series if name.startswith("epochal_") and not name.endswith(("_created", "_sum"))}
    timed = {name for name in ours if name.removesuffix("_count") + "_bucket" in ours}
    assert ours - shown <= timed, "the dashboard leaves out what the service has"


def test_what_is_the_same_from_every_server_is_not_added_up():
    for name in ("epochal_runs", "epochal_leases", "epochal_leases_granted_total", "epochal_receipts"):
        asked = [target["expr"] for _, target in TARGETS if re.search(rf"\b{name}\{{", target["expr"])]
        assert asked
        assert all(expr.startswith("max") for expr in asked)


def test_it_has_what_grafanas_schema_asks_for():
    """What `kinds/dashboard/dashboard_kind.cue` of Grafana demands of a dashboard, its panels, places and variables."""
    assert isinstance(DASHBOARD["schemaVersion"], int)
    assert re.fullmatch(r"[A-Za-z0-9_-]{8,40}", DASHBOARD["uid"])
    assert DASHBOARD["graphTooltip"] in (0, 1, 2)
    assert set(DASHBOARD["time"]) == {"from", "to"}
    assert isinstance(DASHBOARD["editable"], bool)
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["type"] in ("row", "stat", "timeseries")
        assert panel["title"]
        place = panel["gridPos"]
        assert place["h"] > 0 <= place["y"]
        assert 0 < place["w"] <= 24 - place["x"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        assert panel["type"] == "row" or (panel["targets"] and panel["description"])
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    for variable in DASHBOARD["templating"]["list"]:
        assert variable["type"] in ("query", "datasource")
        assert variable["hide"] in (0, 1, 2)
    for panel, target in TARGETS:
        assert panel["datasource"] == target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert set(re.findall(r"\$(\w+)", target["expr"])) <= names | {"__rate_interval"}
        assert target["refId"]
    refs: dict[Any, list[str]] = {}
    for panel, target in TARGETS:
        refs.setdefault(panel["id"], []).append(target["refId"])
    assert all(len(set(row)) == len(row) for row in refs.values())


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed: apt-get install prometheus")
def test_prometheus_takes_its_expressions(tmp_path: Path):
    rules = [
        {"record": f"r:{i}", "expr": target["expr"].replace("$__rate_interval", "5m").replace("$", "")}
        for i, (_, target) in enumerate(TARGETS)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
