"""The service's page in a browser: clicked through from carving to the look-up, by keyboard, at two sizes."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from epochal.benchmarks.common import write_manifest
from epochal.common.publish import FileInfo
from epochal.shards.artifact import read_manifest
from epochal.shards.documents import DOCUMENTS_NAME, SCHEMA
from epochal.shards.order.plan import Plan
from epochal.tests.support.browser import CHROMIUM, browser
from epochal.tests.support.servers import serving
from epochal.tests.support.service_calls import claim

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

WIDER = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
UNNAMED = """[...document.querySelectorAll('button, a, input, select, textarea')].filter((e) =>
  !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).length"""


def fill(form: str, **values: str) -> str:
    """Return a script that fills in a form and submits it as a click does."""
    lines = [f"f.elements['{name}'].value = '{value}';" for name, value in values.items()]
    script = f"const f = document.querySelector('#{form}-form'); {' '.join(lines)} f.querySelector('button').click();"
    return f"(() => {{ {script} }})()"


def text(selector: str) -> str:
    """Return a script for the text of an element."""
    return f"(document.querySelector(`{selector}`)?.innerText ?? '')"


@pytest.mark.slow
def test_from_carving_to_the_look_up(make_pool, tmp_path: Path):
    make_pool(3000)
    with serving(tmp_path / "artifacts") as client, browser() as page:
        page.open(client.url)
        page.wait(f"{text('#artifacts-table')}.includes('toy')")
        page.run("document.querySelector('#artifacts-table tbody button').click()")
        page.wait(f"{text('#artifact-detail')}.includes('Its sources state no licence')")
        page.run(fill("carve", unique_tokens="1k", replicate="0"))
        page.wait(f"{text('#carve [role=status]')}.includes('exactly 1,000 unique tokens')")
        page.run(fill("plan", epochs="2.5", policy="reshuffle", seed="7"))
        page.wait(f"{text('#plan-detail')}.includes('Exposures of a sample')")
        (entry,) = client.get("/plans")["plans"]
        plan = Plan.from_dict(entry["plan"])
        assert (plan.seed, plan.unique_tokens) == (7, 1000)
        page.run(fill("step", step="2", batch_samples="8"))
        page.wait(f"{text('#plan [role=status]')}.includes('Step 2 reads positions 16 to 23.')")
        (row, *_) = client.documents(plan.fingerprint, 16, 1)
        assert row["documents"][0]["id"] in page.run(text("#step-found tbody tr"))
        body = {"plan": plan.fingerprint, "batch_samples": 8, "holder": "h", "session": "s"}
        token = client.post("/runs", name="first", **body)["token"]
        for position in (40, 100):
            said = {"position": position, "tokens": 16 * position, "loss": 300 / position, "kind": "nelbo"}
            client.post("/runs/first/reports", token=token, reports=[said])
        page.wait(f"{text('#runs-table')}.includes('100 of')")  # it refreshes by itself
        assert "3.000 NELBO (upper bound)" in page.run(text("#runs-table"))
        page.run("document.querySelector('#runs-table tbody button').click()")
        page.wait(f"{text('#run-detail')}.includes('passes over the unique tokens')")
        page.run(fill("document", by="id", document="doc2", run="first"))
        page.wait(f"{text('#document-found')}.includes('run looked at')")
        (run,) = client.seen(id="doc2", run="first")["documents"][0]["runs"]
        assert f"{run['tokens_fed']:,}" in page.run(text("#document-found tbody"))
        page.wait("!document.querySelector('#document-form button').disabled")  # the timelines are there too
        page.run(fill("document", by="id", document="nobody", run=""))
        page.wait(f"{text('#document [role=alert]')}.includes('no document with id')")
        page.wait("document.querySelectorAll('#lineage-picture a').length === 4")  # pool, subset, plan, run
        # A name from outside is text, and nothing is loaded from elsewhere.
        page.run("state.names.x = '<img src=x onerror=alert(1)>'; fill('#problem', h('span', {}, state.names.x))")
        assert page.run("document.querySelectorAll('#problem img').length") == 0
        assert page.run("performance.getEntriesByType('resource').every((r) => r.name.startsWith(location.origin))")
        # By keyboard alone: a limit is set and removed.
        page.run("document.querySelector('#limit-form [name=cap]').focus()")
        page.type("5")
        page.key("Enter", 13, "\r")
        page.wait(f"{text('#limits-table')}.includes('any subset')")
        assert client.get("/limits")["limits"][0]["cap"] == 5
        page.run("document.querySelector('#limits-table tbody button').focus()")
        page.key("Enter", 13, "\r")
        page.wait(f"{text('#limits-table')}.includes('No limits')")
        for width in (1200, 390):
            page.open(client.url, width, dark=width < 600)
            page.wait(f"{text('#runs-table')}.includes('first')")
            assert not page.run(WIDER)
            assert page.run(UNNAMED) == 0
        assert [e for e in page.errors if "404" not in e] == []


@pytest.mark.slow
def test_a_server_with_tokens_asks_for_one(make_pool, tmp_path: Path):
    from epochal.service.security import AccessRules

    make_pool(300)
    with serving(tmp_path / "artifacts", rules=AccessRules({"r" * 16: "read"})) as client, browser() as page:
        page.open(client.url)
        page.wait("!document.querySelector('#token-form').hidden")
        page.run(fill("token", token="r" * 16))
        page.wait(f"{text('#artifacts-table')}.includes('toy')")
        page.run(fill("limit", cap="3"))
        page.wait(f"{text('#limits [role=alert]')}.includes('may only read')")


@pytest.mark.slow
def test_long_ids_in_a_step_and_a_step_that_is_none(make_pool, tmp_path: Path):
    pool = make_pool(600)
    table = pq.read_table(pool / DOCUMENTS_NAME)
    rows = [row | {"id": f"https://example.org/{'a' * 250}/{i}"} for i, row in enumerate(table.to_pylist())]
    pq.write_table(table.from_pylist(rows, SCHEMA), pool / DOCUMENTS_NAME)
    m = read_manifest(str(pool))
    listed = m.files | {DOCUMENTS_NAME: FileInfo.at(str(pool / DOCUMENTS_NAME))}
    write_manifest(pool, m.model_copy(update={"files": listed}))
    with serving(tmp_path / "artifacts") as client, browser() as page:
        plan = client.plan(m.fingerprint, epochs=2, seed=1)
        for width in (1280, 390):
            page.open(client.url, width)
            page.run(f"choosePlan('{plan.fingerprint}')")
            page.wait("!document.querySelector('#step-form').hidden")
            page.run(fill("step", step="1", batch_samples="8"))
            page.wait(f"{text('#step-found')}.includes('example.org')")
            assert not page.run(WIDER), width
            page.run(fill("step", step="999", batch_samples="8"))
            page.wait(f"{text('#plan [role=alert]')}.includes('the plan ends at step')")
            assert page.run(text("#step-found")) == "", "the documents of another step would stand below the error"
            page.run(fill("document", by="id", document=rows[0]["id"], run=""))
            page.wait(f"{text('#document-found')}.includes('example.org')")
            assert not page.run(WIDER), width


@pytest.mark.slow
def test_runs_side_by_side_pages_sorting_and_links(make_pool, tmp_path: Path):
    make_pool(3000)
    with serving(tmp_path / "artifacts") as client, browser() as page:
        plan = client.plan("toy", epochs=3)
        for i in range(30):
            claim(client, f"run-{i:02}", plan, f"h{i}")
            said = [{"position": p, "tokens": 16 * p, "loss": 9 - p / 100 - i / 10, "kind": "nll"} for p in (40, 400)]
            client.post(f"/runs/run-{i:02}/reports", token=1, reports=said)
        said = [{"position": 400, "tokens": 6400, "loss": 3.0, "kind": "nelbo", "split": "validation"}]
        client.post("/runs/run-29/reports", token=1, reports=said)
        rows = "document.querySelectorAll('#runs-table tbody tr').length"
        page.open(client.url)
        page.wait(f"{rows} === 25")
        assert "30 live, 0 other" in page.run(text("#runs-note"))
        page.run("document.querySelector('[aria-label=\"Older runs\"]').click()")
        page.wait(f"{rows} === 5")
        assert "run-00" in page.run(text("#runs-table"))
        page.run("document.querySelector('[aria-label=\"Newer runs\"]').click()")
        page.wait(f"{rows} === 25")
        losses = (
            "[...document.querySelectorAll('#runs-table td[data-head=Loss]')].map((c) => parseFloat(c.textContent))"
        )
        page.run("[...document.querySelectorAll('#runs-table .sort')].find((b) => b.textContent === 'Loss').click()")
        shown = page.run(losses)
        assert shown == sorted(shown)
        for name in ("run-29", "run-10"):
            page.run(f"document.querySelector('[aria-label=\"Compare {name}\"]').click()")
            page.wait(f"{text('#compared')}.includes('{name}')")
        assert "Losses of different kinds" in page.run(text("#compared"))
        assert "validation NELBO (upper bound)" in page.run(text("#compared"))
        shared = page.run("location.href")
        page.open(shared.replace("#", "?again#"))
        page.wait(f"{text('#compared')}.includes('run-29') && {text('#compared')}.includes('run-10')")
        fingerprint = client.get("/runs/run-03")["fingerprint"]
        page.open(f"{client.url}?once#run={fingerprint}")
        page.wait(f"{text('#run-detail')}.includes('Run run-03')")
        labels = "[...document.querySelectorAll('#run-detail svg text')].every((t) => t.getBBox().x >= 0)"
        assert page.run(labels)  # none is cut
        # All samples were seen twice by then: a line over unique tokens would be upright.
        assert "Loss by unique tokens seen" not in page.run(text("#run-detail"))
        page.run(fill("runs", name="run-07"))
        page.wait(f"{rows} === 1")
        assert page.run(UNNAMED) == 0
        assert page.errors == []


@pytest.mark.slow
def test_a_documents_timeline_and_a_link_to_it(make_pool, tmp_path: Path):
    make_pool(3000)
    with serving(tmp_path / "artifacts") as client, browser() as page:
        plan = client.plan("toy", epochs=5)
        for i, more in enumerate(({}, {"parent": {"run": "run-0"}})):
            claim(client, f"run-{i}", plan, f"h{i}", **more)
            client.post(f"/runs/run-{i}/reports", token=1, reports=[{"position": 800, "tokens": 12800}])
        for i in range(27):
            client.carve("toy", 100 + i)
        key = client.seen(id="doc2")["documents"][0]["key"]
        page.open(client.url)
        page.wait(f"{text('#artifacts-table')}.includes('toy')")
        asked = "performance.getEntriesByType('resource').filter((r) => r.name.includes('/artifacts?')).length"
        assert page.run(asked) == 1
        rows = "document.querySelectorAll('#artifacts-table tbody tr').length"
        assert page.run(rows) == 25
        page.run("document.querySelector('[aria-label=\"Older artifacts\"]').click()")
        page.wait(f"{rows} === 3")  # 27 subsets and the pool
        page.run(fill("document", by="id", document="doc2", run="run-1"))
        page.wait("document.querySelectorAll('.timeline').length === 1")
        assert page.run("location.hash") == f"#document={key}+run-1"
        of_both = [event for s in client.timeline(key, "run-1")["stretches"] for event in s["events"]]
        assert page.run("document.querySelectorAll('.timeline g line:not(.cut)').length") == len(of_both)
        label = page.run("document.querySelector('.timeline svg').getAttribute('aria-label')")
        assert f"run-1: some of it at {len(of_both)} positions" in label
        page.run("document.querySelector('.timeline summary').click()")
        shown = page.run("[...document.querySelectorAll('.timeline td[data-head=Position]')].map((c) => c.textContent)")
        assert sorted(shown) == sorted(str(event["position"]) for event in of_both)
        for width, dark in ((1280, False), (390, True)):
            page.open(f"{client.url}?{width}#document={key}", width, dark)  # of all runs
            page.wait("document.querySelectorAll('.timeline').length === 2")
            assert not page.run(WIDER)
            assert page.run(UNNAMED) == 0
        page.run(f"location.hash = '#document={'f' * 32}'")
        page.wait(f"{text('#document [role=alert]')}.includes('no document with key')")
        assert [e for e in page.errors if "404" not in e] == []


@pytest.mark.slow
def test_opt_out_lists_and_who_holds_their_documents(make_pool, tmp_path: Path):
    make_pool(3000)
    with serving(tmp_path / "artifacts") as client, browser() as page:
        plan = client.plan("toy", epochs=2)
        for i in range(27):
            claim(client, f"run-{i:02}", plan, f"h{i}")
            client.post(f"/runs/run-{i:02}/reports", token=1, reports=[{"position": 190, "tokens": 3040}])
        client.post("/runs/run-03/release")
        for i in range(27):
            client.post("/optouts", name=f"asked-{i:02}", documents=["doc1", "nobody"])
        client.post("/optouts", name="asked-05", documents=["doc2", "doc3", "doc4"])
        lists, holders = (
            f"document.querySelectorAll('#{name}-table tbody tr').length" for name in ("optouts", "holders")
        )
        page.open(client.url)
        page.wait(f"{lists} === 25")
        page.run("document.querySelector('[aria-label=\"Older lists\"]').click()")
        page.wait(f"{lists} === 2")
        page.run(fill("optouts", name="asked-05"))
        page.wait(f"{lists} === 1")
        page.run("document.querySelector('#optouts-table tbody button').focus()")
        page.key("Enter", 13, "\r")
        page.wait(f"{holders} === 25")  # live ones
        detail = page.run(text("#optout-detail"))
        assert "version 2" in detail
        assert "version 1" in detail
        assert "3, 1 pool looked at" in detail
        assert page.run("location.hash") == "#optout=asked-05"
        page.run("document.querySelector('[aria-label=\"Older holders\"]').click()")
        page.wait(f"{holders} === 1")
        assert "run-03" not in page.run(text("#holders-table"))
        cells = "[...document.querySelectorAll('#holders-table tbody td')].map((c) => c.innerText)"
        held = client.get("/optouts/asked-05/runs/run-00")["held"]
        figures = [
            held["documents"],
            held["so_far"]["documents"],
            held["so_far"]["most"],
            held["to_the_end"]["documents"],
        ]
        assert page.run(cells) == ["live", *map(str, figures), "still feeds them"]
        for kind, shown in (
            ("plan", "toy"),
            ("pool", "toy"),
            ("subset", "None of the subsets holds a document of it."),
        ):
            control = "document.querySelector('#holders-form [name=kind]')"
            page.run(f"{control}.value = '{kind}', {control}.dispatchEvent(new Event('change', {{bubbles: true}}))")
            page.wait(f"{text('#holders-table')}.includes('{shown}')")
        for width in (1280, 390):
            page.open(f"{client.url}?{width}#optout=asked-05", width, dark=width < 600)
            page.wait(f"{holders} === {25 if width > 600 else 10}")
            assert not page.run(WIDER)
            assert page.run(UNNAMED) == 0
        page.run("location.hash = '#optout=nobody'")
        page.wait(f"{text('#optouts [role=alert]')}.includes('there is no opt-out list')")
        assert [e for e in page.errors if "404" not in e] == []
