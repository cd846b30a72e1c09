"""Runs of Composer on a CPU, small enough to compare number by number."""

import errno
import json
import math
import multiprocessing
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable as Function
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from composer import Callback
from torch.utils.data import DataLoader

import epochal
from epochal.common.errors import RequestError, WorkError
from epochal.tests.support.training import interrupt
from epochal.train.checkpoint import load_model
from epochal.train.config import TrainConfig
from epochal.train.data import Collate, Split, ValidationSet
from epochal.train.model.composer import LanguageModel
from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.trainer import build_trainer, prepare, read_metrics, train, validation_objective

torch.set_num_threads(1)  # these models are too small to share out

EOD = 256
SEQ_LEN = 16


def tokens(seed: int, n: int) -> np.ndarray:
    """Return documents of 50 tokens over eight letters."""
    text = np.random.default_rng(seed).integers(0, 8, n).astype(np.uint16)
    text[49::50] = text[-1] = EOD
    return text


@pytest.fixture
def run_config(make_pool: Function[..., Path], tmp_path: Path) -> Function[..., TrainConfig]:
    """Return `make(objective, **changes)`: 3.37 passes over 1003 unique tokens in batches of 8."""
    make_pool(tokens(1, 1003), SEQ_LEN, name="toy")
    held_out = make_pool(tokens(2, 333), SEQ_LEN, name="toy-val")

    def make(objective: str | dict = "ar", **changes: Any) -> TrainConfig:
        data: dict[str, Any] = {
            "seed": 3,
            "model": {"layers": 2, "hidden": 32, "heads": 2, "ffn": 48},
            "objective": {"name": objective} if isinstance(objective, str) else objective,
            "train_loader": {"dataset": {"path": str(tmp_path / "artifacts" / "pools" / "toy")}},
            "eval_loader": {"dataset": {"path": str(held_out)}, "noise_samples": 3},
            "optimizer": {"lr": 3e-3},
            "scheduler": {"name": "wsd", "t_warmup": "2ba"},
            "max_duration": "3.37ep",
            "global_train_batch_size": 8,
            "device_train_microbatch_size": 4,
            "eval_interval": "10ba",
            "save_interval": "10ba",
            "device": "cpu",
            "progress_bar": False,
        }
        return TrainConfig.model_validate(data | changes)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ar", "mdm"])
def test_a_run_trains_on_its_plan_exactly(run_config, tmp_path: Path, objective: str) -> None:
    result = train(run_config(objective, save_folder=str(tmp_path / "run")))
    assert result["receipt"]["valid"]
    assert 3380 - SEQ_LEN < result["tokens"] <= 3380
    kind = "nll" if objective == "ar" else "nelbo"
    rows = read_metrics(str(tmp_path / "run"))
    losses = [row[f"loss/train/{kind}"] for row in rows if f"loss/train/{kind}" in row]
    assert len(losses) == result["steps"] == 27
    assert losses[-1] < losses[0]
    assert 1.5 < result["validation"][kind] < 5.6


def losses(folder: Path | str) -> list[float]:
    """Return the training loss of every step, whatever its kind."""
    rows = read_metrics(str(folder))
    return [v for row in rows for k, v in row.items() if k.startswith("loss/train/") and not k.endswith("total")]


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    """Return the weights that a finished run left."""
    return dict(load_model(str(Path(folder) / "final"))[0].named_parameters())


OBJECTIVES: list[dict] = [
    {"name": "ar", "input_masking": 0.2},
    {"name": "mdm", "weighting": "inverse_t", "sampling": "uniform"},
    {"name": "mdm", "weighting": "exact_count", "sampling": "stratified"},
]


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o['name']}-{o.get('weighting', '')}")
def test_micro_batches_change_neither_losses_nor_receipt(run_config, tmp_path: Path, objective: dict) -> None:
    results = [
        train(run_config(objective, device_train_microbatch_size=size, save_folder=str(tmp_path / str(size))))
        for size in (1, 4, "auto")
    ]
    assert len({r["receipt"]["digest"] for r in results}) == 1
    one, four, auto = (losses(tmp_path / str(size)) for size in (1, 4, "auto"))
    np.testing.assert_allclose(one, four, rtol=0, atol=2e-5)
    np.testing.assert_allclose(one, auto, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES[1:2], ids=["mdm"])
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
def test_nan_stops_the_run_names_its_positions_and_keeps_the_last_checkpoint(
    run_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config("mdm", save_folder=str(tmp_path / "run"), autoresume=True)
    plain = LanguageModel.forward

    def broken(self: LanguageModel, batch: dict) -> torch.Tensor:
        calls.append(1)
        return plain(self, batch) * (math.nan if len(calls) == 2 * 15 + 1 else 1.0)

    calls: list[int] = []
    monkeypatch.setattr(LanguageModel, "forward", broken)
    with pytest.raises(WorkError, match=r"nan at step 15, positions 120 to 127") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(LanguageModel, "forward", plain)
    assert (tmp_path / "run" / "latest-rank0.pt").resolve().name == "ba10-rank0.pt"
    assert train(config)["receipt"]["valid"]


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
    with pytest.raises(WorkError, match="No space left") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(torch, "save", whole)
    assert train(config)["receipt"]["valid"]
    assert len(losses(tmp_path / "run")) == 27


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"layers": 1, "hidden": 32, "heads": 2, "ffn": 8, "vocab_size": 50257}}, "tokenized with 259 ids"),
        ({"max_seq_len": 2048}, "max_seq_len is 2048"),
        ({"device": "gpu"}, "torch sees no GPU"),
        ({"precision": "amp_bf16"}, "needs a GPU"),
        ({"parallelism_config": {"fsdp": {}}}, "needs GPUs"),
        ({"global_train_batch_size": 1000}, "larger than the whole run"),
        ({"max_duration": "3"}, "budget"),
        ({"callbacks": {"lr_monito": None}}, "known callbacks are"),
        ({"loggers": {"file": {"flename": "x"}}}, "unknown key 'flename'"),
        ({"train_loader": {"dataset": {"path": "/nowhere"}}}, "does not exist"),
    ],
)
def test_wrong_requests_are_one_line(run_config, changes: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        train(run_config(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_exported_model_scores_what_validation_measured(run_config, tmp_path: Path) -> None:
    for objective in ("ar", "mdm"):
        folder = tmp_path / objective
        config = run_config(objective, save_folder=str(folder))
        result = train(config)
        model, card = load_model(str(folder / "final"))
        assert card.training["steps"] == 27
        assert card.training["validation"] == result["validation"]
        run = prepare(config)
        rows = []
        assert run.validation is not None
        for batch in DataLoader(
            ValidationSet(run.validation, None, 4, 0, 1),
            batch_size=None,
            collate_fn=Collate(validation_objective(run, 3, 0), 3 if objective == "mdm" else 1),
        ):
            wrapped = LanguageModel(model, card.kind)
            parts = Split(3 if objective == "mdm" else 1)(batch, 4)
            rows += [wrapped.eval_forward(part).detach() for part in parts]
        nats = torch.cat(rows).mean(1).sum() / 333
        assert float(nats) == pytest.approx(result["validation"][card.kind], abs=1e-6)
        assert (folder / "best" / "model.safetensors").exists()


def test_a_damaged_or_foreign_model_is_refused(run_config, tmp_path: Path) -> None:
    train(run_config("ar", save_folder=str(tmp_path / "run"), max_duration="1ep"))
    folder = tmp_path / "run" / "final"
    with pytest.raises(RequestError, match="holds no model"):
        load_model(str(tmp_path))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WorkError, match="damaged"):
        load_model(str(folder))
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(RequestError, match="format 9"):
        load_model(str(folder))


@pytest.mark.slow
def test_the_logs_name_kinds_and_count_exactly(run_config, tmp_path: Path) -> None:
    result = train(run_config("mdm", save_folder=str(tmp_path / "run")))
    last = read_metrics(str(tmp_path / "run"))[-1]
    assert last["step"] == 27
    assert last["run/tokens"] == result["tokens"]
    assert last["run/passes"] == pytest.approx(result["tokens"] / 1003)
    assert last["run/unique_tokens"] == 1003
    assert last["receipt/valid"] == 1.0
    assert {"metrics/validation/nelbo", "metrics/validation/nelbo_se", "run/lr", "throughput/tokens_per_sec"} <= set(
        last
    )
    assert "throughput/mfu" not in last  # no peak is known for a CPU
    assert read_metrics(str(tmp_path / "run"))[3]["run/grad_norm"] > 0


class ReadsMetrics(Callback):
    """Reads the file of metrics at every checkpoint, as a process started after a kill would find it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.found: list[dict[str, float]] = []

    def batch_checkpoint(self, state: Any, logger: Any) -> None:
        last = read_metrics(self.folder)[-1]
        assert last["step"] == int(state.timestamp.batch)
        self.found.append(last)


@pytest.mark.slow
def test_a_checkpoint_is_never_ahead_of_its_metrics(run_config, tmp_path: Path) -> None:
    trainer = build_trainer(prepare(run_config(save_folder=str(tmp_path / "run"))))
    reader = ReadsMetrics(str(tmp_path / "run"))
    trainer.state.callbacks.insert(0, reader)
    trainer.fit()
    trainer.close()
    assert len(reader.found) == 27
    assert ["metrics/validation/nll" in row for row in reader.found].count(True) == 2
    assert "metrics/validation/nll" in reader.found[9]


@pytest.mark.slow
def test_both_types_overfit_a_small_subset(run_config, make_pool, tmp_path: Path) -> None:
    pool = make_pool(tokens(1, 203), SEQ_LEN, name="small")
    for objective, passes in (("ar", 100), ({"name": "mdm", "weighting": "exact_count"}, 250)):
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


def in_ranks(world: int, function: Function[..., Any], *args: Any) -> None:
    """Call `function(*args)` in `world` forked ranks (gloo on loopback); fail when one of them fails."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(r, world, port, function, args)) for r in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    assert codes == [0] * world


def _rank(rank: int, world: int, port: int, function: Function, args: tuple) -> None:
    names = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world, "NODE_RANK": 0}
    os.environ |= {k: str(v) for k, v in names.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["COMPOSER_RUN_NAME"] = os.environ["STREAMING_RUN"] = "test"
    try:
        function(*args)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


@pytest.mark.processes
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: f"{o['name']}-{o.get('weighting', '')}")
def test_two_ranks_give_the_losses_and_the_receipt_of_one(run_config, tmp_path: Path, objective: dict) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    expected = train(run_config(objective, save_folder=str(one), max_duration="1168"))
    in_ranks(2, train, run_config(objective, save_folder=str(two), max_duration="1168"))
    result = json.loads((two / "result.json").read_text())["result"]
    assert result["receipt"] == expected["receipt"]
    np.testing.assert_allclose(losses(two), losses(one), rtol=0, atol=5e-5)
    for kind, value in expected["validation"].items():
        assert result["validation"][kind] == pytest.approx(value, abs=1e-4)


@pytest.mark.processes
def test_resumed_on_another_number_of_ranks_sees_the_same_samples_and_masks(run_config, tmp_path: Path) -> None:
    folders = tmp_path / "whole", tmp_path / "parts"
    whole, parts = (
        run_config("mdm", save_folder=str(f), autoresume=True, max_duration="1.2ep", save_interval="4ba")
        for f in folders
    )
    expected = train(whole)
    in_ranks(2, interrupt, parts, 6)
    result = train(parts)
    assert result["receipt"] == expected["receipt"]
    np.testing.assert_allclose(losses(folders[1]), losses(folders[0]), rtol=0, atol=5e-5)


@pytest.mark.processes
def test_composers_launcher_trains_on_two_ranks(run_config, tmp_path: Path) -> None:
    config = run_config("mdm", save_folder=str(tmp_path / "run"), max_duration="1ep").model_dump()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    root = Path(epochal.__file__).parent.parent
    command = [sys.executable, "-m", "composer.cli", "-n", "2", "-m", "epochal.train", str(tmp_path / "config.yaml")]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*command, "run_name=launched"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "run" / "result.json").read_text())["result"]
    assert result["name"] == "launched"
    assert result["receipt"]["valid"]


def _sharded_loss(folder: Path) -> None:
    """Write the loss and a gradient norm of one step with every block sharded over all ranks."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    model = _small_model()
    if dist.is_initialized():
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for module in reversed(list(model.modules())):
            if model.fsdp_wrap_fn(module):
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
    tokens = torch.arange(32).view(2, 16) % 50
    loss = model(tokens, None, torch.arange(0, 32, 2), torch.arange(16) % 50, torch.ones(16))
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor() / dist.get_world_size()  # torch's gloo sums gradients, NCCL averages them
    (folder / f"{os.environ.get('RANK', 'whole')}.json").write_text(json.dumps([float(loss), float(norm)]))


def _small_model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(vocab_size=50, layers=2, hidden=32, heads=2, ffn=48, causal=True, init_std=0.2))


@pytest.mark.processes
def test_a_model_sharded_over_two_ranks_has_the_loss_and_gradient_of_a_whole_one(tmp_path: Path) -> None:
    _sharded_loss(tmp_path)
    in_ranks(2, _sharded_loss, tmp_path)
    whole, zero, one = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "0", "1"))
    assert zero == pytest.approx(whole, rel=1e-5)
    assert one == pytest.approx(whole, rel=1e-5)


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
