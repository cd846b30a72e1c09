"""The transformer of both model types, in plain PyTorch.

Pre-norm blocks of rotary self-attention and SwiGLU, RMSNorm, no biases. `causal` is the only difference between
the two types: an autoregressive model attends to the left, a masked-diffusion model to both sides.

    x = embedding(tokens)
    for each layer:  x = x + attention(norm(x));  x = x + mlp(norm(x))
    logits = head(norm(x))
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import attention_reach, document_mask
from .cross_entropy import compute_dtype, token_nll, weighted_nll_sum
from .document_mask import Mask
from .dropout import Draws, Rates, Residual, Site, attend
from .kv_cache import KVCache, LayerCache
from .layers import WIDE, Narrow, NarrowWeights, ResidualLinear, RMSNorm, again, product
from .penalties import Penalties, penalised_sums
from .rotary import Rotation, rotate, rotations

VOCAB_MULTIPLE = 64
"""Rows of the embedding are padded to a multiple of this, so that matrix products use the tensor cores fully."""

LATER = (
    *("dropout_embedding", "dropout_attention", "dropout_residual", "dropout_mlp", "stochastic_depth"),
    *("block_size", "document_mask", "rope"),
)
"""Keys of `ModelConfig` that the first version did not have."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a transformer.

    Attributes:
        vocab_size: ids in use, special ids included.
        hidden: widths.
        ffn: widths.
        kv_heads: key and value heads (grouped-query attention when fewer than `heads`).
        head_size: hidden / heads when not given.
        init_std: of all weights; projections back into the residual stream use init_std / sqrt(2 * layers).
        dropout: of attention weights and of what each block adds to the residual stream, from torch's generator.
        dropout_embedding: dropout by site (`dropout`): of embeddings.
        dropout_attention: of attention weights.
        dropout_residual: of what attention and MLP add to the residual stream.
        dropout_mlp: of the MLP's inner units.
        stochastic_depth: share of samples that the last layer's parts are left out for; less in earlier layers.
        block_size: of block diffusion, which is not causal: tokens attend to their own block and to earlier ones.
        document_mask: attention stays within documents; `forward` is told of them where it reads more than one.
        rope: whether rotary positions go on from one document of a sample to the next, or restart in each.
    """

    vocab_size: int
    layers: int
    hidden: int
    heads: int
    ffn: int
    causal: bool
    kv_heads: int | None = None
    head_size: int | None = None
    qk_norm: bool = False
    tied_embeddings: bool = True
    rope_base: float = 10000.0
    norm_eps: float = 1e-6
    init_std: float = 0.02
    dropout: float = 0.0
    dropout_embedding: float = 0.0
    dropout_attention: float = 0.0
    dropout_residual: float = 0.0
    dropout_mlp: float = 0.0
    stochastic_depth: float = 0.0
    block_size: int | None = None
    document_mask: bool = False
    rope: Literal["continue", "restart"] = "continue"
    padded_vocab: int = field(init=False)

    def __post_init__(self) -> None:
        kv_heads = self.kv_heads or self.heads
        head_size = self.head_size or self.hidden // self.heads
        if self.heads % kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({kv_heads})")
        if self.head_size is None and self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of heads ({self.heads}), or give head_size")
        if head_size % 2:
            raise ValueError(f"head_size ({head_size}) must be even: rotary positions turn pairs of channels")
        if self.block_size is not None and (self.causal or self.block_size < 1):
            raise ValueError(f"block_size ({self.block_size}) must be at least 1, and no model with blocks is causal")
        if self.rope not in ("continue", "restart") or (self.rope == "restart" and not self.document_mask):
            raise ValueError(f"rope is continue, or restart with document_mask: true; got {self.rope}")
        object.__setattr__(self, "kv_heads", kv_heads)
        object.__setattr__(self, "head_size", head_size)
        object.__setattr__(self, "padded_vocab", -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE)

    @property
    def rates(self) -> Rates:
        """Return the shares that are dropped by site."""
        sites = (self.dropout_embedding, self.dropout_attention, self.dropout_residual, self.dropout_mlp)
        return Rates(*sites, self.stochastic_depth)

    @property
    def within(self) -> tuple[bool, bool, bool]:
        """Return how documents are kept apart: causal, whether positions restart, whether a mask must be whole."""
        return self.causal, self.rope == "restart", bool(self.dropout or self.dropout_attention)

    @property
    def exact(self) -> bool:
        """Return whether the model's own likelihood is exact: autoregressive, or block diffusion in blocks of one."""
        return self.causal or self.block_size == 1

    @property
    def attention_width(self) -> int:
        """Return heads * head_size, the width of all query heads together."""
        return self.heads * (self.head_size or 0)

    @property
    def block_parameters(self) -> int:
        """Return the weights of all blocks that take part in matrix products (norms left out)."""
        kv_width = (self.kv_heads or 0) * (self.head_size or 0)
        attention = self.hidden * (2 * self.attention_width + 2 * kv_width)
        return self.layers * (attention + 3 * self.hidden * self.ffn)

    @property
    def head_parameters(self) -> int:
        """Return the weights of the output head, counted over ids in use."""
        return self.vocab_size * self.hidden


class Attention(nn.Module):
    """Self-attention with rotary positions, optional QK-norm and grouped keys and values."""

    def __init__(self, c: ModelConfig, layer: int, draws: Draws) -> None:
        super().__init__()
        self.weight_dropout = Site("attention", layer, c.dropout_attention, draws)
        assert c.kv_heads is not None, "filled in by ModelConfig"
        assert c.head_size is not None, "filled in by ModelConfig"
        self.heads, self.kv_heads, self.head_size = c.heads, c.kv_heads, c.head_size
        self.causal, self.dropout = c.causal, c.dropout
        self.qkv = nn.Linear(c.hidden, (c.heads + 2 * c.kv_heads) * c.head_size, bias=False)
        self.out = ResidualLinear(c.attention_width, c.hidden, bias=False)
        self.q_norm: nn.Module = RMSNorm(c.head_size, c.norm_eps) if c.qk_norm else nn.Identity()
        self.k_norm: nn.Module = RMSNorm(c.head_size, c.norm_eps) if c.qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, rotation: Rotation, mask: Mask | None, cache: LayerCache | None, narrow: Narrow
    ) -> Tensor:
        """Return (batch, length, hidden).

        Without a mask, tokens attend to the left in a causal model that has no cache, and to everything otherwise.

        Args:
            mask: who may attend to whom, or None.
            cache: keys and values of earlier tokens, which come first in `mask`'s last dimension.
            narrow: of `qkv` and `out`.
        """
        batch, length, _ = x.shape
        sizes = (self.heads, self.kv_heads, self.kv_heads)
        q, k, v = product(self.qkv, x, narrow[0]).view(batch, length, sum(sizes), self.head_size).split(sizes, dim=2)
        q, k = rotate(self.q_norm(q), rotation), rotate(self.k_norm(k), rotation)
        # Turned before they are transposed: what attention returns then lies as the product after it reads it.
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(k, v)
        if self.kv_heads != self.heads:
            k, v = (y.repeat_interleave(self.heads // self.kv_heads, dim=1) for y in (k, v))
        p = self.dropout if self.training else 0.0
        causal = self.causal and mask is None and cache is None
        if mask is not None and not isinstance(mask, Tensor):
            y = document_mask.attention(q, k, v, mask)
        elif self.weight_dropout.active:
            y = attend(q, k, v, mask, causal, self.weight_dropout)
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=p, is_causal=causal)
        y = y.transpose(1, 2).reshape(batch, length, self.heads * self.head_size)
        return product(self.out, y, narrow[1])


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020); gate and up are one product.

    Attributes:
        recompute: make silu(gate) * up once more in the backward pass, instead of keeping it.
    """

    recompute: bool = False

    def __init__(self, c: ModelConfig, layer: int, draws: Draws) -> None:
        super().__init__()
        self.dropout = Site("mlp", layer, c.dropout_mlp, draws)
        self.gate_up = nn.Linear(c.hidden, 2 * c.ffn, bias=False)
        self.down = ResidualLinear(c.ffn, c.hidden, bias=False)

    def forward(self, x: Tensor, narrow: Narrow) -> Tensor:
        """Return (batch, length, hidden); `narrow` is of `gate_up` and `down`."""
        gate, up = product(self.gate_up, x, narrow[0]).chunk(2, dim=-1)
        return product(self.down, self.dropout(again(self.recompute, _gated, gate, up)), narrow[1])


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


class Block(nn.Module):
    """One layer: attention and SwiGLU, each normed before and added to the residual stream."""

    def __init__(self, c: ModelConfig, layer: int, draws: Draws) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(c.hidden, c.norm_eps)
        self.attention = Attention(c, layer, draws)
        self.mlp_norm = RMSNorm(c.hidden, c.norm_eps)
        self.mlp = SwiGLU(c, layer, draws)
        add = (layer, c.layers, c.dropout, c.rates, draws)
        self.attention_dropout, self.mlp_dropout = Residual("attention", *add), Residual("mlp", *add)

    def forward(
        self, x: Tensor, rotation: Rotation, mask: Mask | None, cache: LayerCache | None = None, narrow: Narrow = WIDE
    ) -> Tensor:
        """Return the residual stream after this layer, shape of `x`; `narrow` is of its four products, in order."""
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), rotation, mask, cache, narrow[:2]))
        return x + self.mlp_dropout(self.mlp(self.mlp_norm(x), narrow[2:]))


class Transformer(nn.Module):
    """The model. `forward` returns logits or, given labels, losses: everything that uses weights happens inside it,
    because under FSDP the weights are whole only there.

    Attributes:
        recompute: compute each block once more in the backward pass, instead of keeping what is in it.
        loss_backend: of `torch.compile`, for the loss over the vocabulary; None: it is not compiled.
        narrow: keeps copies of weights for products; None: products narrow them, where they do.
    """

    recompute: bool = False
    narrow: NarrowWeights | None = None
    loss_backend: str | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.draws = config, Draws()
        self.embedding = nn.Embedding(config.padded_vocab, config.hidden)
        self.embedding_dropout = Site("embedding", 0, config.dropout_embedding, self.draws)
        self.blocks = nn.ModuleList(Block(config, layer, self.draws) for layer in range(config.layers))
        self.norm = RMSNorm(config.hidden, config.norm_eps)
        self.head = None if config.tied_embeddings else nn.Linear(config.hidden, config.padded_vocab, bias=False)
        self.apply(self.param_init_fn)

    def param_init_fn(self, module: nn.Module) -> None:
        """Draw the weights that `module` itself holds (also what FSDP calls for modules built on the meta device)."""
        std = self.config.init_std
        if isinstance(module, ResidualLinear):
            nn.init.normal_(module.weight, std=std / math.sqrt(2 * self.config.layers))
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)

    def fsdp_wrap_fn(self, module: nn.Module) -> bool:
        """Return whether FSDP shards `module` as a unit: each block is one."""
        return isinstance(module, Block)

    def activation_checkpointing_fn(self, module: nn.Module) -> bool:
        """Return whether activation checkpointing recomputes `module` as a unit: each block is one."""
        return isinstance(module, Block)

    @property
    def device(self) -> torch.device:
        """Return where the weights lie."""
        return self.embedding.weight.device

    @property
    def output_head(self) -> Tensor:
        """Return the weights that turn hidden states into logits, (padded vocabulary, hidden)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def hidden_states(
        self,
        tokens: Tensor,
        attention_mask: Mask | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return the normed last hidden states, (batch, length, hidden): the one pass that everything goes through.

        Args:
            tokens: int64 (batch, length).
            attention_mask: None where nothing is hidden but what lies to the right in a causal model; bool (batch,
                length), False on PAD, which nothing may attend to (a causal model ignores it: PAD only ever comes
                last); or, in place of the causal mask, bool (batch, 1, length, cached + length), True where a token
                (row) may attend (column), or blocks of `document_mask`.
            positions: int64 (batch, length) or (length,), of the rotary embedding; None when the tokens follow each
                other and the cache.
            cache: keys and values of earlier tokens, to which those of `tokens` are added.
        """
        past, length = cache.length if cache else 0, tokens.shape[1]
        assert self.config.head_size is not None, "filled in by ModelConfig"
        shape = self.config.head_size, self.config.rope_base
        rotation = rotations(positions, past, length, *shape, tokens.device)
        kind = self.config.causal, self.config.block_size
        mask = attention_reach.mask_of(*kind, attention_mask, cache, length, tokens.device)
        x = self.embedding_dropout(self.embedding(tokens))
        x = x.to(compute_dtype(x))  # the residual stream is as narrow as the products under autocast
        for i, block in enumerate(self.blocks):
            narrow = self.narrow(block) if self.narrow else WIDE
            x = again(self.recompute, block, x, rotation, mask, cache.layers[i] if cache else None, narrow)
        return self.norm(x)

    def recompute_activations(self, what: Literal["norms", "products", "blocks"] | None) -> None:
        """Choose what is computed once more in the backward pass: `recompute` of norms, SwiGLUs or all; or nothing."""
        self.recompute = what == "blocks"
        for block in self.blocks:
            block.attention_norm.recompute = block.mlp_norm.recompute = what == "norms"
            block.mlp.recompute = what == "products"

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits in float32 or wider, (..., vocab_size), of hidden states (..., hidden)."""
        logits = F.linear(hidden, self.output_head)[..., : self.config.vocab_size]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def nll(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return nats, float32 or wider (n,), of labels (n,) given hidden states (n, hidden); without gradients."""
        return token_nll(hidden, self.output_head, labels, self.config.vocab_size)

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        target_positions: Tensor | None = None,
        labels: Tensor | None = None,
        weights: Tensor | None = None,
        reach: Tensor | None = None,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        penalties: Penalties | None = None,
    ) -> Tensor:
        """Return logits, or losses when `labels` are given.

        Returns logits (n, vocab_size), or with labels the negative log-likelihood of each label in nats, float32 (n,),
        or with weights too the scalar sum of weight * nll, or with penalties what `penalised_sums` returns (4,). Ids
        from vocab_size on have probability 0.

        Args:
            tokens: as for `hidden_states`.
            attention_mask: as for `hidden_states`.
            target_positions: int64 (n,), indices into the flattened (batch * length) that logits are computed for, in
                order; None for all.
            labels: int64 (n,).
            weights: (n,).
            reach: int32 (batch or 1, length, 3), see `attention_reach`: in place of `attention_mask`.
            positions: as for `hidden_states`.
            documents: int32 (batch, length), see `attention_reach.within`; None where each row is one document.
            penalties: what is added to the loss.
        """
        mask: Any = attention_mask
        if documents is not None:
            mask, positions = attention_reach.within(documents, positions, reach, *self.config.within)
            reach = None
        x = attention_reach.hidden_of_targets(self.hidden_states, tokens, mask, target_positions, reach, positions)
        if labels is None:
            return self.logits(x)
        if weights is None:
            return self.nll(x, labels)
        targets = x, self.output_head, labels, weights, self.config.vocab_size
        if penalties is not None:
            return penalised_sums(*targets, penalties, self.loss_backend)
        return weighted_nll_sum(*targets, self.loss_backend)


def count_parameters(module: nn.Module) -> int:
    """Return the number of weights of `module`, padding rows of the vocabulary included."""
    return sum(p.numel() for p in module.parameters())


def config_dict(config: ModelConfig) -> dict[str, Any]:
    """Return `config` as the keywords that make it again; those of `LATER` only where they say something, so that
    models go by the names that they had before there were such keys."""
    defaults = {f.name: f.default for f in fields(config) if f.name in LATER}
    return {k: v for k, v in vars(config).items() if k != "padded_vocab" and (k not in LATER or v != defaults[k])}
