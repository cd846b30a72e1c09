"""Floating-point operations of training, for model FLOPs utilisation."""

import torch

from .model import ModelConfig

PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12, "A10": 125e12, "L40S": 362e12}
"""Dense bfloat16 FLOP/s that vendors state, without sparsity (H100 and H200: the SXM form)."""


def training_flops_per_token(config: ModelConfig, seq_len: int, target_share: float = 1.0) -> float:
    """Return forward and backward FLOPs per token that the model needs, nothing recomputed.

        6 * (block weights + target_share * head weights) + 12 * layers * width * seq_len * (1/2 if causal)

    which is the form of Chowdhery et al. 2022 (PaLM, appendix B) with two corrections: a causal model needs half of
    the attention matrix, and logits are needed for targets only. target_share: mean share of tokens that are targets,
    1 for autoregressive, (1 + eps) / 2 for masked diffusion. Embedding look-ups count nothing.
    """
    products = config.block_parameters + target_share * config.head_parameters
    attention = 12 * config.layers * config.attention_width * seq_len * (0.5 if config.causal else 1.0)
    return 6 * products + attention


def peak_flops(device: torch.device) -> float | None:
    """Return the bfloat16 peak of a known GPU in FLOP/s, None for others and for CPUs."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).upper()
    return next((peak for key, peak in PEAK_BF16.items() if key in name), None)
