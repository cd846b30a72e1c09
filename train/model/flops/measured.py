"""What torch really executes, counted operation by operation, and how long it takes.

Counting needs no memory: tensors on the meta device have shapes only, and attention runs as the two matrix products it
is (fused CPU kernels are not counted by torch 2.7). A causal mask does not halve these, so the counts stand beside the
`full` formulas.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..kv_cache import KVCache
from ..transformer import ModelConfig, Transformer
from .formulas import matrix_parameters

MAX_TIMED_PARAMETERS = {"cpu": 200_000_000, "cuda": 12_000_000_000}
"""Larger models are counted only."""

Step = Callable[[], Any]


def counted(step: Step) -> int:
    """Return the FLOPs of the matrix products that `step` executes."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return int(counter.get_total_flops())


def training_step(model: Transformer, seq_len: int) -> Step:
    """Return forward and backward of one sample with a target at every token."""
    tokens = torch.zeros(1, seq_len, dtype=torch.int64, device=model.device)
    weights = torch.ones(seq_len, device=tokens.device)

    def step() -> None:
        model.train().zero_grad(set_to_none=True)
        model.draws.words = torch.zeros_like(tokens[:, 0])  # what dropout costs does not depend on what it draws
        model(tokens, labels=tokens.flatten(), weights=weights).backward()

    return step


def decoding(model: Transformer, n: int) -> Step:
    """Return the reading of the last of `n` tokens, keys and values of the others cached, and its logits."""
    tokens = torch.zeros(1, n, dtype=torch.int64, device=model.device)
    cache = KVCache(model.config.layers)
    model.eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        if n > 1:
            model.hidden_states(tokens[:, 1:], cache=cache)
    cache.set_keep(False)

    @torch.no_grad()
    def step() -> None:
        model.eval().logits(model.hidden_states(tokens[:, :1], cache=cache))

    return step


def denoising(model: Transformer, n: int) -> Step:
    """Return one full pass over `n` tokens with logits for all."""
    tokens = torch.zeros(1, n, dtype=torch.int64, device=model.device)

    @torch.no_grad()
    def step() -> None:
        model.eval().logits(model.hidden_states(tokens))

    return step


def _steps(config: ModelConfig, device: str, seq_len: int) -> dict[str, tuple[Step, float]]:
    """Return each step with the FLOPs that its formula says."""
    with torch.device(device):
        ar, mdm = (Transformer(replace(config, causal=causal)) for causal in (True, False))
    products = 2.0 * matrix_parameters(config)
    attention = 4.0 * config.layers * config.attention_width * seq_len
    return {
        "training_ar": (training_step(ar, seq_len), 3 * seq_len * (products + attention)),
        "training_mdm": (training_step(mdm, seq_len), 3 * seq_len * (products + attention)),
        "decode_ar": (decoding(ar, seq_len), products + attention),
        "denoise_mdm": (denoising(mdm, seq_len), seq_len * (products + attention)),
    }


def measure(config: ModelConfig, seq_len: int, device: str = "cpu", repeats: int = 3) -> dict[str, Any]:
    """Return by step: `counted` and `formula` FLOPs, `counted_over_formula`, and, where the model is not too large for
    `device`, `seconds` (best of `repeats`) and `flops_per_s`."""
    result: dict[str, Any] = {"device": device, "seq_len": seq_len}
    for name, (step, formula) in _steps(config, "meta", seq_len).items():
        flops = counted(step)
        result[name] = {"counted": flops, "formula": formula, "counted_over_formula": flops / formula}
    parameters = matrix_parameters(config)
    if parameters > MAX_TIMED_PARAMETERS[torch.device(device).type]:
        return result | {"timed": False, "why": f"{parameters:,} weights are too many to time on {device}"}
    for name, (step, _) in _steps(config, device, seq_len).items():
        seconds = _best(step, device, repeats)
        result[name] |= {"seconds": seconds, "flops_per_s": result[name]["counted"] / seconds}
    return result | {"timed": True}


def _best(step: Step, device: str, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        started = time.perf_counter()
        step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])
