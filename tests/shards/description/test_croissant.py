"""croissant.json is Croissant 1.1 to its own library, whose records are ours, without a network."""

import json
from pathlib import Path

import numpy as np
import pytest

from epochal.shards.artifact import read_any_manifest
from epochal.shards.description.croissant import CONTEXT
from epochal.shards.description.croissant import croissant as write_croissant
from epochal.shards.description.subject import Subject

pytestmark = pytest.mark.slow


@pytest.fixture
def croissant(monkeypatch):
    """Return mlcroissant, for which there is no network."""
    import socket

    import mlcroissant

    def refuse(*_args, **_kwargs):
        raise AssertionError("it asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return mlcroissant


def test_the_context_is_the_standards_with_provenance(croissant):
    from mlcroissant._src.core.context import Context
    from mlcroissant._src.core.rdf import make_context

    standard = make_context(Context(conforms_to="http://mlcommons.org/croissant/1.1"))
    assert {key: value for key, value in CONTEXT.items() if key != "prov"} == standard


def test_the_library_finds_no_error_in_any_form(made, croissant):
    for form, folder in made.forms.items():
        issues = croissant.Dataset(f"{folder}/croissant.json").metadata.ctx.issues
        assert not issues.errors, form
        # The date of publication is not known when the bytes are made, which must not depend on the time.
        assert all("datePublished" in line or "citeAs" in line for line in issues.warnings), (form, issues.warnings)


def test_every_file_but_the_descriptions_is_there_with_its_hash(made):
    for form, folder in made.forms.items():
        body = json.loads(Path(folder, "croissant.json").read_text())
        listed = {f["@id"]: f["sha256"] for f in body["distribution"] if f["@type"] == "cr:FileObject"}
        sums = dict(reversed(line.split("  ", 1)) for line in Path(folder, "SHA256SUMS").read_text().splitlines())
        assert listed == {name: value for name, value in sums.items() if name != "croissant.json"}, form


def test_documents_and_samples_are_records(made, croissant):
    documents = croissant.Dataset(f"{made.forms['copy']}/croissant.json").records("documents")
    assert sum(int(row["documents/tokens"]) for row in documents) == len(made.window)
    samples = croissant.Dataset(f"{made.forms['parquet export']}/croissant.json").records("samples")
    np.testing.assert_array_equal(np.concatenate([row["samples/input_ids"] for row in samples]), made.window)


def test_provenance_names_the_parent_by_its_fingerprint(made):
    for form, folder in made.forms.items():
        m, body = read_any_manifest(folder), json.loads(Path(folder, "croissant.json").read_text())
        assert m.parent is not None
        assert body["prov:wasDerivedFrom"] == [{"@id": f"urn:epochal:{m.parent.fingerprint}"}], form
        assert body["identifier"] == f"urn:epochal:{m.fingerprint}"


def test_what_is_known_of_the_text_is_in_the_fields_for_responsible_ai(made, croissant):
    metadata = croissant.Dataset(f"{made.forms['copy']}/croissant.json").metadata
    assert metadata.personal_sensitive_information == ["mail: names and <addresses>"]
    assert "collected 2019 to 2024" in metadata.data_collection
    assert metadata.license == ["CC-BY-4.0", "My Own"]
    assert metadata.in_language == ["en", "de"]
    assert "@misc" in metadata.cite_as


def test_columns_of_metadata_are_fields_of_their_type_whatever_their_names(made, croissant):
    m = read_any_manifest(made.forms["copy"])
    files = {name: info for name, info in m.files.items() if name not in ("README.md", "croissant.json", "SHA256SUMS")}
    kept = {"quality": "double", "a b/c#d": "string", "day": "timestamp[us]", "n": "uint32"}
    text = write_croissant(Subject(m, files, dict.fromkeys(files, "0" * 64), kept=kept))
    metadata = croissant.Dataset(json.loads(text)).metadata
    assert not metadata.ctx.issues.errors
    fields = {field.name: field.data_type.__name__ for field in metadata.record_sets[0].fields}
    read_as = {"quality": "float64", "a b/c#d": "bytes", "day": "Timestamp", "n": "int64"}
    assert {name: fields[name] for name in kept} == read_as
