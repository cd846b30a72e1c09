"""What a run was computed with: versions, device, threads; `environment.json` of its folder."""

import functools
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from composer.utils import dist

from ...common.command_line.version import commit

PACKAGES = {"composer": "mosaicml", "streaming": "mosaicml-streaming", "numpy": "numpy", "tokenizers": "tokenizers"}
HISTORY = ("from_step", "earlier")
UNKNOWN = "unknown"
"""Stands for what a run of version 0.1.0 does not say."""


def current(device: str, precision: str) -> dict[str, Any]:
    """Return what this process computes with: JSON values."""
    gpu = device == "gpu"
    return {
        "epochal": _version("epochal"),
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(package) for name, package in PACKAGES.items()},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if gpu else _processor(),
        "cuda": torch.version.cuda if gpu else None,
        "dtype": precision,
        "threads": torch.get_num_threads(),
        "ranks": dist.get_world_size(),
    }


def going_on(before: Mapping[str, Any] | None, now: dict[str, Any], step: int) -> dict[str, Any]:
    """Return what `environment.json` is to hold when a run starts, or goes on, at `step`.

    `earlier` lists the environments of the steps before, the first one first; each began at its `from_step`. What was
    there from `step` on is taken again, and so forgotten.

    Args:
        before: what the file holds, None where there is none.
        now: what this process computes with.
        step: steps taken so far.
    """
    if step == 0:
        return now | {"from_step": 0, "earlier": []}
    if before is None:
        before = {"epochal": UNKNOWN, "from_step": 0, "earlier": []}
    parts = [*before["earlier"], {k: v for k, v in before.items() if k != "earlier"}]
    parts = [part for part in parts if part["from_step"] < step]
    if parts and _plain(parts[-1]) == now:
        step = parts.pop()["from_step"]
    return now | {"from_step": step, "earlier": parts}


def is_history(body: Mapping[str, Any]) -> bool:
    """Return whether what a file holds is what `going_on` makes."""
    earlier = body.get("earlier")
    parts = [body, *earlier] if isinstance(earlier, list) else [None]
    return all(isinstance(part, dict) and isinstance(part.get("from_step"), int) for part in parts)


def differences(body: Mapping[str, Any]) -> list[str]:
    """Return `name old -> new` for what differs from the environment before; empty where there was no other one."""
    if not body["earlier"]:
        return []
    before, now = _plain(body["earlier"][-1]), _plain(body)
    return [f"{k} {before.get(k, UNKNOWN)} -> {v}" for k, v in now.items() if before.get(k, UNKNOWN) != v]


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in body.items() if k not in HISTORY}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
