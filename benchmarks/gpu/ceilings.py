"""The machine, and the most that it can do: bfloat16 products and copies."""

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch

from epochal.benchmarks.common import machine
from epochal.benchmarks.gpu.sizes import Place, Sizes
from epochal.common.command_line.version import commit
from epochal.train.model.flops.formulas import peak_flops

Rows = list[dict[str, Any]]
ROUNDS, SECONDS = 5, 0.2
"""The best of so many rounds, each at least so long on a GPU."""


def environment(sizes: Sizes, place: Place) -> Rows:
    """Return what everything else was measured on, a row a fact; the first is the machine's name."""
    facts = {"machine": machine()}
    if sizes.gpu:
        found = torch.cuda.get_device_properties(0)
        capability = f"{found.major}.{found.minor}"
        facts = {"machine": found.name, "memory": f"{found.total_memory / 2**30:.0f} GiB", "capability": capability}
        facts |= {"CUDA of torch": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
        peak = peak_flops(torch.device("cuda"))
        facts |= {"peak by its vendor": f"{peak / 1e12:.0f} TFLOP/s" if peak else "not known, so no MFU"}
        facts |= {"processor": machine()}
    facts |= {"torch": torch.__version__, "Python": platform.python_version(), "system": platform.system()}
    facts |= {"epochal's commit": commit() or "not known"}
    facts |= {"threads": f"{torch.get_num_threads()}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"}
    return [{"what": what, "figure": figure} for what, figure in facts.items()]


def products(sizes: Sizes, place: Place) -> Rows:
    """Return TFLOP/s of square bfloat16 products, a row a size."""
    rows = []
    for side in sizes.matmul:
        a, b = (torch.randn(side, side, device=_device(sizes), dtype=torch.bfloat16) for _ in range(2))
        seconds = _best(lambda a=a, b=b: a @ b, sizes)  # type: ignore[misc]
        rows.append(
            {"what": f"bf16 product, {side} x {side}", "figure": 2 * side**3 / seconds / 1e12, "unit": "TFLOP/s"}
        )
    return rows


def copies(sizes: Sizes, place: Place) -> Rows:
    """Return GB/s of copying a tensor, its bytes counted twice: read and written."""
    source = torch.ones(sizes.copied, dtype=torch.uint8, device=_device(sizes))
    target = torch.empty_like(source)
    seconds = _best(lambda: target.copy_(source), sizes)
    what = f"copy of {sizes.copied / 2**20:.0f} MiB"
    return [{"what": what, "figure": 2 * sizes.copied / seconds / 1e9, "unit": "GB/s"}]


def _device(sizes: Sizes) -> str:
    return "cuda" if sizes.gpu else "cpu"


def _best(step: Callable[[], Any], sizes: Sizes) -> float:
    """Return the seconds of one call, the best round's mean."""
    calls, times = 1, []
    step()
    if sizes.gpu:
        calls = max(1, int(SECONDS / max(1e-6, _timed(step, 1, sizes))))
    for _ in range(ROUNDS):
        times.append(_timed(step, calls, sizes))
    return min(times)


def _timed(step: Callable[[], Any], calls: int, sizes: Sizes) -> float:
    if sizes.gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        step()
    if sizes.gpu:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / calls
