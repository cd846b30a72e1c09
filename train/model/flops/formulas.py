"""Floating-point operations of training and of generating text, by formula.

P: weights that take part in matrix products, the output head included (an embedding look-up costs nothing; a tied one
counts as the head). L: layers, w: heads * head size, n: tokens generated, without a prompt.

    autoregressive, keys and values cached:   sum over i = 1..n of (2 P + 4 L w i)
    masked diffusion, S full passes:          S * n * (2 P + 4 L w n)

With S = n these are the formulas behind the 16 to 4700 times of arXiv 2511.03276.
"""

from typing import Any, NamedTuple

import torch

from ..transformer import ModelConfig

PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12, "A10": 125e12, "L40S": 362e12}
"""Dense bfloat16 FLOP/s that vendors state, without sparsity (H100 and H200: the SXM form)."""


class Shares(NamedTuple):
    """What of a training step must be computed, per token that is trained on.

    Attributes:
        targets: mean share of tokens that are targets, 1 for autoregressive, (1 + eps) / 2 for masked diffusion.
        attention: of the square attention matrix over a sample, 1/2 of a causal model.
        reads: how often a token is read, more than once in block diffusion.
    """

    targets: float
    attention: float
    reads: float = 1.0


def block_shares(block_size: int, seq_len: int) -> Shares:
    """Return the shares of block diffusion, which reads all blocks but the last clean, and all of them noised."""
    sizes = [min(block_size, seq_len - start) for start in range(0, seq_len, block_size)]
    earlier = list(range(0, seq_len, block_size))
    noised = sum(own * (before + own) for own, before in zip(sizes, earlier, strict=True))
    clean = sum(own * (before + own) for own, before in zip(sizes[:-1], earlier[:-1], strict=True))
    targets = sum((own + 1) / 2 for own in sizes) / seq_len
    return Shares(targets, (noised + clean) / seq_len**2, 1 + earlier[-1] / seq_len)


def training_flops_per_token(
    config: ModelConfig,
    seq_len: int,
    target_share: float = 1.0,
    attention_share: float | None = None,
    reads: float = 1.0,
) -> float:
    """Return forward and backward FLOPs per token that the model needs, nothing recomputed.

        6 * (reads * block weights + target_share * head weights) + 12 * layers * width * seq_len * attention_share

    which is the form of Chowdhery et al. 2022 (PaLM, appendix B) with two corrections: a causal model needs half of the
    attention matrix, and logits are needed for targets only.

    Args:
        target_share: see `Shares`. Embedding look-ups count nothing.
        attention_share: see `Shares`; when not given 1/2 of a causal model, else all.
        reads: see `Shares`.
    """
    if attention_share is None:
        attention_share = 0.5 if config.causal else 1.0
    products = reads * config.block_parameters + target_share * config.head_parameters
    attention = 12 * config.layers * config.attention_width * seq_len * attention_share
    return 6 * products + attention


def peak_flops(device: torch.device) -> float | None:
    """Return the bfloat16 peak of a known GPU in FLOP/s, None for others and for CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).upper()
    return next((peak for key, peak in PEAK_BF16.items() if key in name), None)


LENGTHS = (16, 64, 256, 1024, 2048, 4096)
"""Generated lengths that the paper's claim covers."""


def matrix_parameters(config: ModelConfig) -> int:
    """Return P."""
    return config.block_parameters + config.head_parameters


def training(config: ModelConfig, seq_len: int) -> dict[str, float]:
    """Return training FLOPs per token: 6 P alone, and with attention over `seq_len` tokens, causal and full.

    The full form is what a masked-diffusion model needs (logits for every token), and what a causal one costs where a
    kernel does not skip the masked half.
    """
    attention = 12 * config.layers * config.attention_width * seq_len
    shares = block_shares(config.block_size, seq_len) if config.block_size else ()
    products = 6.0 * matrix_parameters(config)
    return {
        "six_nd": products,
        "with_attention_causal": products + attention / 2,
        "with_attention_full": products + attention,
        "model": training_flops_per_token(config, seq_len, *shares),
    }


def autoregressive(config: ModelConfig, n: int) -> float:
    """Return FLOPs of generating `n` tokens one after another with cached keys and values."""
    return 2.0 * matrix_parameters(config) * n + 4.0 * config.layers * config.attention_width * n * (n + 1) / 2


def masked_diffusion(config: ModelConfig, n: int, steps: int | None = None) -> float:
    """Return FLOPs of generating `n` tokens in `steps` full passes (n when None), nothing cached."""
    per_pass = n * (2.0 * matrix_parameters(config) + 4.0 * config.layers * config.attention_width * n)
    return (n if steps is None else steps) * per_pass


def masked_diffusion_cached(config: ModelConfig, n: int, block: int, steps: int | None = None) -> float:
    """Return FLOPs of generating `n` tokens in blocks, finished blocks cached.

    A step reads its block only, which attends to itself and to all earlier ones; `steps` (n when None) are shared out
    evenly over blocks, and each finished block is read once more to be cached. So block diffusion is generated; for a
    model that attends to both sides it is a cost only, as such a cache would approximate it.
    """
    total, start = 0.0, 0
    passes = (n if steps is None else steps) * block / n + 1
    while start < n:
        size = min(block, n - start)
        attention = 4.0 * config.layers * config.attention_width * (start + size)
        total += (passes if start + size < n else passes - 1) * size * (2.0 * matrix_parameters(config) + attention)
        start += size
    return total


def ratio(config: ModelConfig, n: int, steps: int | None = None) -> float:
    """Return how many times the autoregressive FLOPs masked diffusion needs for `n` tokens."""
    return masked_diffusion(config, n, steps) / autoregressive(config, n)


def report(config: ModelConfig, seq_len: int, steps: int | None = None, block: int = 32) -> dict[str, Any]:
    """Return all figures: `training` per token, `inference_ratio` by generated length (steps = length), `inference`.

    Args:
        steps: of the declared rows, at most the length.
        block: of the cached row.
    """
    inference = {}
    for n in LENGTHS:
        declared, ar = min(steps or n, n), autoregressive(config, n)
        uncached = masked_diffusion(config, n, declared)
        cached = masked_diffusion_cached(config, n, min(block, n), declared)
        inference[str(n)] = {
            "autoregressive": ar,
            "masked_diffusion": uncached,
            "masked_diffusion_cached": cached,
            "steps": declared,
            "ratio": uncached / ar,
            "ratio_cached": cached / ar,
        }
    return {
        "parameters": {"blocks": config.block_parameters, "head": config.head_parameters},
        "seq_len": seq_len,
        "training": training(config, seq_len),
        "inference_ratio": {str(n): ratio(config, n) for n in LENGTHS},
        "inference": inference,
        "block": block,
    }
