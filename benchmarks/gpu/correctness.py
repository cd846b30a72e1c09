"""Whether a GPU computes the right thing: gradients against float64 on a CPU, and runs that are killed and resumed."""

import copy
import math
import multiprocessing
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from composer import Callback
from composer.core import Precision, get_precision_context
from torch import Tensor

from epochal.benchmarks.gpu.sizes import Place, Sizes
from epochal.benchmarks.train import configured
from epochal.common.errors import WorkError
from epochal.shards.loader.cache import default_cache
from epochal.train import trainer as ours
from epochal.train.checkpoint import load_model
from epochal.train.config import TrainConfig
from epochal.train.data import Split
from epochal.train.model.compiled import compile_model
from epochal.train.model.composer import LanguageModel, build
from epochal.train.model.layers import NarrowWeights
from epochal.train.run_folder import RunFolder, read_metrics, train_losses

Rows = list[dict[str, Any]]

LIMITS = {"float32": (1e-5, 1e-4), "bfloat16": (1e-2, 5e-2)}
"""Relative error that the loss and the whole gradient may have."""

STEPS, SAVED_EVERY, KILLED_AT = 10, 4, 6


class Kill(Callback):
    """Ends the process at a step as a machine that fails would: nothing is saved, nothing is said."""

    def batch_end(self, state: Any, logger: Any) -> None:
        if int(state.timestamp.batch) == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def gradients(objective: str, sizes: Sizes, place: Place) -> Rows:
    """Return, for each arithmetic, how far loss and gradients are from those in float64 on a CPU."""
    settings = sizes.checked | {"objective": {"name": objective}}
    run = ours.prepare(configured(settings, 1, place.folder / "data", sizes.gpu))
    # Weights of the initial size give nearly uniform predictions, whose errors say little.
    model = build(run.shape, run.objective.kind, run.config.seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.dim() > 1 else 1)
    batch = Split()(next(iter(ours.train_loader(run))), sizes.checked["device_train_microbatch_size"])[0]
    reference = _losses(copy.deepcopy(model).double(), batch, "cpu", "fp32")
    device, rows = "cuda" if sizes.gpu else "cpu", []
    for arithmetic, compiled in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        ours_here = copy.deepcopy(model).to(device)
        ours_here.transformer.narrow = NarrowWeights(adds=True)
        if compiled:
            compile_model(ours_here.transformer, sizes.compiled)
        found = _losses(ours_here, batch, device, "fp32" if arithmetic == "float32" else "amp_bf16")
        rows.append({"what": f"{arithmetic}{', compiled' if compiled else ''}"} | errors(reference, found, arithmetic))
    return rows


def _losses(model: LanguageModel, batch: Mapping[str, Any], device: str, precision: str) -> dict[str, Tensor]:
    """Return the loss and each weight's gradient, in float64 on the CPU."""
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    # Composer's context of bfloat16 is that of the GPU alone.
    bfloat16_on_cpu = torch.autocast("cpu", torch.bfloat16)
    with bfloat16_on_cpu if (device, precision) == ("cpu", "amp_bf16") else get_precision_context(Precision(precision)):
        loss = model.loss(model(moved), moved)[model.kind]
    loss.backward()
    found = {"loss": loss, **{name: p.grad for name, p in model.named_parameters() if p.grad is not None}}
    return {name: value.detach().double().cpu() for name, value in found.items()}


def errors(reference: Mapping[str, Tensor], found: Mapping[str, Tensor], arithmetic: str) -> dict[str, Any]:
    """Return how far `found` is from `reference`, and whether that is within the limits of an arithmetic.

    Args:
        reference: the loss, under that name, and gradients by weight, float64.
        found: the same.

    Raises:
        WorkError: when other weights have gradients.
    """
    if reference.keys() != found.keys():
        raise WorkError(f"other weights have gradients: {sorted(reference.keys() ^ found.keys())}")
    names = [name for name in reference if name != "loss"]
    missed = {name: float((found[name] - reference[name]).square().sum()) for name in names}
    size = {name: float(reference[name].square().sum()) for name in names}
    worst = max(names, key=lambda name: missed[name] / max(size[name], 1e-300))
    loss = float((found["loss"] - reference["loss"]).abs() / reference["loss"].abs())
    whole = math.sqrt(sum(missed.values()) / sum(size.values()))
    return {
        "loss_error": loss,
        "gradient_error": whole,
        "worst_error": math.sqrt(missed[worst] / max(size[worst], 1e-300)),
        "worst": worst,
        "passed": loss <= LIMITS[arithmetic][0] and whole <= LIMITS[arithmetic][1],
    }


def resume(objective: str, sizes: Sizes, place: Place) -> Rows:
    """Return whether a run that was killed by SIGKILL and started again ends as one that was not, bit for bit."""
    settings = sizes.checked | {"objective": {"name": objective}, "deterministic": True, "autoresume": True}
    settings |= {"save_interval": f"{SAVED_EVERY}ba", "run_name": "checked", "device": "gpu" if sizes.gpu else "cpu"}
    config = configured(settings | {"save_folder": "x"}, STEPS, place.folder / "data", sizes.gpu)
    whole, killed = (config.model_copy(update={"save_folder": str(place.folder / n)}) for n in ("whole", "killed"))
    _in_process(whole, sizes, kill=False)
    _in_process(killed, sizes, kill=True)
    saved = RunFolder(str(killed.save_folder), default_cache()).steps_saved()
    _in_process(killed, sizes, kill=False)
    results = [ours.train(each) for each in (whole, killed)]  # finished: what they left is read
    receipts = [result["receipt"] for result in results]
    first, second = (_weights(Path(str(each.save_folder))) for each in (whole, killed))
    same = first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    checks = {
        f"weights after step {STEPS}, killed after step {KILLED_AT}, resumed from step {saved}": same
        and saved == SAVED_EVERY,
        "training losses of all steps": _curve(whole) == _curve(killed),
        "receipt of the whole run": receipts[0]["valid"],
        "receipt of the killed run, equal to it": receipts[1]["valid"] and receipts[0] == receipts[1],
    }
    return [{"what": what, "passed": bool(passed)} for what, passed in checks.items()]


def _train(config: TrainConfig, kill: bool) -> None:
    if not kill:
        ours.train(config)
        return
    trainer = ours.build_trainer(ours.prepare(config))
    trainer.state.callbacks.append(Kill())
    trainer.fit()


def _in_process(config: TrainConfig, sizes: Sizes, kill: bool) -> None:
    """Train in a process of its own. Raises WorkError when it ended otherwise than it should have."""
    context: Any = multiprocessing.get_context("spawn" if sizes.gpu else "fork")
    process = context.Process(target=_train, args=(config, kill))
    process.start()
    process.join()
    if process.exitcode != (-signal.SIGKILL if kill else 0):
        raise WorkError(f"a run ended with status {process.exitcode}, which is not as it should end")


def _curve(config: TrainConfig) -> list[float]:
    return [loss for row in read_metrics(str(config.save_folder)) for loss in train_losses(row).values()]


def _weights(folder: Path) -> dict[str, Tensor]:
    return load_model(str(folder / "final"))[0].state_dict()
