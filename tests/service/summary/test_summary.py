"""The public summary and the bill of materials: figures of the ledger, sources of manifests, valid CycloneDX."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import epochal
from epochal.__main__ import main
from epochal.datapipe.build import build
from epochal.datapipe.config import Build
from epochal.examples.demo import small_tokenizer
from epochal.service.client.client import Client
from epochal.service.summary.account import LeftOut, dates_in, gather
from epochal.service.summary.bom import bom
from epochal.service.summary.markdown import TO_FILL_IN, left_to_fill_in, summary
from epochal.shards import carve
from epochal.tests.support.servers import serving
from epochal.tests.support.service_calls import claim, report

FACTS = {
    "license": "CC-BY-4.0 | odd",
    "url": "https://example.org/web",
    "collected": "crawled 2023-05 to 2024-02-29",
    "language": ["en", "de"],
    "pii": "e-mail addresses were not removed",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with a pool of two sources, one of which says what it is, and two subsets."""
    folder = tmp_path_factory.mktemp("summary")
    (folder / "tokenizer.json").write_text(json.dumps(small_tokenizer(256)))
    for name in ("web", "mail"):
        rows = [{"id": f"{name}{i}", "text": f"{name} {i} " + f"number {i} of {name}s. " * 8} for i in range(40)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    (folder / "asked-by-mail.txt").write_text("web39\nnobody\n")
    sources = [
        {"name": "web", "path": str(folder / "web.jsonl")} | FACTS,
        {"name": "mail", "path": str(folder / "mail.jsonl")},
    ]
    out = folder / "artifacts" / "pools" / "text"
    build(
        Build.model_validate(
            {
                "name": "text",
                "out": str(folder / "artifacts"),
                "seq_len": 16,
                "validation_tokens": 0,
                "tasks": 1,
                "workers": 1,
                "tokenizer": {"name": str(folder / "tokenizer.json")},
                "sources": sources,
                "exclude": [str(folder / "asked-by-mail.txt")],
                "deduplicate": {"near": None},
            }
        ),
        quiet=True,
    )
    for number, name in enumerate(("one", "two")):
        carve.carve(str(out), 2000, number, str(folder / "artifacts" / "subsets" / name))
    return folder / "artifacts"


@pytest.fixture
def client(root: Path) -> Any:
    """Return a client of a service that knows a run on one subset, and one on a mixture that continues it."""
    with serving(root) as client:
        first = client.plan("one", epochs=3, seed=4)
        claim(client, "first", first, details={"objective": "ar"}, holder="s", session="s")
        report(client, "first", 1, 200, tokens=first.tokens_before(200))
        mixed = client.mixture({"x": {"subset": "one", "epochs": 2}, "y": {"subset": "two", "epochs": 1.5}}, seed=1)
        claim(client, "then", mixed, parent={"run": "first", "position": 150}, details={"objective": "mdm"})
        report(client, "then", 1, 120, tokens=mixed.tokens_before(120))
        yield client


def test_its_figures_are_the_ledgers(client: Client):
    account = gather(client, "then", "test")
    counted = client.histogram("then")
    fed = {int(k): n for k, n in counted["tokens"].items()}
    assert account.seen is not None
    assert account.tokens_fed == account.seen.tokens_fed == sum(k * n for k, n in fed.items())
    assert account.seen.unique_tokens == sum(n for k, n in fed.items() if k)
    assert account.seen.documents == sum(n for k, n in counted["any"].items() if int(k))
    assert [(s.run, s.position) for s in account.history] == [("then", 120), ("first", 150)]
    own, before = (client.get(f"/runs/{name}") for name in ("then", "first"))
    assert sum(d.tokens_fed for d in account.history[0].datasets) == own["tokens"]
    assert sum(d.positions for d in account.history[0].datasets) == own["position"]
    (one,) = account.history[1].datasets
    assert one.tokens_fed == 150 * 16
    assert before["position"] == 200  # what the first run went on to is no part of this model


def test_the_summary_says_what_manifests_say_and_marks_the_rest(client: Client):
    account = gather(client, "then", "test")
    text = summary(account)
    for heading in (
        "1.1 Provider",
        "1.2 Model",
        "1.3 Modal",
        "2. List",
        "3.1 Respect",
        "3.2 Removal",
        "2.3 Data crawled",
    ):
        assert heading in text
    assert "CC-BY-4.0 \\| odd" in text
    assert "| <https://example.org/web> |" in text
    assert "| **Latest date of data acquisition** | 2024-02-29 (not stated of 1 source) |" in text
    assert "| **Linguistic characteristics** | de, en |" in text
    assert "less than 1 billion tokens (" in text
    assert "| pool text | exact duplicates | 2 | " in text
    assert "| mail | 40 | " in text
    assert f"In all the model was fed {account.tokens_fed:,} tokens." in text
    assert "first (`" in text
    assert left_to_fill_in(text) == text.count(TO_FILL_IN) == 12
    assert str(client.url) not in text


def test_lists_that_a_pool_was_built_without_are_named_with_their_sizes(client: Client):
    account = gather(client, "then", "test")
    (pool,) = account.pools
    assert pool.left_out == [LeftOut("asked-by-mail.txt", "list", None, 2, 1, 1)]
    assert "| asked-by-mail.txt | pool text | 2 | 1 | 1 |" in summary(account)
    (shown,) = (c for c in bom(account)["components"] if c["name"] == "text")
    properties = {p["name"]: p["value"] for p in shown["properties"]}
    assert properties["epochal:leftOut:asked-by-mail.txt:documents"] == "1"
    assert properties["epochal:leftOut:asked-by-mail.txt:lines"] == "2"


def test_the_bill_of_materials_is_valid_and_says_the_same(client: Client):
    account = gather(client, "then", "test")
    made = bom(account)
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(made)) is None
    assert validator.validate_str(json.dumps(made | {"components": [{"type": "nonsense", "name": "x"}]})) is not None
    model = made["metadata"]["component"]
    properties = {p["name"]: p["value"] for p in model["properties"]}
    assert properties["epochal:tokensFed"] == str(account.tokens_fed)
    assert properties["epochal:uniqueTokensFed"] == str(account.seen.unique_tokens)
    assert model["pedigree"]["ancestors"][0]["name"] == "first"
    refs = [c["bom-ref"] for c in made["components"]]
    assert {d["ref"] for d in model["modelCard"]["modelParameters"]["datasets"]} < set(refs)
    (pool,) = (c for c in made["components"] if "components" in c)
    web = next(c for c in pool["components"] if c["name"] == "web")
    assert [entry["license"]["name"] for entry in web["licenses"]] == [FACTS["license"]]
    edges = {d["ref"]: d["dependsOn"] for d in made["dependencies"]}
    assert edges[model["bom-ref"]] == [refs[0], refs[1], f"run:{account.history[1].fingerprint}"]
    assert edges[refs[0]] == [pool["bom-ref"]]
    assert bom(gather(client, "then", "test")) == made


def test_the_command_writes_three_files_and_overwrites_nothing(client: Client, tmp_path: Path, capsys):
    words = ["summary", "then", "--service", client.url, "--out", str(tmp_path / "out")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "bom.cdx.json; the model was fed " in said
    assert "12 places of summary.md are the provider's to fill in" in said
    written = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert sorted(written) == ["bom.cdx.json", "summary.json", "summary.md"]
    assert main(words) == 2
    assert "exists, perhaps filled in" in capsys.readouterr().err
    assert main([*words, "--replace"]) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == written
    assert main(["summary", "nobody", "--service", client.url, "--out", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


def test_a_data_set_that_the_catalogue_lacks_is_named_and_nothing_of_it_claimed(client: Client):
    plan = epochal.Plan("e" * 32, 50, 800, 16, 1600)
    claim(client, "elsewhere", plan)
    report(client, "elsewhere", 1, 20, tokens=320)
    account = gather(client, "elsewhere", "test")
    assert (account.seen, account.pools, account.tokens_fed) == (None, [], 320)
    text = summary(account)
    assert f"nothing is known of their sources: `{'e' * 32}` (1)." in text
    assert "was not counted: subset eeee" in text
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom(account))) is None


def test_dates_are_found_in_what_people_write():
    assert dates_in("2023-05 to 2024-02-29") == ["2023-05", "2024-02-29"]
    assert dates_in(["in 2021", "19999", "2024-13"]) == ["2021", "2024"]
    assert dates_in(None) == []


def test_opt_outs_and_since_when_they_are_honoured(client: Client):
    subset = client.get("/artifacts/one")
    rows = pq.read_table(Path(subset["locations"][0]["path"]).parents[1] / "pools/text/documents.parquet")
    listed = [key.hex() for key in rows["key"].to_pylist()[:5]]
    client.post("/optouts", name="asked", documents=listed)
    clean = client.post("/subsets", pool="text", unique_tokens=2000, without_optouts=["asked"])["fingerprint"]
    claim(client, "clean", client.plan(clean, epochs=1), parent={"run": "first", "position": 150})
    report(client, "clean", 1, 20)
    (found,) = gather(client, "clean", "test").optouts
    assert (found.name, found.version, found.lines, found.documents) == ("asked", 1, 5, 5)
    assert 1 <= found.fed <= 5
    assert (found.most_exposures, found.unknown, found.since) == (2, [], ("first", 150))
    text = summary(gather(client, "clean", "test"))
    assert (
        f"| asked, version 1 | {found.entered} | 5 | 5 | {found.fed} | 2 | none since position 150 of run first |"
        in text
    )
    assert "fed by the run itself" in summary(gather(client, "then", "test"))
    _says_who_holds_them(client, text)
    client.post("/optouts", name="asked", documents=[])
    assert gather(client, "clean", "test").optouts == []


def _says_who_holds_them(client: Client, text: str) -> None:
    """The run "clean" went on from a subset that holds documents of the list "asked" to one that does not."""
    account = gather(client, "clean", "test")
    (o,) = account.optouts
    ledger = {
        row["fingerprint"]: (row["documents"], row["tokens"])
        for kind in ("pool", "subset")
        for row in client.optout_holders("asked", kind)["holders"]
    }
    own, before = (stretch.datasets[0] for stretch in account.history)
    assert [(held.kind, held.name) for held in o.held_by] == [("subset", "one"), ("pool", "text")]
    assert {held.fingerprint: (held.documents, held.tokens) for held in o.held_by} == {
        fingerprint: ledger[fingerprint] for fingerprint in (before.fingerprint, before.pool)
    }
    assert own.left_out == [LeftOut("asked", "list", 1, 5, 0, 5)]
    assert f"| asked, version 1 | subset {own.name} | 5 | 5 | 0 |" in text
    documents, tokens = ledger[before.fingerprint]
    assert f"| asked, version 1 | subset one | `{before.fingerprint}` | {documents} | {tokens} |" in text
    made = bom(account)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(made)) is None
    by_ref = {c["bom-ref"]: {p["name"]: p["value"] for p in c["properties"]} for c in made["components"]}
    assert by_ref[f"data:{own.fingerprint}"]["epochal:leftOut:asked:version"] == "1"
    assert "epochal:holdsOptedOut:asked:documents" not in by_ref[f"data:{own.fingerprint}"]
    assert by_ref[f"data:{before.fingerprint}"]["epochal:holdsOptedOut:asked:tokens"] == str(tokens)
    properties = {p["name"]: p["value"] for p in made["metadata"]["component"]["properties"]}
    assert properties["epochal:optOut:asked:documentsFed"] == str(o.fed)
