"""Token ids as sources of a build: what was exported comes back as the pool that it was."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epochal.common.config import validate
from epochal.common.errors import RequestError, WorkError
from epochal.datapipe.build import build
from epochal.datapipe.config import Build, Source
from epochal.datapipe.sources import tokens
from epochal.datapipe.sources.tokens import cut_rows, file_documents
from epochal.shards.artifact import open_artifact, read_manifest
from epochal.shards.carve import carve
from epochal.shards.export import export
from epochal.shards.formats import arrow_tables, webdataset
from epochal.shards.formats.rows import Part
from epochal.shards.verify import verify
from epochal.tests.support.builds import settings, stream
from epochal.tests.support.corpora import real_documents, write_jsonl
from epochal.tests.support.pools import flip_bit
from epochal.tokenize.tokenizer import decoder, load_tokenizer

LAYOUTS = ["wds", "parquet", "megatron", "bin", "hf"]
EOD = 50256


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> str:
    """A pool of real text, with one document that needs all of Unicode; documents end in the middle of samples."""
    folder = tmp_path_factory.mktemp("pool")
    texts = [*real_documents(60, 700), "naïve 東京 🙂\u200d e\u0301 <|endoftext|> \ufffd", "x"]
    lines = [json.dumps({"id": f"d{i}", "text": text}).encode() for i, text in enumerate(texts)]
    glob = write_jsonl(folder / "in", lines, ["a.jsonl"])
    return build(settings(folder, glob, seed=5, samples_per_shard=16), quiet=True).pool


def imported(tmp_path: Path, source: dict, **more) -> str:
    source = {"name": "again", "tokenized": {"tokenizer": "gpt2"}} | source
    base = {"seed": 5, "samples_per_shard": 16, "deduplicate": {"near": None}}
    return build(settings(tmp_path, source, **(base | more)), quiet=True).pool


def check_same_pool(a: str, b: str) -> None:
    """Assert that two pools are one: fingerprint, shards byte for byte, keys and places of documents."""
    mine, theirs = read_manifest(a), read_manifest(b)
    assert mine.fingerprint == theirs.fingerprint
    assert mine.documents == theirs.documents
    for left, right in zip(open_artifact(a).shards, open_artifact(b).shards, strict=True):
        assert Path(left.path).read_bytes() == Path(right.path).read_bytes()
    columns = ["key", "start", "tokens"]
    assert pl.read_parquet(f"{a}/documents.parquet", columns=columns).equals(
        pl.read_parquet(f"{b}/documents.parquet", columns=columns)
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_import_of_an_export_gives_the_pool_it_came_from(pool, tmp_path, monkeypatch, layout):
    monkeypatch.setattr(webdataset, "SAMPLES_PER_FILE", 40)  # documents run on from one file to the next
    monkeypatch.setattr(arrow_tables, "GROUP_BYTES", 10 * 128)
    monkeypatch.setattr(arrow_tables, "FILE_BYTES", 40 * 128)
    monkeypatch.setattr(tokens, "PART_BYTES", 3_000)
    out, _ = export(pool, layout, str(tmp_path / "export"))
    path = f"{out}/text_document.bin" if layout == "megatron" else out
    again = imported(tmp_path, {"format": layout, "path": path}, tasks=3)
    check_same_pool(pool, again)
    assert verify(again) == []


def test_mds_itself_is_a_source_and_nothing_in_it_is_a_near_duplicate(pool, tmp_path):
    check_same_pool(pool, imported(tmp_path, {"format": "mds", "path": pool}, tasks=2, deduplicate={}))


def test_a_subset_gives_the_pool_of_its_documents_the_last_one_cut(pool, tmp_path):
    m = read_manifest(pool)
    view, _ = carve(pool, m.tokens // 2, out=str(tmp_path / "half"))
    found = {}
    for name, (layout, path) in {
        "mds": ("mds", view),
        "megatron": ("megatron", export(view, "megatron", str(tmp_path / "m"))[0]),
    }.items():
        again = imported(tmp_path, {"format": layout, "path": path}, name=name)
        found[name] = read_manifest(again).fingerprint
        assert read_manifest(again).documents == read_manifest(view).documents
        # Whole documents have their keys; the cut one lost its end, and got an EOD of its own.
        keys = [set(pl.read_parquet(f"{p}/documents.parquet")["key"]) for p in (pool, again)]
        assert len(keys[1] - keys[0]) == 1
        assert read_manifest(again).tokens == m.tokens // 2 + 1
    assert len(set(found.values())) == 1


def test_parquet_of_others_one_row_a_document_without_eod(pool, tmp_path):
    tokens = stream(pool)
    rows = [row[:-1].astype(np.int64) for row in np.split(tokens, np.flatnonzero(tokens == EOD) + 1)[:-1]]
    (tmp_path / "theirs").mkdir()
    for i in range(3):
        table = pa.table({"url": ["u"] * len(rows[i::3]), "tokens": rows[i::3]})
        pq.write_table(table, tmp_path / "theirs" / f"{i}.parquet")
    source = {"format": "parquet", "path": str(tmp_path / "theirs")}
    source["tokenized"] = {
        "tokenizer": read_manifest(pool).tokenizer.fingerprint,
        "column": "tokens",
        "documents": "rows",
    }
    check_same_pool(pool, imported(tmp_path, source, tasks=2))


def test_mds_of_others_through_streamings_own_writer(pool, tmp_path):
    from streaming import MDSWriter

    rows = stream(pool)
    for name, encoding, value in (
        ("arrays", "ndarray", lambda row: row.astype(np.int32)),
        ("bytes", "bytes", lambda row: row.astype(np.int64).tobytes()),
    ):
        with MDSWriter(out=str(tmp_path / name), columns={"ids": encoding}, size_limit=20_000) as writer:
            for i in range(0, len(rows), 100):
                writer.write({"ids": value(rows[i : i + 100])})
        tokenized = {"tokenizer": "gpt2", "column": "ids", "dtype": "int64"}
        source = {"format": "mds", "path": str(tmp_path / name), "tokenized": tokenized}
        check_same_pool(pool, imported(tmp_path, source, name=name, tasks=2))


def test_megatrons_own_form_several_sequences_a_document_and_no_eod(pool, tmp_path):
    """A .bin/.idx as preprocess_data.py writes it with --split-sentences and without --append-eod."""
    tokens = stream(pool)
    documents = [d[:-1].astype("<i4") for d in np.split(tokens, np.flatnonzero(tokens == EOD) + 1)[:-1]]
    sequences = [part for d in documents for part in np.array_split(d, min(3, len(d)))]
    bounds = np.cumsum([0] + [min(3, len(d)) for d in documents])
    sizes = np.array([len(s) for s in sequences], "<i4")
    head = b"MMIDIDX\x00\x00" + np.array([1], "<u8").tobytes() + bytes([4])
    head += np.array([len(sequences), len(bounds)], "<u8").tobytes()
    starts = 4 * (np.cumsum(sizes, dtype=np.int64) - sizes)
    (tmp_path / "t.idx").write_bytes(head + sizes.tobytes() + starts.tobytes() + bounds.astype("<i8").tobytes())
    (tmp_path / "t.bin").write_bytes(np.concatenate(sequences).tobytes())
    check_same_pool(pool, imported(tmp_path, {"format": "megatron", "path": str(tmp_path / "t.bin")}))


def test_what_cannot_be_used_is_a_reject_with_a_reason(tmp_path):
    good = load_tokenizer("gpt2").encode(["a document of some length", "another one"])
    bad = [[60_000, 1], [50257, 5], [447], [188, 5]]  # beyond the vocabulary, MASK, half a character, NUL
    ids = np.concatenate([np.append(d, EOD) for d in [good[0], *bad, good[1], [50258, 50258]]]).astype(np.uint16)
    ids.tofile(tmp_path / "train.bin")
    source = {"format": "bin", "path": str(tmp_path / "train.bin")}
    source["tokenized"] = {"tokenizer": "gpt2", "dtype": "uint16"}
    again = imported(tmp_path, source, max_reject_fraction=0.9)
    assert read_manifest(again).documents == 2
    rejects = pl.read_parquet(f"{again}/rejects.parquet")
    assert rejects["row"].to_list() == [1, 2, 3, 4]
    assert rejects["reason"].to_list() == [
        "ids outside the vocabulary",
        "ids outside the vocabulary",
        "not UTF-8",
        "NUL character",
    ]


def test_a_damaged_file_stops_the_build_with_its_name(pool, tmp_path):
    out, _ = export(pool, "megatron", str(tmp_path / "export"))
    path = Path(out, "text_document.bin")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(WorkError, match=r"text_document.bin has .* bytes, not"):
        imported(tmp_path, {"format": "megatron", "path": out})
    again, _ = export(pool, "parquet", str(tmp_path / "p"))
    with pytest.raises(WorkError, match="has no column 'tokens', only input_ids"):
        imported(tmp_path, {"format": "parquet", "path": again, "tokenized": {"tokenizer": "gpt2", "column": "tokens"}})


def test_a_flipped_bit_in_a_pool_stops_its_import_with_the_shards_name(pool, tmp_path):
    copy = shutil.copytree(pool, tmp_path / "copy")
    name = flip_bit(copy, 0)
    with pytest.raises(WorkError, match=f"{name} is damaged"):
        imported(tmp_path, {"format": "mds", "path": str(copy)})


def test_filters_look_at_the_decoded_text_and_what_they_change_is_encoded_again(pool, tmp_path):
    filters = [{"name": "LambdaFilter"}]
    with pytest.raises(RequestError):
        imported(tmp_path, {"format": "mds", "path": pool}, filters=filters)
    from datatrove.data import Document

    from epochal.datapipe.sources.tokens import given_ids

    ids = np.arange(3, dtype=np.uint32)
    document = Document(text="abc", id="", metadata={"_source": 0, "_tokenized": ("abc", ids)})
    assert given_ids([document])[0] is ids
    document.text = "ab"
    assert given_ids([document]) == [None]
    assert given_ids([Document(text="abc", id="")]) == [None]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"format": "bin", "path": "x", "tokenized": None}, "name their tokenizer"),
        ({"format": "jsonl", "path": "x"}, "leave tokenized out"),
        ({"format": "bin", "path": "x", "fraction": 0.5}, "token ids may run on"),
        ({"format": "bin", "path": "<out>"}, "ends in .bin"),
        ({"format": "mds", "path": "<in>"}, "no index.json"),
        ({"format": "bin", "path": "<out>/nothing"}, "does not exist"),
        ({"format": "bin", "path": "<bin>", "tokenized": {"tokenizer": "0" * 32}}, "the build's tokenizer is gpt2"),
        ({"format": "bin", "path": "<ordered>"}, "in the order of a plan"),
    ],
)
def test_wrong_requests(pool, tmp_path, source, message):
    paths = {"<out>": pool, "<in>": str(tmp_path)}
    if "<bin>" in source["path"] or "<ordered>" in source["path"]:
        paths["<bin>"] = export(pool, "bin", str(tmp_path / "bin"))[0]
        paths["<ordered>"] = export(pool, "bin", str(tmp_path / "ordered"), passes=2)[0]
    for name, path in paths.items():
        source = source | {"path": source["path"].replace(name, path)}
    with pytest.raises(RequestError, match=message):
        imported(tmp_path, source)


def test_another_special_id_in_the_manifest_is_refused(pool, tmp_path):
    with pytest.raises(RequestError, match="eod 50256, not 50255"):
        imported(tmp_path, {"format": "mds", "path": pool}, tokenizer={"name": "gpt2", "eod": "Ġgazed"})


def test_a_configuration_of_text_has_no_new_keys():
    """So a pool that was built before there were tokenized sources is still known as built."""
    keys = Source(path="x").model_dump(mode="json").keys()
    assert set(keys) == {"name", "format", "path", "text_key", "id_key", "limit", "fraction", "max_bytes"}
    config = validate(Build, {"name": "p", "sources": [{"path": "x"}]}, "test")
    assert Build.model_validate(config.model_dump()) == config


@pytest.mark.slow
def test_a_hub_data_set_through_datatroves_reader_any_number_of_tasks(tmp_path, monkeypatch):
    """`load_dataset` also takes a local folder, which is all that can be tried without a hub."""
    pytest.importorskip("datasets", reason="needs the extra `hf`")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    texts = [*real_documents(30, 400), "", None]
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table = pa.table({"id": [f"d{i}" for i in range(len(texts))], "text": texts})
    pq.write_table(table, tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    source = {"name": "h", "format": "hub", "path": str(tmp_path / "hub")}
    roots = [
        build(
            settings(
                tmp_path, source, name=f"t{tasks}", tasks=tasks, max_reject_fraction=0.1, deduplicate={"near": None}
            ),
            quiet=True,
        ).pool
        for tasks in (1, 2)
    ]
    check_same_pool(*roots)
    assert read_manifest(roots[0]).documents == 30
    for root in roots:
        assert pl.read_parquet(f"{root}/rejects.parquet").select("row", "reason").rows() == [
            (30, "empty"),
            (31, "'text' is null"),
        ]


def test_the_limit_of_a_hub_data_set_counts_rows_those_that_cannot_be_used_too(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="needs the extra `hf`")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table = pa.table({"text": [None, "", *real_documents(4, 400)]})
    pq.write_table(table, tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    source = {"name": "h", "format": "hub", "path": str(tmp_path / "hub"), "limit": 4}
    config = settings(tmp_path, source, tasks=2, max_reject_fraction=0.5, deduplicate={"near": None})
    manifest = read_manifest(build(config, quiet=True).pool)
    assert manifest.statistics["sources"]["h"]["rows"] == 4
    assert manifest.documents == 2


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 60), max_size=5), st.integers(1, 7))
def test_each_document_belongs_to_one_file_wherever_files_are_cut(stream, cuts, block):
    """0 is EOD. The documents of all files together are those of the whole stream."""
    ids = np.array(stream, np.int64)
    files = np.split(ids, sorted(c for c in cuts if c <= len(ids)))
    blocks = [[f[i : i + block] for i in range(0, len(f), block)] for f in files]
    found = [
        d.tolist()
        for i in range(len(files))
        for d in file_documents(blocks[i], (b for later in blocks[i + 1 :] for b in later), 0, i == 0)
    ]
    expected = [[int(c) for c in part] for part in "".join(map(str, stream)).split("0") if part]
    assert found == expected


@pytest.mark.slow
def test_decoding_undoes_encoding_and_tells_what_is_no_text():
    tokenizer = load_tokenizer("gpt2")
    decode = decoder(tokenizer)
    for text in ("plain", " sp aces \n\n\t", "naïve 東京 🙂\u200d", "\ufffd", "<|endoftext|>"):
        assert decode(tokenizer.encode([text])[0]) == text
    assert decode(tokenizer.encode(["東"])[0][:1]) is None


@given(st.lists(st.lists(st.integers(0, 2), max_size=8), min_size=1, max_size=12))
def test_a_row_ends_a_document_as_eod_does(rows):
    ids, lengths = np.array([i for row in rows for i in row], np.int64), np.array([len(row) for row in rows])
    found = [d.tolist() for d in cut_rows(ids, lengths, 0)]
    assert found == [[int(c) for c in part] for row in rows for part in "".join(map(str, row)).split("0") if part]


@pytest.mark.parametrize(("name", "key"), [("a.tar", "./%03d"), ("a.tar", "train.v1/%03d"), ("a.tar.gz", "%03d")])
def test_webdataset_keys_end_at_the_first_dot_of_a_files_name(tmp_path: Path, name: str, key: str) -> None:
    documents = [np.array([i, i + 1, EOD], np.uint16) for i in range(3)]
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as tar:
        for i, ids in enumerate(documents):
            data = io.BytesIO()
            np.save(data, ids)
            member = tarfile.TarInfo(f"{key % i}.tokens.npy")
            member.size = len(data.getvalue())
            tar.addfile(member, io.BytesIO(data.getvalue()))
    source = Source(name="s", format="wds", path=str(tmp_path), tokenized={"tokenizer": "gpt2"})
    assert [file.name for file in tokens.list_tokenized(0, source).files] == [name]
    read = [ids.tolist() for ids, _ in webdataset.read(str(tmp_path / name), Part())]
    assert read == [ids.tolist() for ids in documents]


def test_a_link_in_a_tar_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("000.tokens.npy")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ValueError, match=r"000\.tokens\.npy is a link"):
        list(webdataset.read(str(tmp_path / "a.tar"), Part()))


def test_files_that_datasets_keeps_for_itself_are_left_alone(tmp_path: Path) -> None:
    for name in ("data-00000-of-00001.arrow", "cache-0123.arrow"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    source = Source(name="s", format="hf", path=str(tmp_path), tokenized={"tokenizer": "gpt2"})
    assert [file.name for file in tokens.list_tokenized(0, source).files] == ["data-00000-of-00001.arrow"]
    (tmp_path / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(RequestError, match=r"data-00000-of-00001\.arrow, which state\.json lists, is missing"):
        tokens.list_tokenized(0, source)


@pytest.mark.parametrize(
    "state",
    [
        "{",
        "[]",
        "{}",
        '{"_data_files": null}',
        '{"_data_files": []}',
        '{"_data_files": [{"filename": 3}]}',
        '{"_data_files": [{"filename": "a.arrow"}], "_indices_data_files": [{"filename": "i.arrow"}]}',
    ],
)
def test_a_state_of_a_data_set_that_cannot_be_followed_is_refused(tmp_path: Path, state: str) -> None:
    (tmp_path / "a.arrow").write_bytes(b"")
    (tmp_path / "state.json").write_text(state)
    source = Source(name="s", format="hf", path=str(tmp_path), tokenized={"tokenizer": "gpt2"})
    with pytest.raises(RequestError, match=r"state\.json .* save it again"):
        tokens.list_tokenized(0, source)


def test_a_file_that_is_no_index_of_megatron_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(8))
    (tmp_path / "a.idx").write_bytes(b"TNTIDX")
    source = Source(name="s", format="megatron", path=str(tmp_path), tokenized={"tokenizer": "gpt2"})
    with pytest.raises(WorkError, match=r"source 's': a\.idx cannot be read: it is no index of Megatron-LM"):
        tokens.list_tokenized(0, source)


def test_bare_ids_that_end_early_are_noticed_by_their_manifest(pool, tmp_path):
    out, _ = export(pool, "bin", str(tmp_path / "export"))
    path = Path(out, "train.bin")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(WorkError, match=r"train.bin has .* bytes, not .*, as its manifest says: fetch it again"):
        imported(tmp_path, {"format": "bin", "path": str(path)})
