"""The optimizers of language models: AdamW, and Muon for the matrices of the blocks with AdamW for the rest."""

from typing import Any

import torch
from composer import Callback
from composer.core import State
from composer.loggers import Logger
from torch import nn

from ..model.transformer import Attention, Block, SwiGLU, Transformer
from ..settings.optimization import OptimizerSection
from .muon import Muon
from .schedules import Schedule


def build_optimizer(model: nn.Module, section: OptimizerSection, fused: bool = False) -> torch.optim.AdamW:
    """Return the optimizer of `model`: matrices of linear layers are decayed, embeddings by a share of their own (0),
    norms never.

    Args:
        fused: AdamW in one kernel for all its weights, for GPUs.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    parts = _parts(model) if section.name == "muon" else {}
    named = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in named if p.ndim >= 2 and id(p) not in embeddings and id(p) not in parts]
    others = [p for p in named if p.ndim < 2 or (id(p) in embeddings and not section.embedding_weight_decay)]
    groups = [{"params": decayed, "weight_decay": section.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if section.embedding_weight_decay:
        kept = [p for p in named if id(p) in embeddings]
        groups.append({"params": kept, "weight_decay": section.embedding_weight_decay})
    settings: dict[str, Any] = {"lr": section.lr, "betas": section.betas, "eps": section.eps, "fused": fused or None}
    if section.name == "adamw":
        return _followed(torch.optim.AdamW(groups, **settings), model)
    matrices = [p for p in named if id(p) in parts]
    groups = [group for group in groups if group["params"]]
    for sizes in sorted(set(parts.values())):
        some = [p for p in matrices if parts[id(p)] == sizes]
        groups.append({"params": some, "weight_decay": section.weight_decay, "parts": list(sizes)})
    return _followed(Muon(groups, momentum=section.momentum, **settings), model)


def _followed(optimizer: torch.optim.AdamW, model: nn.Module) -> torch.optim.AdamW:
    """Have the model's narrow copies of weights follow the steps of `optimizer`."""
    for part in model.modules():
        if isinstance(part, Transformer) and part.narrow is not None:
            optimizer.register_step_post_hook(part.narrow.stepped)
    return optimizer


def _parts(model: nn.Module) -> dict[int, tuple[int, ...]]:
    """Return, of each matrix in the blocks, the rows of the matrices that it is made of: queries, keys and values are
    one product, but three maps."""
    parts: dict[int, tuple[int, ...]] = {}
    for block in (m for m in model.modules() if isinstance(m, Block)):
        for layer in (m for m in block.modules() if isinstance(m, nn.Linear)):
            parts[id(layer.weight)] = (layer.weight.shape[0],)
        for part in block.modules():
            if isinstance(part, Attention):
                rows = (n * part.head_size for n in (part.heads, part.kv_heads, part.kv_heads))
                parts[id(part.qkv.weight)] = tuple(rows)
            elif isinstance(part, SwiGLU):
                parts[id(part.gate_up.weight)] = (part.gate_up.weight.shape[0] // 2,) * 2
    return parts


class WeightDecaySchedule(Callback):
    """Sets each group's weight decay before every step: its own times a function of the step alone.

    Attributes:
        multiplier: see `schedules`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, multiplier: Schedule) -> None:
        self.multiplier = multiplier
        self.whole = [group["weight_decay"] for group in optimizer.param_groups]

    def batch_start(self, state: State, logger: Logger) -> None:
        """Set it."""
        factor = self.multiplier(int(state.timestamp.batch))
        for group, decay in zip(state.optimizers[0].param_groups, self.whole, strict=True):
            group["weight_decay"] = decay * factor
