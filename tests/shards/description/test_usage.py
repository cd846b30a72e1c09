"""Every program in every card runs and gives the tokens or documents that are there; `load_dataset` does, by itself."""

import contextlib
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from epochal.datapipe.build import build
from epochal.shards.export import export
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents
from epochal.tests.support.pools import EOD

FORMS = ["view", "copy", "wds", "wds export", "parquet export", "megatron export", "bin export", "hf export"]
BLOCK = re.compile(r"\*\*(.+?)\*\*\n\n```python\n(.+?)\n```", re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def documents_of(made, form):
    """Return (id, start) of the documents that the form holds, by the definition."""
    ends = np.flatnonzero(made.tokens == EOD) + 1
    starts = np.concatenate([[0], ends[:-1]])
    inside = np.flatnonzero((ends > made.start) & (starts < made.start + len(made.window)))
    if form == "view":
        return [(f"doc{i}", int(starts[i])) for i in inside]
    return [(f"doc{i}", int(max(starts[i] - made.start, 0))) for i in inside]


def first_row(made, form):
    """Return the tokens that a program for one row should give."""
    if form.startswith("megatron"):
        return made.window[: int(np.flatnonzero(made.window == EOD)[0]) + 1]
    return made.window[:16]


@pytest.mark.parametrize("form", FORMS)
def test_the_programs_of_a_card_run_and_give_what_is_there(made, form, monkeypatch, offline):
    folder = made.forms[form]
    programs = BLOCK.findall(Path(folder, "README.md").read_text())
    assert len(programs) >= 5
    monkeypatch.chdir(folder)
    for tool, code in programs:
        if "megatron.core" in code and importlib.util.find_spec("megatron") is None:
            continue
        known: dict = {}
        exec(code, known)
        if "problems" in known:
            assert known["problems"] == []
        elif "documents" in known:
            rows = known["documents"]
            found = zip(rows["id"], rows["start"], strict=True)
            assert list(found) == documents_of(made, form), tool
        elif tool.startswith("epochal"):
            assert known["tokens"].shape == (4, 16)
        else:
            np.testing.assert_array_equal(np.asarray(known["tokens"]), first_row(made, form), tool)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "hf export"])
@pytest.mark.parametrize("streaming", [False, True])
def test_load_dataset_gives_exactly_the_samples_or_documents(made, form, streaming, offline):
    from datasets import load_dataset

    loaded = load_dataset(made.forms[form], streaming=streaming)
    assert list(loaded) == ["train"]
    rows = list(loaded["train"])
    if "id" in rows[0]:
        assert [(row["id"], row["start"]) for row in rows] == documents_of(made, form)
        return
    column = "input_ids" if "input_ids" in rows[0] else "tokens.npy"
    tokens = np.concatenate([row[column] for row in rows])
    np.testing.assert_array_equal(tokens[: len(made.window)], made.window)
    assert (tokens[len(made.window) :] == 257).all()  # PAD, which a subset in tar files keeps
    assert len(rows) == 126


def test_load_dataset_reads_every_table_of_a_pool_that_has_rows(tmp_path, offline):
    from datasets import get_dataset_config_names, load_dataset

    texts = real_documents(30)
    lines = [json.dumps({"text": text, "id": f"d{i}"}) for i, text in enumerate([*texts, texts[0]])]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, "[1]"]))
    pool = build(settings(tmp_path, str(tmp_path / "a.jsonl"), max_reject_fraction=1), quiet=True).pool
    assert sorted(load_dataset(pool)["train"]["id"]) == sorted(f"d{i}" for i in range(30))
    assert sorted(get_dataset_config_names(pool)) == ["documents", "duplicates", "rejects"]
    (copy,) = load_dataset(pool, "duplicates")["train"]
    assert {copy["id"], copy["survivor_id"]} == {"d0", "d30"}
    assert copy["key"] == copy["survivor_key"]
    assert len(load_dataset(pool, "rejects")["train"]) == 1
    known: dict = {}
    with contextlib.chdir(pool):
        for tool, code in BLOCK.findall(Path("README.md").read_text()):
            exec(code, known)
            assert known["tokens"].shape[-1] == 64, tool
    assert len(known["documents"]) == 30


def test_a_folder_of_arrow_files_refers_to_the_function_that_reads_it(made, offline):
    from datasets import load_dataset

    with pytest.raises(ValueError, match="load_from_disk"):
        load_dataset(made.forms["hf export"])


@pytest.mark.parametrize("layout", ["megatron", "bin"])
def test_where_there_are_no_rows_the_error_names_the_command(made, tmp_path, layout, offline):
    from datasets import load_dataset

    folder, _ = export(made.forms["view"], layout, str(tmp_path / layout), passes=2)
    with pytest.raises(FileNotFoundError, match="epochal export SUBSET --format parquet --out NEW"):
        load_dataset(folder)
    with contextlib.chdir(folder):
        for _, code in BLOCK.findall(Path("README.md").read_text()):
            if "megatron.core" not in code:
                known: dict = {}
                exec(code, known)
                assert known.get("problems") == [] or len(known["tokens"]) == 16
