"""Runs of several ranks on one machine give what one rank gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import epochal
from epochal.tests.support.ranks import in_ranks
from epochal.tests.support.training import OBJECTIVES, interrupt, losses
from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.objective.halves import HALVES
from epochal.train.run_folder import read_metrics
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out


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
    kind = "nll" if objective["name"] == "ar" else "nelbo"
    for half in HALVES:
        key = f"metrics/validation/{kind}_{half}"
        (mine,), (theirs,) = ([row[key] for row in read_metrics(str(f)) if key in row][-1:] for f in (one, two))
        assert theirs == pytest.approx(mine, abs=1e-4)


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
        sums = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 15)
        # The gloo of torch 2.7 sums gradients; that of 2.15 averages them, as NCCL does.
        norm = norm.full_tensor() / (dist.get_world_size() if sums else 1)
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


@pytest.mark.processes
def test_two_ranks_share_the_exact_likelihood_out(run_config, tmp_path: Path) -> None:
    data = {"path": str(tmp_path / "artifacts" / "pools" / "toy-val"), "samples": 5}
    exact = {"order": "entropy", "tokens_per_step": 4}
    keys = {"max_duration": "1168", "eval_loader": {"dataset": data, "noise_samples": 3, "exact": exact}}
    one, two = tmp_path / "one", tmp_path / "two"
    expected = train(run_config("mdm", save_folder=str(one), **keys))["exact"]
    in_ranks(2, train, run_config("mdm", save_folder=str(two), **keys))
    found = json.loads((two / "result.json").read_text())["result"]["exact"]
    assert found.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-5)  # rounding of the gradient
    assert found == expected
