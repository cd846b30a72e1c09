"""Block diffusion from a run to its figures: what a saved model says of itself, and what it is measured by."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from epochal.__main__ import main
from epochal.common.errors import RequestError
from epochal.shards.artifact import open_artifact
from epochal.tests.support.training import BYTES, SEQ_LEN, save
from epochal.train.checkpoint import load_card, open_checkpoint
from epochal.train.eval.likelihood import measure
from epochal.train.exact.blocks import pieces
from epochal.train.exact.writing_order import WritingOrder
from epochal.train.model.transformer import ModelConfig, config_dict
from epochal.train.run import prepare
from epochal.train.trainer import train

torch.set_num_threads(1)


def blocks_of(size: int) -> dict:
    return {"name": "block", "block_size": size}


@pytest.mark.slow
def test_a_run_of_blocks_is_measured_as_it_was_validated(run_config, tmp_path: Path) -> None:
    """Blocks of two: all three sets of a block are few enough to be read, and 200 draws of validation come near."""
    pool_path = str(tmp_path / "artifacts" / "pools" / "toy-val")
    loader = {"dataset": {"path": pool_path, "samples": 6}, "noise_samples": 200, "exact": {"tokens_per_step": 1}}
    config = run_config(blocks_of(2), save_folder=str(tmp_path / "run"), eval_loader=loader, max_duration="1ep")
    result = train(config)
    card = load_card(str(tmp_path / "run" / "final"))
    assert (card.kind, card.objective["block_size"], card.shape.block_size) == ("nelbo", 2, 2)
    opened, pool = open_checkpoint(str(tmp_path / "run"), "cpu"), open_artifact(pool_path)
    bound = measure(opened.model, opened.card, pool, samples=6, noise_samples=3)
    assert (bound.kind, bound.nats_se) == ("nelbo", 0.0)
    assert bound.per_token == pytest.approx(result["validation"]["nelbo"], abs=4 * result["validation"]["nelbo_se"])
    drawn = measure(opened.model, opened.card, pool, samples=6, noise_samples=2)
    assert 0 < abs(drawn.per_token - bound.per_token) < 4 * drawn.per_token_se
    exact = measure(opened.model, opened.card, pool, samples=6, writing=WritingOrder("confidence"))
    assert exact.per_token == pytest.approx(result["exact"]["loss"], rel=1e-6)
    assert (exact.kind, exact.order) == ("nll", "confidence")


def test_blocks_of_one_are_exact_everywhere(
    make_pool: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pool = make_pool(40, 16)  # the last sample has eight tokens
    path = save(tmp_path / "one", False, BYTES, 16, objective=blocks_of(1), block_size=1)
    command = ["evaluate", path, "--loss", str(pool), "--out", str(tmp_path / "out"), "--json"]
    for order in ([], ["--order", "confidence"]):  # an order changes nothing, and no second figure is given
        assert main([*command, *order]) == 0
        (record,) = json.loads(capsys.readouterr().out)["likelihoods"]
        assert (record["kind"], record["nats_se"], record["order"], record["tokens"]) == ("nll", 0, None, 40)
    small = save(tmp_path / "five", False, BYTES, 16, objective=blocks_of(5), block_size=5)
    assert main(["evaluate", small, *command[2:], "--order", "entropy"]) == 0
    found = json.loads(capsys.readouterr().out)["likelihoods"]
    assert [(r["kind"], r["order"]) for r in found] == [("nelbo", None), ("nll", "entropy")]
    assert main(["export-model", path, "--out", str(tmp_path / "hf")]) == 2
    assert "only an autoregressive model can be written for transformers" in capsys.readouterr().err


def test_a_model_of_one_block_is_measured_as_masked_diffusion_is(
    make_pool: Callable[..., Path], tmp_path: Path
) -> None:
    pool = open_artifact(str(make_pool(40, 16)))
    figures = []
    for name, keys in (("block", {"block_size": 16}), ("mdm", {})):
        opened = open_checkpoint(save(tmp_path / name, False, BYTES, 16, **keys), "cpu")
        figures.append(measure(opened.model, opened.card, pool, noise_samples=8, seed=3))
    ours, theirs = figures
    assert ours.nats == pytest.approx(theirs.nats, rel=1e-6)
    assert ours.nats_se == pytest.approx(theirs.nats_se, rel=1e-3)


def test_what_other_models_say_of_themselves_has_not_changed() -> None:
    """Identities of runs and fingerprints of models of earlier versions still hold."""
    shape = ModelConfig(50, 1, 16, 2, 24, False)
    assert set(config_dict(shape)) == {
        *("vocab_size", "layers", "hidden", "heads", "ffn", "causal", "kv_heads", "head_size", "qk_norm"),
        *("tied_embeddings", "rope_base", "norm_eps", "init_std", "dropout"),
    }
    assert config_dict(ModelConfig(50, 1, 16, 2, 24, False, block_size=4))["block_size"] == 4


def test_sizes_that_cannot_be_are_refused_in_one_line(run_config) -> None:
    assert prepare(run_config(blocks_of(SEQ_LEN))).shape.block_size == SEQ_LEN
    assert prepare(run_config(blocks_of(5))).identity["model"]["block_size"] == 5  # the last block is shorter
    with pytest.raises(RequestError, match="samples have 16 tokens: give at most 16, which is masked diffusion"):
        prepare(run_config(blocks_of(17)))
    with pytest.raises(ValueError, match="greater than 0"):
        run_config(blocks_of(0))


def test_answers_are_cut_where_blocks_begin() -> None:
    assert pieces(0, 7, 3) == [(0, 3), (3, 6), (6, 7)]
    assert pieces(4, 7, 3) == [(0, 2), (2, 5), (5, 7)]
    assert pieces(3, 2, 3) == [(0, 2)]
    assert pieces(2, 1, 3) == [(0, 1)]
    assert pieces(5, 4, 1) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert pieces(5, 4, None) == [(0, 4)]
