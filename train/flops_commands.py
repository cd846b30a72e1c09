"""`epochal flops`."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

from .evaluation_tables import text_table

Run = Callable[[argparse.Namespace], int]


def flops(parser: argparse.ArgumentParser) -> Run:
    """Add the arguments of `epochal flops`; return what runs it."""
    parser.add_argument("model", metavar="MODEL.yaml", help="file with a `model` section, a shipped run, or a preset")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in model.layers=12")
    parser.add_argument("--seq-len", type=int, help="training length (default max_seq_len, else 2048)")
    parser.add_argument("--steps", type=int, help="reads per text of masked diffusion (default one per token)")
    parser.add_argument("--block", type=int, default=32, help="of the cached form (default 32)")
    parser.add_argument("--tokens", help="training budget, such as 96B: adds the whole run's FLOPs")
    parser.add_argument("--measure", action="store_true", help="also count what torch executes, and time it")
    parser.add_argument("--device", default="cpu", help="to time on (default cpu)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return _flops


GPT2_IDS = 50259
"""GPT-2's vocabulary with MASK and PAD, for shapes that leave the vocabulary to the data."""


def _flops(args: argparse.Namespace) -> int:
    from ..common.errors import RequestError
    from ..common.units import parse_count
    from .inference_flops import report

    for name in ("seq_len", "steps", "block"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise RequestError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    shape, seq_len, causal = _shape(args.model, args.overrides)
    seq_len = args.seq_len or seq_len or 2048
    body = {"model": args.model, "causal": causal, "vocab_size": shape.vocab_size}
    body |= report(shape, seq_len, args.steps, args.block)
    if args.tokens:
        tokens = parse_count(args.tokens)
        body["run"] = {"tokens": tokens} | {k: v * tokens for k, v in body["training"].items()}
    if args.measure:
        from .evaluate import check_device
        from .flops_measure import measure

        body["measured"] = measure(shape, seq_len, check_device(args.device))
    print(json.dumps(body) if args.json else describe_flops(body))
    return 0


def _shape(path: str, overrides: Sequence[str]) -> tuple[Any, int | None, bool | None]:
    """Return the shape in the file (or preset) `path`, its training length and type where it says them."""
    from pathlib import Path

    from ..common.config import load_yaml, shipped, validate
    from ..common.errors import RequestError
    from .config import YAMLS, ModelSection, model_section, presets

    found = path if Path(path).exists() else shipped(YAMLS, path) or shipped(YAMLS, f"model-{path}")
    if found is None:
        raise RequestError(f"{path} is neither a file, a shipped run nor a preset ({', '.join(presets())})")
    given = [f"{key}=x" for key in ("train_loader.dataset.path", "eval_loader.dataset.path")]  # of no matter here
    data = load_yaml(found, [*(given if "objective:" in Path(found).read_text() else []), *overrides])
    if not isinstance(data.get("model"), dict):
        raise RequestError(f"{path} has no section `model`")
    section = validate(ModelSection, model_section(data["model"], path), f"{path}: model")
    objective = data.get("objective") or {}
    causal = {"ar": True, "mdm": False}.get(str(objective.get("name")))
    seq_len = data.get("max_seq_len")
    return section.shape(causal is not False, section.vocab_size or GPT2_IDS), seq_len, causal


def describe_flops(body: dict[str, Any]) -> str:
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
    return "\n".join(lines + (_measured(body["measured"]) if "measured" in body else []))


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
