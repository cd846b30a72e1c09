import dataclasses
import filecmp
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from epochal.common.errors import RequestError, WorkError
from epochal.datapipe.build import build
from epochal.shards.artifact import open_artifact, read_manifest
from epochal.shards.carve import carve
from epochal.shards.manifest import Manifest
from epochal.shards.verify import verify
from epochal.tests.support.builds import same_files, settings, stream
from epochal.tests.support.corpora import HELLASWAG, Planted, planted, real_documents, write_jsonl
from epochal.tokenize.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def corpus() -> Planted:
    return planted()


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("evaluation") / "hellaswag.jsonl"
    path.write_text(json.dumps(HELLASWAG) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def built(corpus, evaluation, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("built")
    glob = write_jsonl(tmp_path / "in", corpus.lines, ["a.jsonl"])
    config = settings(
        tmp_path, glob, validation_tokens=20_000, decontaminate={"files": [evaluation]}, max_reject_fraction=0.02
    )
    return build(config, quiet=True), config


@pytest.mark.slow
def test_a_planted_corpus_comes_out_as_planted(built, corpus):
    pool, validation = built[0].pool, built[0].validation
    duplicates = pl.read_parquet(f"{pool}/duplicates.parquet")
    twins = {frozenset(pair) for pair in [*corpus.exact.items(), *corpus.near.items()]}
    assert {frozenset(pair) for pair in duplicates.select("id", "survivor_id").rows()} == twins
    kinds = dict(duplicates.select("id", "kind").rows())
    assert {k for k, kind in kinds.items() if kind == "exact"} <= set(corpus.exact) | set(corpus.exact.values())
    assert sorted(kinds.values()) == ["exact"] * 10 + ["near"] * 10
    near = duplicates.filter(pl.col("kind") == "near")
    assert near["similarity"].min() > 0.8
    assert near["similarity"].max() < 1.0
    assert duplicates.filter(pl.col("kind") == "exact")["similarity"].to_list() == [1.0] * 10

    contaminated = pl.read_parquet(f"{pool}/contaminated.parquet")
    assert contaminated["id"].to_list() == [corpus.contaminated]
    assert contaminated["evaluation_file"].to_list() == ["hellaswag.jsonl"]
    assert len(contaminated["ngram"][0].split()) == 13

    rejects = pl.read_parquet(f"{pool}/rejects.parquet")
    assert len(rejects) == corpus.malformed
    expected = {"bad JSON", "no field 'text'", "'text' is int, not text", "lone surrogate"}
    assert set(rejects["reason"]) <= expected
    rows = {json.loads(line)["id"] for i, line in enumerate(corpus.lines) if i not in set(rejects["row"])}
    kept = [pl.read_parquet(f"{p}/documents.parquet")["id"].to_list() for p in (pool, validation)]
    assert sorted(kept[0] + kept[1]) == sorted(rows - set(duplicates["id"]) - {corpus.contaminated})


@pytest.mark.slow
def test_pool_and_validation_are_whole_and_hold_the_documents_they_list(built, corpus):
    texts = {row.get("id"): row["text"] for row in _rows(corpus)}
    tokenizer = load_tokenizer("gpt2")
    for root in (built[0].pool, built[0].validation):
        assert verify(root) == []
        tokens = stream(root)
        for key, identifier, start, n in (
            pl.read_parquet(f"{root}/documents.parquet").select("key", "id", "start", "tokens").rows()
        ):
            assert tokens[start + n - 1] == tokenizer.info.eod
            assert (
                tokenizer.decode(tokens[start : start + n].tolist()) == texts[identifier].replace("\r\n", "\n").strip()
            )
            assert len(key) == 16
    assert 20_000 <= read_manifest(built[0].validation).tokens < 25_000


def _rows(corpus: Planted):
    for line in corpus.lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row.get("text"), str):
            yield row


def test_the_waterfall_adds_up(built):
    statistics = read_manifest(built[0].pool).statistics
    steps = statistics["waterfall"]
    at = {step["step"]: step for step in steps}
    before = steps[: steps.index(at["encoded"])]
    after = steps[steps.index(at["encoded"]) : -1]
    assert sum(s["documents"] for s in before) == at["encoded"]["documents"]
    for unit in ("documents", "tokens"):
        assert sum(s[unit] for s in after) == at["pool"][unit]
    assert at["pool"]["tokens"] == read_manifest(built[0].pool).tokens


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "names"), [(2, ["a.jsonl"]), (7, ["z.jsonl", "b.jsonl.gz", "c.jsonl"]), (3, ["q.jsonl", "r.jsonl"])]
)
def test_bytes_do_not_depend_on_tasks_or_on_how_the_input_is_cut_and_named(
    built, corpus, evaluation, tmp_path, tasks, names
):
    lines = list(corpus.lines)
    random.Random(tasks).shuffle(lines)
    glob = write_jsonl(tmp_path / "in", lines, names)
    config = built[1].model_copy(
        update={
            "out": str(tmp_path / "out"),
            "tasks": tasks,
            "sources": [built[1].sources[0].model_copy(update={"path": glob})],
        }
    )
    other = build(config, quiet=True)
    # rejects.parquet names files and rows; the report shows it, the others have its hash or the source's path.
    hashes = {"manifest.json", "croissant.json", "SHA256SUMS"}
    assert same_files(built[0].pool, other.pool, but={"rejects.parquet", "report.html"} | hashes)
    assert same_files(built[0].validation, other.validation, but={"manifest.json"})
    a, b = read_manifest(built[0].pool), read_manifest(other.pool)
    assert (a.fingerprint, a.statistics) == (b.fingerprint, b.statistics)


@pytest.mark.processes
def test_every_byte_is_equal_for_another_number_of_tasks_and_workers(built, tmp_path):
    config = built[1].model_copy(update={"out": str(tmp_path / "out"), "tasks": 5, "workers": 2})
    other = build(config, quiet=True)
    assert same_files(built[0].pool, other.pool)
    assert same_files(built[0].validation, other.validation)


@pytest.mark.slow
def test_partitions_runs_and_shard_size_change_no_token(built, tmp_path, monkeypatch):
    monkeypatch.setattr("epochal.datapipe.build.PARTITION_BYTES", 40_000)
    monkeypatch.setattr("epochal.datapipe.build.RUN_BYTES", 100_000)
    config = built[1].model_copy(update={"out": str(tmp_path / "out"), "samples_per_shard": 7, "tasks": 3})
    other = build(config, quiet=True)
    np.testing.assert_array_equal(stream(built[0].pool), stream(other.pool))
    assert filecmp.cmp(f"{built[0].pool}/documents.parquet", f"{other.pool}/documents.parquet", shallow=False)
    assert {s.samples for s in open_artifact(other.pool).shards[:-1]} == {7}


@pytest.mark.slow
def test_parts_whose_maps_are_not_kept_open_give_the_same_bytes(built, tmp_path, monkeypatch):
    monkeypatch.setattr("epochal.datapipe.stages.division.KEPT_PARTS", 1)
    other = build(built[1].model_copy(update={"out": str(tmp_path / "out"), "tasks": 3}), quiet=True)
    assert same_files(built[0].pool, other.pool)
    assert same_files(built[0].validation, other.validation)


@pytest.mark.slow
def test_another_seed_gives_another_order_of_the_same_documents(built, tmp_path):
    config = built[1].model_copy(update={"out": str(tmp_path / "out"), "seed": 1, "validation_tokens": 0})
    other = build(config, quiet=True).pool
    mine = pl.read_parquet(f"{built[0].pool}/documents.parquet")["key"].to_list()
    theirs = pl.read_parquet(f"{other}/documents.parquet")["key"].to_list()
    assert set(mine) < set(theirs)
    assert mine != [key for key in theirs if key in set(mine)]


@pytest.mark.slow
def test_a_second_build_is_a_no_op_and_another_request_for_the_same_place_is_refused(built):
    result, config = built
    stamp = os.stat(f"{result.pool}/manifest.json").st_mtime_ns
    assert not build(config, quiet=True).new
    assert not build(config.model_copy(update={"tasks": 4}), quiet=True).new
    assert os.stat(f"{result.pool}/manifest.json").st_mtime_ns == stamp
    with pytest.raises(RequestError, match=r"was built with seed=\d, which is 5 now"):
        build(config.model_copy(update={"seed": 5}), quiet=True)


def test_something_else_at_the_target_is_left_alone(corpus, tmp_path):
    config = settings(tmp_path, write_jsonl(tmp_path / "in", corpus.lines[:30], ["a.jsonl"]))
    target = tmp_path / "out" / "pools" / "p"
    target.mkdir(parents=True)
    (target / "notes.txt").write_text("keep me")
    with pytest.raises(RequestError, match="is not an artifact"):
        build(config, quiet=True)
    assert (target / "notes.txt").read_text() == "keep me"


@pytest.mark.slow
def test_too_many_rejects_stop_the_build_and_say_why(tmp_path):
    lines = [json.dumps({"text": text}).encode() for text in real_documents(20)] + [b'{"txt": "x"}'] * 3
    config = settings(tmp_path, write_jsonl(tmp_path / "in", lines, ["a.jsonl"]))
    with pytest.raises(WorkError, match=r"3 of 23 rows cannot be used.*no field 'text', 3 times"):
        build(config, quiet=True)
    assert not (tmp_path / "out" / "pools" / "p").exists()
    allowed = config.model_copy(update={"max_reject_fraction": 0.2})
    assert read_manifest(build(allowed, quiet=True).pool).documents == 20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "text", "jsonl.zst"])
def test_formats_give_the_same_pool(tmp_path, kind):
    texts = real_documents(30)
    rows = [{"text": text, "id": f"{i:02d}.txt"} for i, text in enumerate(texts)]
    folder = tmp_path / "in"
    jsonl = settings(tmp_path, write_jsonl(folder / "a", [json.dumps(r).encode() for r in rows], ["x.jsonl"]))
    other = folder / "b"
    other.mkdir()
    if kind == "parquet":
        pl.DataFrame(rows).write_parquet(other / "x.parquet")
    elif kind == "text":
        for row in rows:
            (other / row["id"]).write_text(row["text"])
    else:
        import zstandard

        data = b"\n".join(json.dumps(r).encode() for r in rows)
        (other / "x.jsonl.zst").write_bytes(zstandard.compress(data))
    source = {"name": "s", "path": str(other), "format": kind.split(".")[0]}
    config = settings(tmp_path, source, out=str(tmp_path / "out2"))
    a, b = build(jsonl, quiet=True).pool, build(config, quiet=True).pool
    # These say the source's format and path, or have the hash of one that does.
    assert same_files(a, b, but={"manifest.json", "report.html", "README.md", "croissant.json", "SHA256SUMS"})


@pytest.mark.slow
def test_a_limit_takes_the_first_rows_whatever_the_number_of_tasks(tmp_path):
    lines = [json.dumps({"text": text, "id": f"d{i}"}).encode() for i, text in enumerate(real_documents(40))]
    glob = write_jsonl(tmp_path / "in", lines, ["a.jsonl", "b.jsonl", "c.jsonl"])
    ids = []
    for tasks in (1, 4):
        source = {"name": "s", "path": glob, "limit": 20}
        config = settings(tmp_path, source, out=str(tmp_path / f"out{tasks}"), tasks=tasks)
        ids.append(pl.read_parquet(f"{build(config, quiet=True).pool}/documents.parquet")["id"].to_list())
    assert ids[0] == ids[1]
    assert sorted(ids[0]) == sorted([f"d{i}" for i in range(0, 40, 3)] + [f"d{i}" for i in range(1, 19, 3)])


@pytest.mark.slow
def test_filters_run_by_name_and_account_for_what_they_remove(tmp_path):
    lines = [json.dumps({"text": text}).encode() for text in real_documents(30)]
    n = sum(b"import" in line for line in lines)
    config = settings(
        tmp_path,
        write_jsonl(tmp_path / "in", lines, ["a.jsonl", "b.jsonl"]),
        filters=[{"name": "RegexFilter", "regex_exp": "import"}],
        tasks=2,
    )
    m = read_manifest(build(config, quiet=True).pool)
    assert m.documents == 30 - n
    (row,) = m.statistics["filters"]
    assert (row["name"], row["seen"], row["removed"]) == ("RegexFilter", 30, n)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"name": "GopherQualityFiltre"}, "did you mean 'GopherQualityFilter'"),
        ({"name": "RegexFilter", "regex": "x"}, "did you mean 'regex_exp'"),
        ({"name": "LambdaFilter"}, "cannot be used"),
        ({"name": "SamplerFilter", "rate": 0.5}, "depends on reading order"),
    ],
)
def test_wrong_filters_are_refused_with_the_nearest_known(tmp_path, chosen, message):
    glob = write_jsonl(tmp_path / "in", [b'{"text": "x"}'], ["a.jsonl"])
    with pytest.raises(RequestError, match=message):
        build(settings(tmp_path, glob, filters=[chosen]), quiet=True)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"validation_token": 5}, "did you mean 'validation_tokens'"),
        ({"seq_len": "long"}, "seq_len"),
        ({"validation_tokens": "1.5"}, "not a whole number"),
        ({"name": "../x"}, "name"),
        ({"sources": []}, "sources"),
        ({"sources": [{"name": "a", "pth": "x"}]}, "did you mean 'sources.0.path'"),
        ({"sources": [{"name": "a"}]}, "needs a path"),
        ({"sources": [{"name": "a", "path": "x"}, {"name": "a", "path": "y"}]}, "two sources are named 'a'"),
    ],
)
def test_wrong_configurations_are_refused_in_one_line(tmp_path, more, message):
    with pytest.raises(RequestError, match=message) as error:
        settings(tmp_path, "x", **more)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_missing_input_and_greedy_validation_are_refused(tmp_path):
    with pytest.raises(RequestError, match="does not exist or holds no file"):
        build(settings(tmp_path, str(tmp_path / "nowhere")), quiet=True)
    glob = write_jsonl(tmp_path / "in", [b'{"text": "a few words"}'], ["a.jsonl"])
    with pytest.raises(RequestError, match="there are only 4 tokens"):
        build(settings(tmp_path, glob, validation_tokens=100), quiet=True)


@pytest.mark.slow
def test_an_engine_that_differs_is_announced_and_replaced_by_the_reference(built, tmp_path, monkeypatch):
    from epochal.tokenize import tokenizer as module

    exact = module.fast_engine

    def every_piece_is_1(pieces):
        return (np.ones(len(pieces), np.uint32),) * 2

    def wrong(spec):
        return dataclasses.replace(exact(spec), encode_pieces=every_piece_is_1)

    monkeypatch.setattr(module, "fast_engine", wrong)
    monkeypatch.setattr(module, "_gpt2", module._gpt2.__wrapped__)  # made anew, and not kept for others
    said: list[str] = []
    config = built[1].model_copy(update={"out": str(tmp_path / "out")})
    other = build(config, quiet=True, say=said.append)
    assert "Hugging Face tokenizers" in said[0]
    np.testing.assert_array_equal(stream(built[0].pool), stream(other.pool))


@pytest.mark.processes
def test_a_build_killed_at_any_moment_and_run_again_gives_the_same_bytes(built, tmp_path):
    out = tmp_path / "out"
    config = tmp_path / "c.json"
    config.write_text(json.dumps(built[1].model_dump(mode="json") | {"out": str(out), "tasks": 3, "workers": 2}))
    command = [sys.executable, "-m", "epochal", "build", str(config), "--quiet"]
    rng = random.Random(3)
    kills = 0
    while not (out / "pools" / ".p.request.json").exists() or kills < 4:
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, cwd=tmp_path)
        time.sleep(rng.uniform(1.5, 4.0) if kills < 4 else 0)
        if kills < 4:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
            for pool in (out / "pools").glob("p*") if out.exists() else []:
                assert verify(str(pool)) == []  # what is visible is whole
        elif process.wait(120) == 0:
            break
    assert same_files(built[0].pool, str(out / "pools" / "p"))
    assert same_files(built[0].validation, str(out / "pools" / "p-val"))
    assert not list((out / "pools").glob(".p.building-*"))


def test_subsets_of_a_built_pool_never_hold_validation_documents(built):
    keys = set(pl.read_parquet(f"{built[0].validation}/documents.parquet")["key"])
    subset, _ = carve(built[0].pool, 30_001)
    m: Manifest = read_manifest(subset)
    held = pl.read_parquet(f"{built[0].pool}/documents.parquet")[: m.documents]
    assert not keys & set(held["key"])
    np.testing.assert_array_equal(stream(subset), stream(built[0].pool)[:30_001])


@pytest.mark.slow
def test_a_filter_whose_package_is_missing_is_refused_before_the_build(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    glob = write_jsonl(tmp_path / "in", [b'{"text": "x"}'], ["a.jsonl"])
    with pytest.raises(RequestError, match=r"GopherQualityFilter needs a package that is missing .*extra 'filters'"):
        build(settings(tmp_path, glob, filters=[{"name": "GopherQualityFilter"}]), quiet=True)
