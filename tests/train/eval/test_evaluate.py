"""Evaluations from the command line: records, resumption, kinds that may not be mixed, bad requests."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from epochal.__main__ import main
from epochal.common.errors import RequestError, WorkError
from epochal.shards.artifact import open_artifact
from epochal.tests.support.pools import flip_bit, tiny_run
from epochal.tests.support.training import BYTES, save
from epochal.tests.tokenize.kinds import byte_level
from epochal.tokenize.tokenizer import load_tokenizer
from epochal.train.checkpoint import CONFIG_NAME, open_checkpoint
from epochal.train.eval import evaluate, results
from epochal.train.eval.continuation import continuation
from epochal.train.eval.evaluate import Settings, run
from epochal.train.eval.tokenizers import byte_lengths
from epochal.train.exact.writing_order import WritingOrder

torch.set_num_threads(1)

ITEMS = [
    {"query": f"The number after {i} is", "choices": [str(i + 1), f"not {i}", "a very long answer", "x"], "gold": i % 4}
    for i in range(24)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return an AR and an MDM checkpoint for GPT-2's ids."""
    root, info = tmp_path_factory.mktemp("models"), load_tokenizer("gpt2").info.model_dump()
    return [save(root / name, causal, info) for name, causal in (("ar", True), ("mdm", False))]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "hellaswag.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ITEMS))
    lines = [{"context": f"I count to {i}", "continuation": "now"} for i in range(5)]
    (folder / "lambada_openai.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return folder


@pytest.mark.slow
def test_both_types_from_the_command_line(
    models: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", *models, "--tasks", "hellaswag,lambada_openai", "--data", str(data), "--out", str(out)]
    assert main([*command, "--noise-samples", "4", "--json"]) == 0
    printed = capsys.readouterr()
    body = json.loads(printed.out)
    assert [(r["model"], r["task"], r["kind"], r["noise_samples"]) for r in body["tasks"]] == [
        ("ar", "hellaswag", "nll", None),
        ("ar", "lambada_openai", "nll", None),
        ("mdm", "hellaswag", "nelbo", 4),
        ("mdm", "lambada_openai", "nelbo", 4),
    ]
    first = body["tasks"][0]
    assert first["items"] == 24
    assert first["padding_waste"] < 0.15
    assert first["items_per_s"] > 0 < first["sequences_per_s"]
    assert not first["clean"]
    assert json.loads((out / "results.json").read_text())["tasks"] == body["tasks"]
    assert pl.read_parquet(out / "results.parquet")["accuracy"].to_list() == [r["accuracy"] for r in body["tasks"]]
    # once more: nothing is left to score, the table has the same figures
    assert main([*command, "--noise-samples", "4"]) == 0
    shown = capsys.readouterr().out
    assert "NLL, exact" in shown
    assert "NELBO, upper bound, K=4" in shown
    assert "not known to be clean" in shown
    assert f"{100 * first['accuracy']:.2f} ±" in shown
    assert "items/s" not in shown


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on(
    models: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(tasks=("hellaswag",), data=str(data), noise_samples=2, quiet=True, out=str(tmp_path / "whole"))
    whole = run(models[1:], settings)["tasks"][0]
    monkeypatch.setattr(evaluate, "CHUNK_ITEMS", 5)
    scored: list[int] = []
    add = results.ItemStore.add

    def stop_after_two(store: results.ItemStore, records: list) -> None:
        if len(scored) == 10:
            raise KeyboardInterrupt
        scored.extend(r["id"] for r in records)
        add(store, records)

    monkeypatch.setattr(results.ItemStore, "add", stop_after_two)
    settings = replace(settings, out=str(tmp_path / "parts"))
    with pytest.raises(KeyboardInterrupt):
        run(models[1:], settings)
    monkeypatch.setattr(results.ItemStore, "add", add)
    (file,) = (tmp_path / "parts" / "items").iterdir()
    with file.open("a") as f:
        f.write('{"id": 3, "cut')  # the write that the interruption cut off
    again = run(models[1:], settings)["tasks"][0]
    assert again["scored_now"] == 14
    timing = {"scored_now", "sequences", "seconds", "padding_waste", "items_per_s", "sequences_per_s"}
    for key in set(whole) - timing:
        assert again[key] == (pytest.approx(whole[key]) if isinstance(whole[key], float) else whole[key]), key


@pytest.mark.slow
def test_other_noise_is_another_score(models: list[str], data: Path, tmp_path: Path) -> None:
    settings = Settings(tasks=("hellaswag",), data=str(data), noise_samples=2, quiet=True, out=str(tmp_path))
    a, b = (run(models[1:], replace(settings, seed=seed))["tasks"][0] for seed in (0, 1))
    assert a["nll_right"] != b["nll_right"]
    assert b["scored_now"] == 24


def test_nll_and_nelbo_of_a_pool(make_pool: Callable[..., Path], tmp_path: Path) -> None:
    pool = make_pool(1000, 64)
    paths = [save(tmp_path / name, causal, BYTES) for name, causal in (("ar", True), ("mdm", False))]
    ar, mdm = run(paths, Settings((), loss=(str(pool),), quiet=True, out=str(tmp_path / "out")))["likelihoods"]
    assert (ar["kind"], ar["per_token_se"], ar["seed"], ar["tokens"]) == ("nll", 0, None, 1000)
    assert (mdm["kind"], mdm["noise_samples"], mdm["seed"], mdm["tokens"]) == ("nelbo", 8, 0, 1000)
    assert ar["data"] == mdm["data"] == open_artifact(str(pool)).manifest.fingerprint
    for row in (ar, mdm):
        assert row["per_token"] == pytest.approx(math.log(259), abs=0.1)  # these models know nothing
        assert row["bits_per_byte"] is None
    assert mdm["per_token_se"] > 0


@pytest.mark.slow
def test_tasks_are_scored_exactly_under_an_order(
    models: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    settings = Settings(
        ("hellaswag", "lambada_openai"), data=str(data), noise_samples=2, limit=5, quiet=True, out=str(tmp_path)
    )
    bounds = run(models, settings)["tasks"]
    ar, _, exact, _ = found = run(models, replace(settings, writing=WritingOrder("confidence", 2)))["tasks"]
    assert [r["kind"] for r in found] == ["nll"] * 4
    assert (ar["order"], ar["scored_now"]) == (None, 0)  # an AR model has one order: its scores are there already
    assert (exact["order"], exact["tokens_per_step"], exact["noise_samples"]) == ("confidence", 2, None)
    assert exact["noise_se"] == 0
    assert exact["nll_right"] != bounds[2]["nll_right"]
    capsys.readouterr()
    assert main(["evaluate", models[1], "--tasks", "hellaswag", "--tokens-per-step", "2"]) == 2
    assert "give --order too" in capsys.readouterr().err


def test_a_flipped_bit_in_a_pool_stops_likelihoods_and_the_task_made_from_it(
    make_pool: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pool = make_pool(2000, 64)
    model = save(tmp_path / "ar", True, BYTES)
    assert len(continuation(open_artifact(str(pool)), 3)) == 3
    name = flip_bit(pool, 2)
    assert main(["evaluate", model, "--loss", str(pool), "--out", str(tmp_path / "out")]) == 1
    assert f"{name} is damaged" in capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(WorkError, match=f"{name} is damaged"):
        continuation(open_artifact(str(pool)), 3)


@pytest.mark.slow
def test_bytes_of_ids_are_those_of_their_text() -> None:
    tokenizer = load_tokenizer("gpt2")
    lengths = byte_lengths(tokenizer)
    assert lengths is not None
    for text in ("Hello world", "naïve café 🎉\n\tx = 1", "日本語"):
        assert lengths[tokenizer.encode([text])[0]].sum() == len(text.encode())
    assert lengths[tokenizer.info.eod] == 0


def test_bytes_of_added_tokens_are_those_of_their_text(tmp_path: Path) -> None:
    """GPT-NeoX has runs of spaces as added tokens, outside its model's vocabulary."""
    spec = byte_level(None)
    runs = [{"id": 10_000 + n, "content": " " * n} | FLAGS for n in range(2, 25)]
    path = tmp_path / "neox.json"
    path.write_text(json.dumps(spec | {"added_tokens": [*spec["added_tokens"], *runs]}))
    tokenizer = load_tokenizer(str(path))
    lengths = byte_lengths(tokenizer)
    assert lengths is not None
    for text in ("def f(x):\n        return x", "a" + " " * 60 + "é"):
        ids = tokenizer.encode([text])[0]
        assert any(i >= len(spec["model"]["vocab"]) for i in ids)
        assert lengths[ids].sum() == len(text.encode())


FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {
            "added_tokens": [
                {"id": 0, "content": "<|endoftext|>"} | FLAGS,
                {"id": 1, "content": "x"} | FLAGS | {"lstrip": True},
            ]
        },
    ],
)
def test_bytes_of_ids_that_do_not_say_them_are_unknown(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(byte_level(None) | change))
    assert byte_lengths(load_tokenizer(str(path))) is None


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--tasks", "hellaswog"], "unknown task 'hellaswog'"),
        (["--tasks", "arc_easy"], "holds no arc_easy.jsonl"),
        (["--noise-samples", "0"], "--noise-samples must be at least 1"),
        (["--file", "piqa"], "write TASK=PATH"),
        (["--loss", "nowhere"], "nowhere does not exist"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--tokenizer", "./none.json"], "does not exist"),
    ],
)
def test_bad_requests_are_one_line(
    models: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], line: str
) -> None:
    tasks = [] if "--tasks" in arguments else ["--tasks", "hellaswag"]
    common = ["--data", str(data), "--out", str(tmp_path / "out")]
    assert main(["evaluate", models[0], *common, *tasks, *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert line in error
    assert error.count("\n") == 0


def test_a_checkpoint_of_another_format_is_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = Path(save(tmp_path / "ar", True, BYTES))
    card = json.loads((folder / CONFIG_NAME).read_text()) | {"format_version": 99}
    (folder / CONFIG_NAME).write_text(json.dumps(card))
    assert main(["evaluate", str(folder), "--data", str(data), "--tasks", "hellaswag"]) == 2
    assert "is of format 99, this epochal reads 1" in capsys.readouterr().err
    assert main(["generate", str(tmp_path / "nothing")]) == 2
    assert "holds no model" in capsys.readouterr().err


@pytest.mark.slow
def test_weights_that_are_not_finite_are_one_line(
    models: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_checkpoint(models[0], "cpu")
    torch.nn.init.constant_(opened.model.norm.weight, math.nan)
    monkeypatch.setattr(evaluate, "open_checkpoint", lambda *args: opened)
    with pytest.raises(WorkError, match=r"gives item \d+ no finite likelihood"):
        run(models[:1], Settings(("hellaswag",), data=str(data), quiet=True, out=str(tmp_path / "out")))


@pytest.mark.slow
def test_the_leak_check_wants_the_models_own_data(make_pool: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    info = load_tokenizer("gpt2").info.model_dump()
    pool = make_pool(100, 16)
    model = save(tmp_path / "ar", True, info, training={"plan": {"subset": "another"}})
    settings = Settings(("hellaswag",), data=str(data), quiet=True, out=str(tmp_path / "out"))
    with pytest.raises(RequestError, match="is not what this model was trained on"):
        run([model], replace(settings, trained_on=str(pool)))
    fingerprint = open_artifact(str(pool)).manifest.fingerprint
    model = save(tmp_path / "ar", True, info, training={"plan": {"subset": fingerprint}})
    (row,) = run([model], replace(settings, trained_on=str(pool)))["tasks"]
    assert not row["clean"]
    assert "pool toy was not decontaminated against these items" in row["leak_check"]


@pytest.mark.slow
def test_generate_from_the_command_line(models: list[str], capsys: pytest.CaptureFixture) -> None:
    for model in models:
        assert main(["generate", model, "Once upon", "--max-new-tokens", "5", "--json"]) == 0
        body = json.loads(capsys.readouterr().out)
        assert body["prompt"] == "Once upon"
        assert body["tokens"] == len(body["ids"]) <= 5
        assert main(["generate", model, "Once upon", "--max-new-tokens", "5"]) == 0
        assert capsys.readouterr().out == f"Once upon{body['text']}\n"
    assert main(["generate", models[0], "--max-new-tokens", "500"]) == 2
    assert "the model was trained on 64" in capsys.readouterr().err


@pytest.mark.slow
def test_flops_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["flops", "paper-1b", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["inference_ratio"]["4096"] == pytest.approx(4708, rel=0.01)
    assert body["training"]["six_nd"] == pytest.approx(6 * 1.086e9, rel=0.001)
    file = tmp_path / "model.yaml"
    file.write_text("model:\n  layers: 1\n  hidden: 8\n  heads: 2\n  ffn: 16\n  vocab_size: 64\n")
    assert main(["flops", str(file), "model.layers=2", "--measure", "--seq-len", "8", "--tokens", "1M"]) == 0
    assert "on cpu" in capsys.readouterr().out
    assert main(["flops", "tiny-mdm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["causal"] is False
    file.write_text("model:\n  layers: 1\n  hiden: 8\n  heads: 2\n  ffn: 16\n")
    assert main(["flops", str(file)]) == 2
    assert "did you mean 'hidden'" in capsys.readouterr().err
    assert main(["flops", "nothing"]) == 2
    assert "is neither a file, a model's folder, a shipped run nor a preset" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ar", "mdm"])
def test_a_runs_own_validation_loss_is_found_again(
    make_pool: Callable[..., Path], tmp_path: Path, objective: str
) -> None:
    from epochal.train.config import TrainConfig
    from epochal.train.trainer import train

    pool, held_out = make_pool(600, 16), make_pool(300, 16, name="toy-val")
    loader = {"dataset": {"path": str(held_out)}, "noise_samples": 16}
    config = tiny_run(pool, objective={"name": objective}, eval_loader=loader, save_folder=str(tmp_path / "run"))
    stated = train(TrainConfig.model_validate(config))["validation"]
    settings = Settings((), loss=(str(held_out),), loss_noise_samples=64, quiet=True, out=str(tmp_path / "out"))
    (row,) = run([str(tmp_path / "run")], settings)["likelihoods"]
    kind = "nll" if objective == "ar" else "nelbo"
    assert row["kind"] == kind
    allowed = 1e-5 if kind == "nll" else 4 * math.hypot(row["per_token_se"], stated["nelbo_se"])
    assert row["per_token"] == pytest.approx(stated[kind], abs=allowed)
