"""Training's speed, Composer beside a plain loop, and the kernels that it is spent in."""

from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from epochal.benchmarks.gpu.sizes import Place, Sizes
from epochal.benchmarks.train import (
    WARM_UP,
    cases,
    configured,
    derived,
    measure,
    plain_rate,
    plain_steps,
    rated,
)
from epochal.common.errors import RequestError
from epochal.train import trainer as ours

Rows = list[dict[str, Any]]
MOST = 10
"""Kernels that are listed."""


def settings_of(model: str, objective: str, compiled: bool, sizes: Sizes) -> dict[str, Any]:
    """Return the training keys of a case."""
    settings = dict(cases(sizes.gpu))[f"{model} {objective}"] | sizes.models[model]
    return settings | {"compile_config": sizes.compiled if compiled else None}


def speed(model: str, objective: str, compiled: bool, sizes: Sizes, place: Place) -> Rows:
    """Return tokens/s, MFU and peak memory of one model of one type."""
    settings = settings_of(model, objective, compiled, sizes)
    row: dict[str, Any] = derived(measure(settings, sizes.steps, place.folder / "data", sizes.gpu))
    return [{"what": f"{model} {objective}, {'compiled' if compiled else 'not compiled'}"} | row]


def arm(model: str, objective: str, key: str, value: str, sizes: Sizes, place: Place) -> Rows:
    """Return tokens/s and peak memory of the plain loop, compiled, with one key more; or why the machine refuses it."""
    settings = settings_of(model, objective, True, sizes) | {key: value}
    config = configured(settings, sizes.steps, place.folder / "data", sizes.gpu)
    row: dict[str, Any] = {"what": f"{model} {objective}, {key}: {value}"}
    try:
        return [row | rated("plain", plain_rate, config, sizes.gpu)]
    except RequestError as error:
        return [row | {"refused": str(error)}]


def kernels(model: str, objective: str, sizes: Sizes, place: Place) -> Rows:
    """Return the kernels that take most of a step of the plain loop, compiled; operations on a CPU."""
    settings = settings_of(model, objective, True, sizes)
    config = configured(settings, WARM_UP + sizes.profiled, place.folder / "data", sizes.gpu)
    steps = plain_steps(ours.prepare(config))
    for _ in range(WARM_UP):
        next(steps)
    activity = ProfilerActivity.CUDA if sizes.gpu else ProfilerActivity.CPU
    if sizes.gpu:
        torch.cuda.synchronize()
    with profile(activities=[activity]) as profiler:
        for _ in range(sizes.profiled):
            next(steps)
        if sizes.gpu:
            torch.cuda.synchronize()
    return _most_expensive(profiler, f"{model} {objective}", sizes)


def _most_expensive(profiler: Any, label: str, sizes: Sizes) -> Rows:
    kind = DeviceType.CUDA if sizes.gpu else DeviceType.CPU
    of_event = "self_device_time_total" if sizes.gpu else "self_cpu_time_total"
    # Annotations span kernels, whose time would count twice.
    listed = [e for e in profiler.key_averages() if e.device_type == kind and not (sizes.gpu and e.is_user_annotation)]
    events = [(getattr(e, of_event), e) for e in listed]
    whole = sum(microseconds for microseconds, _ in events)
    rows = [
        {
            "what": label,
            "kernel": e.key,
            "calls": e.count / sizes.profiled,
            "milliseconds": microseconds / sizes.profiled / 1e3,
            "share": microseconds / whole,
        }
        for microseconds, e in sorted(events, key=lambda pair: (-pair[0], pair[1].key))
    ]
    rest = rows[MOST:]
    sums = {name: sum(row[name] for row in rest) for name in ("calls", "milliseconds", "share")}
    return [*rows[:MOST], {"what": label, "kernel": f"{len(rest)} others", **sums}]
