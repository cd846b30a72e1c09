"""Memory of training on each GPU, by formula: bfloat16 under autocast, float32 weights, AdamW, blocks compiled.

Left out: what the allocator loses, the libraries' own buffers, the batch itself; some gigabytes in all.
"""

from typing import Any

import torch

from ..cross_entropy import COMPILED_CHUNK_ELEMENTS
from ..transformer import ModelConfig, Transformer, count_parameters


def parameters(config: ModelConfig) -> int:
    """Return all weights, norms and padding ids included."""
    with torch.device("meta"):
        return count_parameters(Transformer(config))


def saved_of_layer(config: ModelConfig, checkpointing: str = "none") -> int:
    """Return the bytes that a block keeps of each token for its backward pass.

    `checkpointing` is none, norms, products or blocks, what is computed again: `TrainConfig.activation_checkpointing`.

    In bfloat16: its input and its middle, each also normed; q, k and v as attention reads them, what attention
    returns; gate, up and their product; with QK-norm q and k as they were. In float32: a number for each norm and head.
    """
    assert config.kv_heads is not None, "filled in by ModelConfig"
    assert config.head_size is not None, "filled in by ModelConfig"
    if checkpointing == "blocks":
        return 2 * config.hidden
    norms, products = (0 if checkpointing == "norms" else 2), (2 if checkpointing == "products" else 3)
    wide = (2 + norms) * config.hidden + 4 * config.attention_width + products * config.ffn
    numbers = config.heads + norms
    if config.qk_norm:
        wide += config.attention_width + config.kv_heads * config.head_size
        numbers += config.heads + config.kv_heads
    return 2 * wide + 4 * numbers


def training_memory(
    config: ModelConfig, seq_len: int, rows: int, gpus: int = 1, checkpointing: str = "none"
) -> dict[str, Any]:
    """Return bytes on each GPU by what they hold, and their `total`.

    Args:
        rows: samples of a micro-batch on each GPU.
        gpus: over which FSDP shares out weights, gradients and optimizer state (FULL_SHARD); one: no FSDP.
        checkpointing: none, norms, products or blocks.
    """
    weights, tokens = parameters(config), rows * seq_len
    share = -(-weights // gpus)
    of_block, head = config.block_parameters // config.layers, config.padded_vocab * config.hidden
    kept = tokens * (config.layers * saved_of_layer(config, checkpointing) + 2 * config.hidden + 4)
    if checkpointing == "blocks":  # one of them is whole while its gradients are computed
        kept += tokens * saved_of_layer(config)
    # FSDP gathers the head and two blocks, and adds up a block's gradients before it shares them out. Without it,
    # copies of all blocks are kept from step to step, autocast's of the head for the loss.
    copies = head * (1 if config.tied_embeddings else 2) + 3 * of_block if gpus > 1 else config.block_parameters + head
    chunk = min(COMPILED_CHUNK_ELEMENTS, tokens * config.padded_vocab)
    parts = {
        "weights, float32": 4 * share,
        "gradients, float32": 4 * share,
        "optimizer (AdamW), float32": 8 * share,
        "weights gathered, bfloat16" if gpus > 1 else "copies of weights, bfloat16": 2 * copies,
        "activations kept for the backward pass": kept,
        "logits of a chunk and their gradients": 4 * chunk,
        "gradients of the head and its inputs, in the loss": 4 * head + 2 * tokens * config.hidden,
    }
    return {
        "gpus": gpus,
        "micro_batch": rows,
        "seq_len": seq_len,
        "activation_checkpointing": checkpointing,
        "parameters": weights,
        "bytes_per_gpu": parts,
        "total": sum(parts.values()),
    }
