import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from epochal.__main__ import main
from epochal.common import storage
from epochal.common.errors import RequestError, WorkError
from epochal.shards import export as exporting
from epochal.shards.artifact import open_artifact, read_export
from epochal.shards.carve import carve
from epochal.shards.export import export
from epochal.shards.formats import arrow_tables
from epochal.shards.formats import webdataset as wds
from epochal.shards.formats.rows import Rows, TokenDigest, regroup
from epochal.shards.order.plan import Plan
from epochal.shards.verify import verify
from epochal.tests.support.pools import EOD, random_documents

LAYOUTS = ["wds", "parquet", "megatron", "bin", "hf"]
N = 2001  # no multiple of 16: the last sample is padded


@pytest.fixture
def subset(make_pool):
    """Return a subset of N tokens of a pool of 3001, and its tokens."""
    tokens = random_documents(3001)
    return carve(str(make_pool(tokens)), N)[0], tokens[:N]


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Have several files of several groups in every export."""
    monkeypatch.setattr(wds, "SAMPLES_PER_FILE", 50)
    monkeypatch.setattr(arrow_tables, "GROUP_BYTES", 10 * 32)
    monkeypatch.setattr(arrow_tables, "FILE_BYTES", 3 * 10 * 32)


def ordered(subset, passes, seed=0, policy="reshuffle"):
    """Return the tokens of each row in a plan's order, by the definition."""
    path, tokens = subset
    plan = Plan.for_artifact(open_artifact(path).manifest, passes * N, seed, policy)
    return [tokens[i * 16 : i * 16 + 16] for i in plan.ids(range(plan.positions)).astype(int)]


# -- each format's own, unmodified reader ---------------------------------------------------------------------------


def by_webdataset(folder):
    import webdataset

    urls = sorted(str(path) for path in Path(folder).glob("*.tar"))
    assert len(urls) > 1
    return [s["tokens.npy"] for s in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode()]


def by_polars(folder):
    import polars

    return [row.to_numpy() for row in polars.read_parquet(f"{folder}/data")["input_ids"]]


def by_pyarrow(folder):
    return [row.values.to_numpy() for row in pq.read_table(f"{folder}/data", columns=["input_ids"])["input_ids"]]


def by_load_dataset(folder, cache):
    datasets = pytest.importorskip("datasets", reason="needs the extra `hf`")
    loaded = datasets.load_dataset(folder, cache_dir=str(cache))
    assert list(loaded) == ["train"]
    return loaded["train"].with_format("numpy")["input_ids"]


def by_load_from_disk(folder):
    datasets = pytest.importorskip("datasets", reason="needs the extra `hf`")
    return datasets.load_from_disk(folder).with_format("numpy")["input_ids"]


def by_nanogpt(folder):
    return [np.memmap(f"{folder}/train.bin", dtype=np.uint16, mode="r")]


def by_megatron(folder):
    reason = "megatron-core is not installed: pip install megatron-core and put it on PYTHONPATH"
    reader = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason=reason)
    found = reader.IndexedDataset(f"{folder}/text_document")
    assert found.document_indices.tolist() == list(range(len(found) + 1))
    return [np.array(found[i]) for i in range(len(found))]


READERS = [
    ("wds", by_webdataset),
    ("parquet", by_polars),
    ("parquet", by_pyarrow),
    ("hf", by_load_from_disk),
    ("bin", by_nanogpt),
    ("megatron", by_megatron),
]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "read"), READERS, ids=[read.__name__ for _, read in READERS])
def test_the_formats_own_reader_gets_the_subset_token_for_token(subset, tmp_path, layout, read):
    path, tokens = subset
    out, _ = export(path, layout, str(tmp_path / "plain"))
    np.testing.assert_array_equal(np.concatenate(read(out)), tokens)
    again, _ = export(path, layout, str(tmp_path / "ordered"), passes=3, seed=5)
    np.testing.assert_array_equal(np.concatenate(read(again)), np.concatenate(ordered(subset, 3, 5)))
    if layout not in ("bin", "megatron"):
        assert [len(row) for row in read(out)] == [16] * 125 + [1]
    if layout not in ("bin",):
        assert [len(row) for row in read(again)] == [len(row) for row in ordered(subset, 3, 5)]
    assert verify(out) == verify(again) == []


def test_load_dataset_finds_the_split_in_the_folder(subset, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out, _ = export(subset[0], "parquet", str(tmp_path / "x"))
    np.testing.assert_array_equal(np.concatenate(by_load_dataset(out, tmp_path / "cache")), subset[1])


def test_megatron_gets_one_sequence_for_each_document(subset, tmp_path):
    path, tokens = subset
    export(path, "megatron", str(tmp_path / "x"))
    index = (tmp_path / "x" / "text_document.idx").read_bytes()
    n = open_artifact(path).manifest.documents
    assert index[:9] == b"MMIDIDX\x00\x00"
    assert np.frombuffer(index[9:17], "<u8") == 1
    assert index[17] == 8  # uint16
    assert np.frombuffer(index[18:34], "<u8").tolist() == [n, n + 1]
    ends = np.flatnonzero(tokens == EOD) + 1
    expected = np.diff([0, *ends, *([N] if ends[-1] < N else [])])
    sizes = np.frombuffer(index[34:], "<i4", n)
    np.testing.assert_array_equal(sizes, expected)
    starts = np.frombuffer(index[34 + 4 * n :], "<i8", n)
    np.testing.assert_array_equal(starts, 2 * (np.cumsum(expected) - expected))
    np.testing.assert_array_equal(np.frombuffer(index[34 + 12 * n :], "<i8"), np.arange(n + 1))
    np.testing.assert_array_equal(np.fromfile(tmp_path / "x" / "text_document.bin", "<u2"), tokens)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_digest_does_not_depend_on_the_format_and_bytes_not_on_the_time(subset, tmp_path, layout):
    a, b = (export(subset[0], layout, str(tmp_path / name))[0] for name in "ab")
    expected = TokenDigest("uint16")
    expected.add(subset[1])
    assert read_export(a).token_digest == expected.hexdigest()
    for name in read_export(a).files:
        assert Path(a, name).read_bytes() == Path(b, name).read_bytes()


def test_the_token_digest_is_what_the_documentation_defines():
    digest = TokenDigest("uint16")
    digest.add(np.array([1, 2], np.int64))
    digest.add(np.array([50256], np.uint32))
    assert digest.hexdigest() == "732f6d80f1bdb7b0be77dc0cee0ecbd0"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_vocabulary_of_more_than_16_bits(make_pool, tmp_path, layout, capsys):
    pool = make_pool(random_documents(700), dtype="uint32")
    assert main(["export", str(pool), "--format", layout, "--out", str(tmp_path / "x")]) == 0
    assert ("uint32" in capsys.readouterr().out) == (layout == "bin")
    assert verify(str(tmp_path / "x")) == []
    if layout == "megatron":
        assert (tmp_path / "x" / "text_document.idx").read_bytes()[17] == 4  # int32: Megatron knows no uint32


# -- verification ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_verify_notices_every_changed_file(subset, tmp_path, layout):
    out, _ = export(subset[0], layout, str(tmp_path / "x"))
    for name in ["manifest.json", *read_export(out).files]:
        path = Path(out, name)
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        assert verify(out), name
        path.unlink()
        if name != "manifest.json":
            assert any(name in problem for problem in verify(out))
        path.write_bytes(data)
    assert verify(out) == []


def forge(out, **changes):
    """Make the manifest at `out` vouch for the files as they are now, with `changes` and a fingerprint that fits."""
    from epochal.common.publish import FileInfo
    from epochal.shards.manifest import dump_manifest, export_fingerprint

    m = read_export(out)
    files = {name: FileInfo(**dict(zip(("bytes", "xxh64"), storage.file_digest(f"{out}/{name}"), strict=True)))
             for name in m.files}  # fmt: skip
    m = m.model_copy(update={"files": files} | changes)
    m = m.model_copy(update={"fingerprint": export_fingerprint(m)})
    Path(out, "manifest.json").write_text(dump_manifest(m))


def test_verify_compares_tokens_and_not_only_files(subset, tmp_path, capsys):
    path, tokens = subset
    out, _ = export(path, "bin", str(tmp_path / "x"))
    changed = tokens.copy()
    changed[7] ^= 1
    changed.tofile(f"{out}/train.bin")
    forge(out)
    assert verify(out) == ["its tokens are not those that the manifest states"]
    digest = TokenDigest("uint16")
    digest.add(changed)
    forge(out, token_digest=digest.hexdigest())
    assert verify(out) == [f"its tokens are not those of {path}"]  # a manifest that lies: the subset tells
    changed[:-1].tofile(f"{out}/train.bin")
    forge(out)
    assert verify(out)[0] == "its files hold 2,000 tokens, not the 2,001 that the manifest states"
    tokens.tofile(f"{out}/train.bin")
    forge(out, token_digest=read_export(export(path, "hf", str(tmp_path / "y"))[0]).token_digest)
    assert main(["verify", out]) == 0
    assert f"whole: {out}  (equal to toy-2001)" in capsys.readouterr().out


def test_an_export_away_from_its_subset_is_still_checked_against_its_record(subset, tmp_path, capsys):
    out, _ = export(subset[0], "bin", str(tmp_path / "x"))
    Path(out).rename(tmp_path / "moved" if (tmp_path / "moved").mkdir() else tmp_path / "moved" / "x")
    moved = str(tmp_path / "moved" / "x")
    assert main(["verify", moved]) == 0
    assert "its subset is not at hand" in capsys.readouterr().out


def test_verify_refuses_an_index_that_cuts_documents_elsewhere(subset, tmp_path):
    out, _ = export(subset[0], "megatron", str(tmp_path / "x"))
    path = Path(out, "text_document.idx")
    index = bytearray(path.read_bytes())
    n = open_artifact(subset[0]).manifest.documents
    sizes = np.frombuffer(index, "<i4", n, 34)
    sizes[0], sizes[1] = sizes[0] + 1, sizes[1] - 1
    np.frombuffer(index, "<i8", n, 34 + 4 * n)[1] += 2
    path.write_bytes(index)
    forge(out)
    assert verify(out) == ["megatron: it cannot be read: its documents are not those that end with EOD"]


# -- publishing -----------------------------------------------------------------------------------------------------


def test_the_same_export_is_left_alone_and_another_refused(subset, tmp_path):
    out, new = export(subset[0], "bin", str(tmp_path / "x"))
    assert new
    assert export(subset[0], "bin", out) == (out, False)
    for again in ({"passes": 1}, {"layout": "hf"}):
        with pytest.raises(RequestError, match="holds something else"):
            export(**({"subset": subset[0], "layout": "bin", "out": out} | again))
    (tmp_path / "mine").mkdir()
    with pytest.raises(RequestError, match="holds something else"):
        export(subset[0], "bin", str(tmp_path / "mine"))


def test_an_export_from_a_damaged_shard_leaves_nothing(subset, tmp_path):
    shard = Path(open_artifact(subset[0]).shards[3].path)
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for layout in LAYOUTS:
        for passes in (None, 2):
            with pytest.raises(WorkError, match="damaged"):
                export(subset[0], layout, str(tmp_path / "out" / layout), passes)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_to_a_url_is_published_by_its_manifest(subset, tmp_path, layout):
    out = f"memory://exports-{layout}/x"
    local, _ = export(subset[0], layout, str(tmp_path / "x"))
    assert export(subset[0], layout, out) == (out, True)
    assert verify(out) == []
    assert read_export(out).token_digest == read_export(local).token_digest
    for name in read_export(local).files:
        assert storage.read_bytes(f"{out}/{name}") == Path(local, name).read_bytes()
    assert not storage.exists(f"{out}/unfinished")


def test_a_killed_export_to_a_url_is_begun_again_and_a_strangers_folder_kept(subset, monkeypatch):
    def dies(sink, rows, *rest):
        with sink.create("train.bin") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    out = "memory://killed/x"
    monkeypatch.setitem(exporting.FORMATS, "bin", SimpleNamespace(write=dies, rows_per_file=lambda subset: None))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", lambda path: None)  # as when the process is killed
        with pytest.raises(KeyboardInterrupt):
            export(subset[0], "bin", out)
    assert storage.exists(f"{out}/train.bin")
    with pytest.raises(RequestError, match="no artifact"):
        read_export(out)
    monkeypatch.undo()
    with pytest.raises(RequestError, match="something else"):
        export(subset[0], "hf", out)
    assert export(subset[0], "bin", out)[1]
    assert verify(out) == []
    with storage.open_write("memory://stranger/x/theirs.txt") as file:
        file.write(b"theirs")
    with pytest.raises(RequestError, match="something else"):
        export(subset[0], "bin", "memory://stranger/x")


# -- the command ----------------------------------------------------------------------------------------------------


def test_show_and_json(subset, tmp_path, capsys):
    out = str(tmp_path / "x")
    words = ["export", subset[0], "--format", "parquet", "--out", out, "--order", "--passes", "2", "--seed", "3"]
    assert main([*words, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    keys = ("kind", "name", "tokens", "samples", "documents", "seq_len", "format", "passes")
    assert [described[k] for k in keys] == [
        "export", "toy-2001", 2 * N, 252, open_artifact(subset[0]).manifest.documents, 16, "parquet", 2,
    ]  # fmt: skip
    assert main(["show", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == described
    assert main(["show", out]) == 0
    assert "reshuffle, seed 3, plan" in capsys.readouterr().out
    assert main(words) == 0
    assert "already there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--passes", "2"], "--passes is for --order"),
        (["--seed", "0"], "--seed is for --order"),
        (["--order", "--passes", "0"], "--passes must be at least 1"),
    ],
)
def test_a_wrong_request_is_one_line(subset, tmp_path, capsys, words, message):
    assert main(["export", subset[0], "--format", "bin", "--out", str(tmp_path / "x"), *words]) == 2
    assert message in capsys.readouterr().err


def test_an_export_is_no_subset(subset, tmp_path, capsys):
    out, _ = export(subset[0], "bin", str(tmp_path / "x"))
    assert main(["plan", out, "--epochs", "2", "--batch-tokens", "32"]) == 2
    assert "is an export (bin), not a pool or subset" in capsys.readouterr().err


@pytest.mark.parametrize("n", [1, 3, 7, 100])
def test_regrouping_keeps_every_row(n):
    rng = np.random.default_rng(n)
    blocks = [Rows(rng.integers(0, 9, (k, 4), np.uint16), rng.integers(1, 5, k)) for k in (5, 1, 12, 3)]
    groups = list(regroup(iter(blocks), n))
    assert [len(g) for g in groups[:-1]] == [n] * (len(groups) - 1)
    np.testing.assert_array_equal(
        np.concatenate([g.flat() for g in groups]), np.concatenate([b.flat() for b in blocks])
    )
    np.testing.assert_array_equal(
        np.concatenate([g.tokens for g in groups]), np.concatenate([b.tokens for b in blocks])
    )
