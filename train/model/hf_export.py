"""An autoregressive checkpoint as other programs read it: a Llama (or, with QK-norm, a Qwen3) of transformers.

The mapping is exact: same blocks, same rotary convention, no biases. What differs is layout only: one product for
query, key and value, one for gate and up; rows of the vocabulary that pad it to a multiple are left out.
"""

import json
import os
import shutil
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ...common.errors import RequestError, WorkError, one_line
from ...common.storage import is_url, naming
from ...tokenize.tokenizer import Tokenizer
from ..checkpoint import ModelCard, open_checkpoint, types_of
from ..eval.tokenizers import token_text, tokenizer_for
from .transformer import ModelConfig, Transformer, count_parameters


def export_huggingface(checkpoint: str, out: str, tokenizer: str | None = None) -> dict[str, Any]:
    """Write the model at `checkpoint` to the new folder `out`, whole or not at all; of both types, the causal one.

    Returns JSON values: out, format, architecture, parameters, seq_len.

    Args:
        checkpoint: folder or URL of a model, or of a run, whose final model is meant.
        tokenizer: path of its tokenizer.json, for a model that carries none.

    Raises:
        RequestError: for a masked-diffusion model, for another tokenizer, and for an `out` that holds something or is a
            URL.
        WorkError: for a damaged model.
    """
    out = out.rstrip("/")
    if is_url(out):
        raise RequestError(f"--out {out}: models are written to a local folder; copy it from there")
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise RequestError(f"{out} holds something already: choose another --out")
    types = types_of(open_checkpoint(checkpoint, "cpu"))
    opened = types.get("ar") or types[""]
    _check_type(opened.model)
    partial = f"{out}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with naming(out):
            save_huggingface(opened.model, opened.card, tokenizer_for(opened, tokenizer), partial)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {
        "out": out,
        "format": "huggingface",
        "architecture": _architecture(opened.model.config),
        "parameters": count_parameters(opened.model),
        "seq_len": opened.card.seq_len,
    }


def save_huggingface(model: Transformer, card: ModelCard, tokenizer: Tokenizer, folder: str) -> None:
    """Write config.json, model.safetensors and tokenizer files for `AutoModelForCausalLM` to `folder`.

    The tokenizer puts EOD first, as in training.

    Raises:
        RequestError: for a masked-diffusion model, which transformers would run as a causal one.
    """
    _check_type(model)
    os.makedirs(folder, exist_ok=True)
    info = tokenizer.info
    try:
        save_file(weights(model), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    except SafetensorError as error:
        raise WorkError(f"cannot write the model to {folder}: {one_line(error)}") from None
    _write(folder, "config.json", config(model.config, card.seq_len, info.eod, info.pad))
    eod = token_text(tokenizer, info.eod)
    first = {"SpecialToken": {"id": eod, "type_id": 0}}
    added = tokenizer.spec.get("added_tokens") or []  # transformers cannot do without the key
    spec = tokenizer.spec | {"added_tokens": added, "post_processor": _begin_with(eod, info.eod, first)}
    _write(folder, "tokenizer.json", spec)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": eod, "eos_token": eod, "pad_token": eod}
    _write(folder, "tokenizer_config.json", settings | {"model_max_length": card.seq_len})


def _check_type(model: Transformer) -> None:
    if not model.config.causal:
        raise RequestError(
            "only an autoregressive model can be written for transformers, which has no masked-diffusion model "
            "and none of blocks"
        )


def _begin_with(token: str, token_id: int, first: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }


def _write(folder: str, name: str, body: dict[str, Any]) -> None:
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(body, f, ensure_ascii=False, indent=2)


def config(c: ModelConfig, seq_len: int, eod: int, pad: int) -> dict[str, Any]:
    """Return config.json of transformers for shape `c`."""
    return {
        "architectures": [_architecture(c)],
        "model_type": _architecture(c).removesuffix("ForCausalLM").lower(),
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden,
        "intermediate_size": c.ffn,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_base,
        "max_position_embeddings": seq_len,
        "tie_word_embeddings": c.tied_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "bos_token_id": eod,
        "eos_token_id": eod,
        "pad_token_id": pad,
        "torch_dtype": "float32",
    }


def _architecture(c: ModelConfig) -> str:
    return "Qwen3ForCausalLM" if c.qk_norm else "LlamaForCausalLM"


def weights(model: Transformer) -> dict[str, Tensor]:
    """Return the weights by transformers' names."""
    c, state = model.config, model.state_dict()
    assert c.head_size is not None, "filled in by ModelConfig"
    assert c.kv_heads is not None, "filled in by ModelConfig"
    result = {
        "model.embed_tokens.weight": state["embedding.weight"][: c.vocab_size],
        "model.norm.weight": state["norm.weight"],
    }
    if not c.tied_embeddings:
        result["lm_head.weight"] = state["head.weight"][: c.vocab_size]
    for i in range(c.layers):
        own, theirs = f"blocks.{i}.", f"model.layers.{i}."
        sizes = [c.heads * c.head_size, c.kv_heads * c.head_size, c.kv_heads * c.head_size]
        qkv = state[own + "attention.qkv.weight"].split(sizes)
        gate, up = state[own + "mlp.gate_up.weight"].chunk(2)
        names = {"q_proj": qkv[0], "k_proj": qkv[1], "v_proj": qkv[2], "o_proj": state[own + "attention.out.weight"]}
        result |= {f"{theirs}self_attn.{name}.weight": w for name, w in names.items()}
        if c.qk_norm:
            result |= {f"{theirs}self_attn.{n}_norm.weight": state[own + f"attention.{n}_norm.weight"] for n in "qk"}
        result |= {f"{theirs}mlp.gate_proj.weight": gate, f"{theirs}mlp.up_proj.weight": up}
        result[f"{theirs}mlp.down_proj.weight"] = state[own + "mlp.down.weight"]
        result[f"{theirs}input_layernorm.weight"] = state[own + "attention_norm.weight"]
        result[f"{theirs}post_attention_layernorm.weight"] = state[own + "mlp_norm.weight"]
    return {k: v.detach().to(torch.float32).cpu().clone().contiguous() for k, v in result.items()}
