"""What `epochal flops` prints."""

from typing import Any

from ....common.cli import text_table


def describe(body: dict[str, Any]) -> str:
    """Return the tables of `epochal flops`."""
    p, t = body["parameters"], body["training"]
    lines = [
        f"weights in matrix products: {p['blocks']:,} in blocks, {p['head']:,} in the head "
        f"({body['vocab_size']:,} ids)",
        "",
        f"training, FLOPs per token at {body['seq_len']} tokens: 6ND {t['six_nd']:.4g}, with attention "
        f"{t['with_attention_causal']:.4g} (causal), {t['with_attention_full']:.4g} (full)",
    ]
    if "run" in body:
        r = body["run"]
        lines.append(
            f"training on {r['tokens']:,} tokens: 6ND {r['six_nd']:.4g}, with attention "
            f"{r['with_attention_causal']:.4g} (causal), {r['with_attention_full']:.4g} (full)"
        )
    if body.get("document_mask"):
        lines.append(
            "attention is counted over whole samples: within documents (document_mask) it takes less, how much depends "
            "on their lengths"
        )
    head = ["tokens", "AR, cached", "MDM, steps = tokens", "ratio", "MDM steps", "FLOPs", "ratio"]
    head += [f"cached, blocks of {body['block']}", "ratio"]
    rows = []
    for n, r in body["inference"].items():
        full = body["inference_ratio"][n]
        rows.append(
            [
                *(n, f"{r['autoregressive']:.4g}", f"{full * r['autoregressive']:.4g}", f"{full:.4g}"),
                *(str(r["steps"]), f"{r['masked_diffusion']:.4g}", f"{r['ratio']:.4g}"),
                *(f"{r['masked_diffusion_cached']:.4g}", f"{r['ratio_cached']:.4g}"),
            ]
        )
    lines += ["", "inference, FLOPs of one text without a prompt:", text_table(head, rows)]
    lines += _memory(body["memory"]) if "memory" in body else []
    return "\n".join(lines + (_measured(body["measured"]) if "measured" in body else []))


def _memory(memory: dict[str, Any]) -> list[str]:
    parts = {**memory["bytes_per_gpu"], "total": memory["total"]}
    rows = [[what, f"{size / 2**30:.2f}"] for what, size in parts.items()]
    gpus = "one GPU" if memory["gpus"] == 1 else f"each of {memory['gpus']} GPUs, FSDP's FULL_SHARD"
    again = memory["activation_checkpointing"]
    title = (
        f"training, memory of {gpus}, by formula: {memory['parameters']:,} weights, micro-batches of "
        f"{memory['micro_batch']} x {memory['seq_len']:,} tokens, compiled"
        + ("" if again == "none" else f", activation_checkpointing: {again}")
    )
    left_out = "left out: what the allocator loses, the libraries' own buffers, the batch; some GiB in all"
    return ["", title, text_table(["", "GiB"], rows), left_out]


def _measured(measured: dict[str, Any]) -> list[str]:
    rows = []
    for name, r in measured.items():
        if isinstance(r, dict):
            timed = [f"{r['seconds']:.4g} s", f"{r['flops_per_s']:.3g}"] if "seconds" in r else ["", ""]
            rows.append(
                [name, f"{r['counted']:.5g}", f"{r['formula']:.5g}", f"{r['counted_over_formula']:.4f}", *timed]
            )
    head = ["step", "counted", "formula", "counted / formula", f"on {measured['device']}", "FLOP/s"]
    why = [] if measured["timed"] else [f"not timed: {measured['why']}"]
    return ["", f"what torch executes at {measured['seq_len']} tokens:", text_table(head, rows), *why]
