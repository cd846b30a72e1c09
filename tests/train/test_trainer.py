"""Runs of Composer on a CPU, small enough to compare number by number."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from epochal.__main__ import main
from epochal.common.errors import RequestError, WorkError
from epochal.tests.support.pools import flip_bit
from epochal.tests.support.training import OBJECTIVES, SEQ_LEN, interrupt, losses, tokens, weights
from epochal.train.config import TrainConfig
from epochal.train.run import prepare
from epochal.train.run_folder import read_metrics
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ar", "mdm", "dual", "block", "block of 1"])
def test_a_run_trains_on_its_plan_exactly(run_config, tmp_path: Path, objective: str) -> None:
    blocks = {"block": {"name": "block", "block_size": 4}, "block of 1": {"name": "block", "block_size": 1}}
    result = train(run_config(blocks.get(objective, objective), save_folder=str(tmp_path / "run")))
    assert result["receipt"]["valid"]
    assert 3380 - SEQ_LEN < result["tokens"] <= 3380
    of_types = {"ar": ["nll"], "block of 1": ["nll"], "dual": ["nll", "nelbo"]}
    kinds = of_types.get(objective, ["nelbo"])
    kind = objective if objective == "dual" else kinds[0]
    rows = read_metrics(str(tmp_path / "run"))
    losses = [row[f"loss/train/{kind}"] for row in rows if f"loss/train/{kind}" in row]
    assert len(losses) == result["steps"] == 27
    assert losses[-1] < losses[0]
    assert [k for k in result["validation"] if k != "nelbo_se"] == kinds
    last = {k.removeprefix("metrics/validation/"): v for k, v in rows[-1].items() if k.startswith("metrics/validation")}
    assert all(1.5 < result["validation"][k] < 5.6 for k in kinds)
    assert {k: last[k] for k in result["validation"]} == pytest.approx(result["validation"])


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o['name']}-{o.get('weighting', '')}")
def test_micro_batches_change_neither_losses_nor_receipt(run_config, tmp_path: Path, objective: dict) -> None:
    keys = {"max_duration": "1168"}
    results = [
        train(run_config(objective, **keys, device_train_microbatch_size=size, save_folder=str(tmp_path / str(size))))
        for size in (1, 4, "auto")
    ]
    assert len({r["receipt"]["digest"] for r in results}) == 1
    one, four, auto = (losses(tmp_path / str(size)) for size in (1, 4, "auto"))
    np.testing.assert_allclose(one, four, rtol=0, atol=2e-5)
    np.testing.assert_allclose(one, auto, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", [OBJECTIVES[1], *OBJECTIVES[3:]], ids=lambda o: o["name"])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(run_config, tmp_path: Path, objective: dict) -> None:
    shape = {"layers": 2, "hidden": 32, "heads": 2, "ffn": 48, "dropout": 0.1}
    whole = run_config(objective, model=shape, save_folder=str(tmp_path / "whole"), autoresume=True)
    expected = train(whole)
    parts = whole.model_copy(update={"save_folder": str(tmp_path / "parts")})
    for steps in (3, 14, 23, 27):  # before the first checkpoint, after it, after the second, after the last
        interrupt(parts, steps)
    resumed = train(parts)
    assert resumed["receipt"] == expected["receipt"]
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed["validation"] == expected["validation"]
    again = train(parts)  # a finished run is finished
    assert again["receipt"] == expected["receipt"]


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused_and_kept(run_config, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    interrupt(run_config("ar", save_folder=folder, autoresume=True), 12)
    changed: list[tuple[dict[str, Any], str]] = [
        ({"train_loader": {"dataset": {**run_config().train_loader.dataset.model_dump(), "seed": 9}}}, "plan"),
        ({"objective": {"name": "mdm"}}, "model.causal is True there and False here"),
        ({"global_train_batch_size": 16}, "global_train_batch_size is 8 there and 16 here"),
        ({"model": {"layers": 1, "hidden": 32, "heads": 2, "ffn": 48}}, "model.layers is 2 there and 1 here"),
    ]
    for changes, message in changed:
        with pytest.raises(RequestError, match="holds another run") as caught:
            train(run_config(**({"objective": "ar"} | changes), save_folder=folder, autoresume=True))
        assert message in str(caught.value)
    with pytest.raises(RequestError, match="holds checkpoints: add autoresume=true"):
        train(run_config("ar", save_folder=folder))
    with pytest.raises(RequestError, match=r"another run: model\.causal"):
        train(run_config("mdm", load_path=str(tmp_path / "run" / "latest-rank0.pt")))
    assert train(run_config("ar", save_folder=folder, autoresume=True))["receipt"]["valid"]


@pytest.mark.slow
def test_a_full_disk_while_saving_leaves_the_last_checkpoint(
    run_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config("ar", save_folder=str(tmp_path / "run"), autoresume=True)
    whole = torch.save

    def full(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if "ba20" in str(getattr(f, "name", f)):
            Path(getattr(f, "name", f)).write_bytes(b"a part")
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(obj, f, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WorkError, match="no space left") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(torch, "save", whole)
    assert train(config)["receipt"]["valid"]
    assert len(losses(tmp_path / "run")) == 27


@pytest.mark.slow
def test_both_types_overfit_a_small_subset(run_config, make_pool, tmp_path: Path) -> None:
    pool = make_pool(tokens(1, 203), SEQ_LEN, name="small")
    for objective, passes in (("ar", 30), ({"name": "mdm", "weighting": "exact_count"}, 190)):
        result = train(
            run_config(
                objective,
                train_loader={"dataset": {"path": str(pool)}},
                max_duration=f"{passes}ep",
                model={"layers": 2, "hidden": 96, "heads": 2, "ffn": 128, "init_std": 0.1},
                optimizer={"lr": 3e-3, "weight_decay": 0.0},
                eval_interval="1dur",
                save_folder=str(tmp_path / str(passes)),
            )
        )
        (validation,) = (v for k, v in result["validation"].items() if not k.endswith("_se"))
        assert np.mean(losses(tmp_path / str(passes))[-30:]) < validation - 0.1


@pytest.mark.slow
def test_a_mixture_is_trained_on_exactly(run_config, make_pool, tmp_path: Path) -> None:
    more = make_pool(tokens(4, 505), SEQ_LEN, name="more")
    sources = {
        "toy": {"path": str(tmp_path / "artifacts" / "pools" / "toy"), "epochs": 1},
        "more": {"path": str(more), "epochs": 3, "policy": "fixed"},
    }
    data = {"dataset": {"mixture": {"sources": sources, "window": 10}}}
    config = run_config("mdm", train_loader=data, max_duration="", save_folder=str(tmp_path / "run"))
    result = train(config)
    assert result["tokens"] == 1003 + 3 * 505
    assert result["receipt"]["valid"]
    assert result["unique_tokens"] == 1003 + 505
    assert [source.name for source in prepare(config).plan.sources] == ["toy", "more"]
    assert read_metrics(str(tmp_path / "run"))[-1]["run/unique_tokens"] == 1003 + 505
    assert train(config.model_copy(update={"autoresume": True})) == result
    for wrong in ({"path": "x"} | data["dataset"], {"seed": 1} | data["dataset"], {}):
        with pytest.raises(ValueError, match=r"give the path|each of its sources"):
            run_config("ar", train_loader={"dataset": wrong}, max_duration="")
    with pytest.raises(ValueError, match="leave max_duration out"):
        run_config("ar", train_loader=data)


def test_a_flipped_bit_in_the_validation_pool_stops_the_run_with_the_shards_name(
    run_config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    name = flip_bit(tmp_path / "artifacts/pools/toy-val", 1)
    config = run_config(save_folder=str(tmp_path / "run"))
    with pytest.raises(WorkError, match=f"{name} is damaged"):
        train(config)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    assert main(["train", str(path)]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("epochal: shard ")
    assert f"{name} is damaged" in said
    fewer = config.model_dump(mode="json", exclude_unset=True)
    fewer["eval_loader"]["dataset"]["samples"] = 8  # all of them in shards that are sound
    assert train(TrainConfig.model_validate(fewer))["receipt"]["valid"]
