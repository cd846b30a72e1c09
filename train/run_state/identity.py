"""Which settings a run's figures follow from, and which may change while it goes on; a run's configuration as a file.

What the figures follow from is held by `run.json` and by every checkpoint: a run that would go on with another value is
refused. All other settings are in `run.json` too, so that a change can be told.
"""

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from ..config import TrainConfig

FIGURES = {
    "seed": "first weights, order, noise",
    "model": "what is trained",
    "objective": "what is trained",
    "init_from": "the first weights",
    "train_loader.dataset": "which samples come when",
    "max_duration": "which samples come when; the schedule ends with it",
    "global_train_batch_size": "what a step is",
    "optimizer": "what a step does",
    "scheduler": "what a step does",
    "algorithms": "what a step does",
    "precision": "what a step does",
    "parallelism_config.fsdp.mixed_precision": "what a step does",
    "eval_loader": "what validation measures",
    "eval_interval": "where validation measures, and so which model is `best`",
    "eval_tasks": "what the tasks measure",
    "callbacks.early_stopper": "where the run ends",
}
"""Keys (and all below them, but for those in MAY_CHANGE) that a run is refused for when they differ, and why."""

MAY_CHANGE = {
    "run_name": "a name",
    "variables": "they count where they are used",
    "max_seq_len": "a check of the data's",
    "train_loader.dataset.path": "data counts by its fingerprint, wherever it lies",
    "train_loader.dataset.cache": "the same samples arrive",
    "train_loader.dataset.cache_limit": "the same samples arrive",
    "train_loader.dataset.verify": "the same samples arrive",
    "train_loader.num_workers": "the same samples arrive",
    "train_loader.prefetch_factor": "the same samples arrive",
    "train_loader.pin_memory": "the same samples arrive",
    "eval_loader.dataset.path": "data counts by its fingerprint, wherever it lies",
    "eval_loader.num_workers": "the same samples arrive",
    "eval_tasks.data": "where the benchmarks' files lie",
    "device_train_microbatch_size": "rounding alone",
    "device_eval_batch_size": "rounding alone",
    "device": "rounding alone: precision counts by itself",
    "parallelism_config": "rounding alone",
    "attention_backend": "rounding alone",
    "compile_config": "rounding alone",
    "activation_checkpointing": "the same is computed again",
    "deterministic": "rounding alone",
    "callbacks": "they watch",
    "loggers": "they watch",
    "service": "it watches",
    "save_folder": "where the run lies",
    "save_interval": "where it can be gone on from",
    "save_num_checkpoints_to_keep": "where it can be gone on from",
    "autoresume": "whether it is gone on with",
    "load_path": "the checkpoint says which run it is of",
    "progress_bar": "what is shown",
    "log_to_console": "what is shown",
    "console_log_interval": "what is shown",
    "python_log_level": "what is shown",
    "dist_timeout": "how long ranks wait",
}
"""Keys that may change when a run is gone on with, and why."""

UNTOLD = ("variables", "save_folder", "autoresume", "progress_bar", "log_to_console", "console_log_interval")
"""Keys whose change is plain to see."""

SPANS = ("t_warmup", "t_decay")

Span = Callable[[str | int, str], int]
"""A span of the configuration and its key -> steps."""


def may_change(key: str) -> bool:
    """Return whether the setting of the dotted `key` may change; a key that no table names may not."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        if prefix in FIGURES or prefix in MAY_CHANGE:
            return prefix in MAY_CHANGE
    return False


def figures(config: TrainConfig, span: Span, precision: str, validation: str | None) -> dict[str, Any]:
    """Return the settings that figures follow from beside order, model, objective, seed and batch: JSON values.

    Args:
        config: of the run.
        span: makes steps of spans, so that the same length is the same setting however it is written.
        precision: as resolved.
        validation: fingerprint of what is validated on.
    """
    body = config.model_dump(mode="json")
    spans = {k: f"{span(body['scheduler'][k], f'scheduler.{k}')}ba" for k in SPANS if k in body["scheduler"]}
    measured, tasks = body["eval_loader"], body["eval_tasks"]
    if measured:
        samples = measured["dataset"]["samples"]
        measured = {k: measured[k] for k in ("noise_samples", "noise_seed")} | exact_of(body)
        measured["dataset"] = {"fingerprint": validation, "samples": samples}
    fsdp = (body["parallelism_config"] or {}).get("fsdp") or {}
    return {
        "optimizer": config.optimizer.figures(),
        "scheduler": body["scheduler"] | spans,
        "algorithms": _algorithms(config, span),
        "precision": precision,
        "eval_loader": measured,
        "eval_interval": f"{span(config.eval_interval, 'eval_interval')}ba" if measured else None,
        "eval_tasks": {k: v for k, v in tasks.items() if k != "data"} if tasks else None,
        "model.init_device": config.model.init_device,
        "parallelism_config.fsdp.mixed_precision": fsdp.get("mixed_precision"),
        "callbacks.early_stopper": body["callbacks"].get("early_stopper"),
    }


def _algorithms(config: TrainConfig, span: Span) -> dict[str, Any]:
    """Return the section with its spans in steps."""
    body = config.algorithms.figures()
    for section, key in (("ema", "half_life"), ("early_stop", "cooldown")):
        if body.get(section):
            body[section] |= {key: f"{span(body[section][key], f'algorithms.{section}.{key}')}ba"}
    return body


def exact_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"exact": ...} of a dumped configuration where it has figures follow from it, else nothing.

    It changes nothing of an autoregressive run; and where nobody asks for it, runs go by the names that they had before
    there was such a key.
    """
    exact = (body["eval_loader"] or {}).get("exact")
    return {"exact": exact} if exact and body["objective"]["name"] != "ar" else {}


def resolved(config: TrainConfig, device: str, precision: str) -> dict[str, Any]:
    """Return the configuration with all defaults and what this machine decided, as a file has it: no secrets."""
    body = config.model_dump(mode="json") | {"device": device, "precision": precision}
    data = body["train_loader"]["dataset"]
    if data["mixture"] is None:
        data["seed"] = config.seed if data["seed"] is None else data["seed"]
        del data["mixture"]
    else:
        for key in ("path", "policy", "seed"):
            del data[key]
    public: dict[str, Any] = config.public(body)
    return public


def to_yaml(body: Mapping[str, Any]) -> str:
    """Return the text of a `config.yaml`, which `load_config` reads back."""
    return yaml.safe_dump(dict(body), sort_keys=False, allow_unicode=True)


def others(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a resolved configuration that may change, and whose change is told, by dotted key."""
    return {k: v for k, v in _flat(body).items() if may_change(k) and not k.startswith(UNTOLD)}


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return `key old -> new` for every setting that differs."""
    keys = [*now, *(k for k in before if k not in now)]
    return [f"{k} {before.get(k)} -> {now.get(k)}" for k in keys if before.get(k) != now.get(k)]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        path = f"{prefix}{key}"
        flat |= _flat(inner, f"{path}.") if isinstance(inner, Mapping) and inner else {path: inner}
    return flat
