"""The exact likelihood beside validation: when, of what, and where it must not be taken for something else."""

import json
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.shards.artifact import open_artifact
from epochal.tests.support.training import SEQ_LEN, interrupt, weights
from epochal.train.checkpoint import load_card, open_checkpoint
from epochal.train.commands import describe
from epochal.train.eval.likelihood import measure
from epochal.train.exact.writing_order import WritingOrder
from epochal.train.objective.halves import HALVES
from epochal.train.run_folder import read_metrics
from epochal.train.run_state import overview
from epochal.train.trainer import train

KEY = "metrics/exact/confidence/2"


def loader(tmp_path: Path, **exact: object) -> dict:
    path = str(tmp_path / "artifacts" / "pools" / "toy-val")
    section = {"order": "confidence", "tokens_per_step": 2} | exact
    return {"dataset": {"path": path, "samples": 12}, "noise_samples": 3, "exact": section}


def exact_of(folder: Path) -> dict[int, float]:
    return {int(row["step"]): row[KEY] for row in read_metrics(str(folder)) if KEY in row}


@pytest.mark.slow
def test_every_mth_evaluation_and_the_last_measure_it_and_a_resumption_changes_nothing(
    run_config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    keys = {"eval_loader": loader(tmp_path, every=2), "max_duration": "3.37ep"}
    plain = train(run_config("mdm", save_folder=str(tmp_path / "plain")))
    whole = train(run_config("mdm", save_folder=str(tmp_path / "whole"), **keys))
    found = exact_of(tmp_path / "whole")
    assert list(found) == [20, whole["steps"]]
    assert whole["steps"] % 20  # the last one is there because it is the last
    config = run_config("mdm", save_folder=str(tmp_path / "parts"), autoresume=True, **keys)
    interrupt(config, 25)
    train(config)
    assert exact_of(tmp_path / "parts") == found
    theirs = weights(tmp_path / "plain")
    assert all(w.equal(theirs[k]) for k, w in weights(tmp_path / "whole").items())  # measuring changes no training

    # apart from the bound: in the result, in the card, on the terminal, in the list
    assert "exact" not in plain
    assert set(whole["validation"]) == {"nelbo", "nelbo_se"}
    exact = whole["exact"]
    assert exact["loss"] == found[whole["steps"]]
    assert {k: exact[k] for k in ("kind", "order", "tokens_per_step")} == {
        "kind": "nll",
        "order": "confidence",
        "tokens_per_step": 2,
    }
    assert set(load_card(str(tmp_path / "whole" / "final")).training["validation"]) == {"nelbo", "nelbo_se"}
    words = f"NLL {exact['loss']:.4f} (exact, confidence order, 2 tokens a step)"
    assert f"(upper bound); {words}" in describe(whole)
    listed = overview._run(str(tmp_path), str(tmp_path / "whole"))
    assert listed["validation"].endswith(f", NLL {exact['loss']:.4f} (confidence order, 2 tokens a step)")
    result = json.loads((tmp_path / "whole" / "result.json").read_text())["result"]
    assert result["exact"] == exact

    # and it is what `evaluate --loss --order` measures on the same samples
    opened = open_checkpoint(str(tmp_path / "whole" / "final"), "cpu")
    pool = open_artifact(str(tmp_path / "artifacts" / "pools" / "toy-val"))
    record = measure(opened.model, opened.card, pool, samples=12, writing=WritingOrder("confidence", 2))
    assert record.per_token == pytest.approx(exact["loss"], rel=1e-6)
    assert record.tokens == exact["tokens"] == 12 * SEQ_LEN
    halves = [read_metrics(str(tmp_path / "whole"))[-1][f"metrics/exact_{half}/confidence/2"] for half in HALVES]
    assert sum(halves) / 2 == pytest.approx(exact["loss"], rel=1e-12)
    assert halves[0] != halves[1]


@pytest.mark.slow
def test_what_a_run_is_given_stands_beside_every_figure_of_it(
    run_config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of a document-masked model, which is told where documents end: logs, card, result, list, terminal, evaluate."""
    shape = {"layers": 2, "hidden": 32, "heads": 2, "ffn": 48, "document_mask": True, "rope": "restart"}
    folder = str(tmp_path / "run")
    keys = {"model": shape, "max_duration": "1.2ep", "eval_loader": loader(tmp_path)}
    result = train(run_config("mdm", save_folder=folder, **keys))
    exact, loss = result["exact"]["loss"], result["validation"]["nelbo_given_lengths"]
    assert set(result["validation"]) == {"nelbo_given_lengths", "nelbo_given_lengths_se"}
    assert list(result["train"]) == ["nelbo_given_lengths"]
    logged = read_metrics(folder)[-1]
    assert logged["metrics/validation/nelbo_given_lengths"] == pytest.approx(loss)
    assert logged["metrics/exact_given_lengths/confidence/2"] == pytest.approx(exact)
    assert not [key for row in read_metrics(folder) for key in row if "nelbo" in key and "given" not in key]
    card = load_card(str(tmp_path / "run/final"))
    assert (card.kind, card.shape.document_mask, card.shape.rope) == ("nelbo_given_lengths", True, "restart")
    words = f"NELBO given lengths {loss:.4f} (upper bound); NLL {exact:.4f} (exact, confidence order, 2 tokens a step, "
    assert f"{words}given lengths)" in describe(result)
    listed = overview._run(str(tmp_path), folder)["validation"]
    under = f"NLL {exact:.4f} (confidence order, 2 tokens a step, given lengths)"
    assert listed == f"NELBO given lengths {loss:.4f}, {under}"
    (tmp_path / "run/result.json").unlink()
    assert overview._run(str(tmp_path), folder)["validation"] == listed

    pool = str(tmp_path / "artifacts/pools/toy-val")
    command = ["evaluate", folder, "--loss", pool, "--loss-samples", "12", "--order", "confidence"]
    command += ["--tokens-per-step", "2", "--loss-noise-samples", "64", "--out", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    bound, order = json.loads(capsys.readouterr().out)["likelihoods"]
    assert order["per_token"] == pytest.approx(exact, rel=1e-5)
    assert abs(bound["per_token"] - loss) < 4 * (bound["per_token_se"] + result["validation"]["nelbo_given_lengths_se"])
    assert main(command) == 0
    assert "NELBO, upper bound, K=64, given lengths" in capsys.readouterr().out


@pytest.mark.slow
def test_an_autoregressive_run_is_exact_already(run_config, tmp_path: Path) -> None:
    result = train(run_config("ar", max_duration="1ep", eval_loader=loader(tmp_path), save_folder=str(tmp_path / "ar")))
    assert "exact" not in result
    assert exact_of(tmp_path / "ar") == {}


def test_what_makes_a_run_is_the_same_without_the_key(run_config, tmp_path: Path) -> None:
    from epochal.train.run import prepare

    without = prepare(run_config("mdm")).identity["eval_loader"]
    assert "exact" not in without
    assert "exact" not in prepare(run_config("ar", eval_loader=loader(tmp_path))).identity["eval_loader"]
    measured = prepare(run_config("mdm", eval_loader=loader(tmp_path))).identity["eval_loader"]
    assert measured["exact"] == {"order": "confidence", "tokens_per_step": 2, "every": 1}


def test_sharded_models_are_refused(run_config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"eval_loader\.exact needs the whole model"):
        run_config("mdm", eval_loader=loader(tmp_path), parallelism_config={"fsdp": {}})
