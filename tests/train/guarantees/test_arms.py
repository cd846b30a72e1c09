"""Every arm of training keeps the guarantees: ranks, micro-batches, kills and resumption."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from epochal.common.errors import RequestError
from epochal.shards.order.receipt import Receipt
from epochal.tests.support.ranks import in_ranks
from epochal.tests.support.training import interrupt, losses, weights
from epochal.train.checkpoint import load_model
from epochal.train.config import load_config
from epochal.train.run import prepare
from epochal.train.run_folder import LOSS_KINDS, read_metrics
from epochal.train.run_state.identity import resolved, to_yaml
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out

SHAPE = {"layers": 2, "hidden": 32, "heads": 2, "ffn": 48}
ARMS: dict[str, dict[str, Any]] = {
    "ar-augmented": {
        "objective": {"name": "ar", "input_masking": 0.1, "random_replacement": 0.2, "right_to_left": 0.5},
        "optimizer": {"lr": 3e-3, "weight_decay": 0.3, "embedding_weight_decay": 0.2},
    },
    "ar-penalties-ema": {
        "objective": {"name": "ar", "label_smoothing": 0.1, "z_loss": 1e-3},
        "algorithms": {"ema": {"half_life": "5ba"}},
    },
    "ar-muon": {
        "objective": {"name": "ar"},
        "optimizer": {"name": "muon", "lr": 1e-2, "weight_decay_schedule": "cosine", "weight_decay_final": 4.0},
        "scheduler": {"name": "cosine_cycles", "t_warmup": "2ba", "cycles": 3},
    },
    "mdm-cosine": {
        "objective": {"name": "mdm", "weighting": "exact_count", "noise_schedule": "cosine", "label_smoothing": 0.1},
        "optimizer": {"name": "muon", "lr": 1e-2, "weight_decay_schedule": "linear", "embedding_weight_decay": 0.1},
        "algorithms": {"ema": {"half_life": "3ba"}},
    },
    "mdm-fixed": {"objective": {"name": "mdm", "weighting": "uniform", "fixed_ratio": 0.3, "sampling": "uniform"}},
    "ar-dropout": {
        "objective": {"name": "ar"},
        "model": SHAPE | {"dropout_embedding": 0.1, "dropout_attention": 0.2, "stochastic_depth": 0.3},
    },
    "mdm-dropout": {
        "objective": {"name": "mdm"},
        "model": SHAPE | {"dropout_residual": 0.1, "dropout_mlp": 0.2, "dropout_attention": 0.1},
    },
    "ar-documents": {
        "objective": {"name": "ar", "input_masking": 0.1},
        "model": SHAPE | {"document_mask": True, "rope": "restart"},
    },
    "mdm-documents": {"objective": {"name": "mdm"}, "model": SHAPE | {"document_mask": True}},
    "dual-documents": {"objective": {"name": "dual"}, "model": SHAPE | {"document_mask": True, "rope": "restart"}},
    "mdm-range": {"objective": {"name": "mdm", "weighting": "inverse_t", "t_range": [0.3, 0.8]}},
}
STOP = {"early_stop": {"patience": 2, "cooldown": "6ba"}}


def arm(run_config, name: str, folder: Path, **changes: Any):
    return run_config(**ARMS[name] | {"save_folder": str(folder), "autoresume": True} | changes)


def validated(folder: Path) -> list[float]:
    rows = read_metrics(str(folder))
    names = [f"metrics/validation/{kind}" for kind in LOSS_KINDS]
    return [v for row in rows for k, v in row.items() if k in names]


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_micro_batches_change_neither_losses_nor_receipt(run_config, tmp_path: Path, name: str) -> None:
    folders = [tmp_path / str(size) for size in (1, 8)]
    sizes = [{"device_train_microbatch_size": int(f.name), "max_duration": "1168"} for f in folders]
    results = [train(arm(run_config, name, f, **size)) for f, size in zip(folders, sizes, strict=True)]
    assert results[0]["receipt"] == results[1]["receipt"]
    np.testing.assert_allclose(losses(folders[0]), losses(folders[1]), rtol=0, atol=2e-5)


@pytest.mark.processes
@pytest.mark.parametrize("name", ARMS)
def test_two_ranks_give_the_losses_and_the_receipt_of_one(run_config, tmp_path: Path, name: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    expected = train(arm(run_config, name, one, max_duration="1168"))
    in_ranks(2, train, arm(run_config, name, two, max_duration="1168"))
    result = json.loads((two / "result.json").read_text())["result"]
    assert result["receipt"] == expected["receipt"]
    np.testing.assert_allclose(losses(two), losses(one), rtol=0, atol=5e-5)
    for kind, value in expected["validation"].items():
        assert result["validation"][kind] == pytest.approx(value, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARMS)
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(run_config, tmp_path: Path, name: str) -> None:
    keys = {"save_interval": "7ba", "max_duration": "1.9ep"}
    whole, parts = (arm(run_config, name, tmp_path / f, **keys) for f in ("whole", "parts"))
    expected = train(whole)
    assert expected["steps"] == 15
    for steps in (9, 14, 15):  # after a checkpoint, right at one, after the last
        interrupt(parts, steps)
    resumed = train(parts)
    assert resumed == expected | {"name": resumed["name"], "folder": resumed["folder"]}
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert validated(tmp_path / "parts") == validated(tmp_path / "whole")
    for model in Path(tmp_path, "whole").rglob("model.safetensors"):
        assert model.read_bytes() == (tmp_path / "parts" / model.relative_to(tmp_path / "whole")).read_bytes()


@pytest.mark.processes
@pytest.mark.parametrize("name", ["mdm-cosine", "ar-dropout"])
def test_interrupted_on_two_ranks_and_resumed_on_one(run_config, tmp_path: Path, name: str) -> None:
    whole, parts = (arm(run_config, name, tmp_path / f, max_duration="1.2ep", save_interval="4ba") for f in "wp")
    expected = train(whole)
    in_ranks(2, interrupt, parts, 6)
    assert train(parts)["receipt"] == expected["receipt"]
    np.testing.assert_allclose(losses(tmp_path / "p"), losses(tmp_path / "w"), rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ARMS)
def test_the_configuration_that_a_run_writes_down_is_the_runs(run_config, tmp_path: Path, name: str) -> None:
    config = arm(run_config, name, tmp_path)
    (tmp_path / "config.yaml").write_text(to_yaml(resolved(config, "cpu", "fp32")))
    again = load_config(str(tmp_path / "config.yaml"))
    assert prepare(again).identity == prepare(config).identity


@pytest.mark.slow
def test_the_average_of_the_weights_is_measured_and_saved_and_changes_no_step(run_config, tmp_path: Path) -> None:
    plain, averaged = tmp_path / "plain", tmp_path / "averaged"
    without = train(run_config("ar", save_folder=str(plain), max_duration="1ep"))
    with_it = train(
        run_config("ar", save_folder=str(averaged), max_duration="1ep", algorithms={"ema": {"half_life": "4ba"}})
    )
    assert losses(averaged) == losses(plain)
    assert with_it["validation"] != without["validation"]
    kept = torch.load(averaged / "latest-rank0.pt", weights_only=False)["state"]["callbacks"]["AverageWeights"]
    for name, value in load_model(str(averaged / "final"))[0].state_dict().items():
        assert torch.equal(kept["average"][f"transformer.{name}"], value)


@pytest.mark.slow
def test_a_cycle_leaves_the_model_at_its_end(run_config, tmp_path: Path) -> None:
    result = train(arm(run_config, "ar-muon", tmp_path / "run"))
    cards = [load_model(str(tmp_path / "run/snapshots" / n))[1] for n in ("1", "2", "3")]
    assert [card.training["steps"] for card in cards] == [10, 19, result["steps"]]
    last = tmp_path / "run/snapshots/3/model.safetensors"
    assert last.read_bytes() == (tmp_path / "run/final/model.safetensors").read_bytes()


@pytest.mark.slow
def test_what_is_added_to_the_loss_is_logged_by_its_name(run_config, tmp_path: Path) -> None:
    result = train(arm(run_config, "ar-penalties-ema", tmp_path / "run", max_duration="1ep"))
    for row in read_metrics(str(tmp_path / "run")):
        parts = [row[f"loss/train/{name}"] for name in ("nll", "label_smoothing", "z_loss")]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(row["loss/train/total"], abs=1e-5)
    assert list(result["train"]) == ["nll"]


def stopping(run_config, folder: Path, **changes: Any):
    keys: dict[str, Any] = {"optimizer": {"lr": 3e-2}, "algorithms": STOP, "max_duration": "10ep"}
    keys |= {"eval_interval": "4ba", "save_interval": "7ba"}
    return run_config("ar", save_folder=str(folder), autoresume=True, **keys | changes)


@pytest.mark.slow
def test_an_early_stop_goes_back_to_the_best_point_and_cools_down(run_config, tmp_path: Path) -> None:
    long, run = tmp_path / "long", tmp_path / "run"
    train(stopping(run_config, long, algorithms={}))
    result = train(stopping(run_config, run))
    evaluations = dict(zip(range(4, 400, 4), validated(long), strict=False))
    best = result["early_stop"]["best_step"]
    assert result["early_stop"]["stopped_at"] == best + 8
    assert evaluations[best] < min(evaluations[best + 4], evaluations[best + 8])
    assert evaluations[best] == min(evaluations[step] for step in range(4, best + 12, 4))
    assert result["steps"] == best + 6
    assert losses(run)[:best] == losses(long)[:best]
    rates = [row["run/lr"] for row in read_metrics(str(run))]
    assert rates[best] == pytest.approx(rates[best - 1])
    assert rates[-1] == pytest.approx(rates[best] * 0.1)
    receipt = Receipt.from_json((run / "receipt.json").read_text())
    assert receipt.check() is None
    assert receipt.count == receipt.plan.positions == (best + 6) * 8
    assert train(stopping(run_config, run)) == result  # finished


@pytest.mark.slow
def test_an_early_stop_is_the_same_wherever_it_is_killed(run_config, tmp_path: Path, monkeypatch) -> None:
    expected = train(stopping(run_config, tmp_path / "whole"))
    parts, best = stopping(run_config, tmp_path / "parts"), expected["early_stop"]["best_step"]
    for steps in (best, best + 1, best + 6):
        interrupt(parts, steps)
    monkeypatch.setattr("epochal.train.trainer.go_back", _killed)  # decided, and nothing done yet
    with pytest.raises(KeyboardInterrupt):
        train(parts)
    monkeypatch.undo()
    interrupt_cooldown(parts, best + 3, monkeypatch)
    resumed = train(parts)
    assert resumed == expected | {"name": resumed["name"], "folder": resumed["folder"]}
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def interrupt_cooldown(config, steps: int, monkeypatch) -> None:
    from epochal.train.callbacks import RunMetrics

    def die(self: Any, state: Any, logger: Any) -> None:
        if int(state.timestamp.batch) == steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunMetrics, "batch_checkpoint", die)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.undo()


@pytest.mark.processes
def test_two_ranks_stop_early_as_one_does(run_config, tmp_path: Path) -> None:
    expected = train(stopping(run_config, tmp_path / "one"))
    in_ranks(2, train, stopping(run_config, tmp_path / "two"))
    result = json.loads((tmp_path / "two/result.json").read_text())["result"]
    assert result["early_stop"] == expected["early_stop"]
    assert result["receipt"] == expected["receipt"]
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=0, atol=5e-5)


@pytest.mark.slow
def test_an_arm_that_is_added_makes_another_run(run_config, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    interrupt(run_config("ar", save_folder=folder, autoresume=True), 12)
    changes: dict[str, dict[str, Any]] = {
        "objective": {"objective": {"name": "ar", "random_replacement": 0.1}},
        "model": {"model": SHAPE | {"stochastic_depth": 0.1}},
        "model.document_mask": {"model": SHAPE | {"document_mask": True}},
        "optimizer": {"optimizer": {"lr": 1e-2, "embedding_weight_decay": 0.1}},
        "algorithms": {"algorithms": {"ema": {}}},
        "algorithms.early_stop": {"algorithms": STOP},
    }
    for key, change in changes.items():
        with pytest.raises(RequestError, match=f"holds another run: {key}"):
            train(run_config(**{"objective": "ar"} | change, save_folder=folder, autoresume=True))


def test_a_run_without_arms_is_what_it_was_in_earlier_versions(run_config) -> None:
    """What run.json and checkpoints said before there were these keys: runs go on by it."""
    for objective, keys in (("ar", {"name", "input_masking"}), ("mdm", MDM_KEYS)):
        identity = prepare(run_config(objective)).identity
        assert identity["objective"].keys() == keys
        assert identity["optimizer"].keys() == {"name", "lr", "betas", "eps", "weight_decay"}
        assert identity["algorithms"].keys() == {"gradient_clipping"}
        assert identity["model"].keys() == MODEL_KEYS


MDM_KEYS = {"name", "weighting", "eps", "sampling", "random_length"}
MODEL_KEYS = {
    *("vocab_size", "layers", "hidden", "heads", "ffn", "causal", "kv_heads", "head_size", "qk_norm"),
    *("tied_embeddings", "rope_base", "norm_eps", "init_std", "dropout"),
}
