"""`epochal evaluate`, `epochal generate` and `epochal flops`."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

Run = Callable[[argparse.Namespace], int]


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default cpu)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights (default float32)"
    )
    parser.add_argument("--tokenizer", metavar="PATH", help="tokenizer.json, where the model's name of it is no file")
    parser.add_argument("--seed", type=int, default=0, help="of all noise (default 0)")


def evaluate(parser: argparse.ArgumentParser) -> Run:
    """Add the arguments of `epochal evaluate`; return what runs it."""
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="folder of a model, or of a run (its final)")
    parser.add_argument(
        "--tasks",
        help="comma-separated, with a number of examples: hellaswag,mmlu:5 (default: the paper's hellaswag:0, mmlu:0, "
        "mmlu:5, or none with --loss or --lm-eval)",
    )
    parser.add_argument("--data", metavar="FOLDER", help="local benchmark files (default: the hub)")
    parser.add_argument("--file", action="append", default=[], metavar="TASK=PATH", help="file of one task")
    parser.add_argument(
        "--normalize",
        choices=("characters", "tokens", "none"),
        default="characters",
        help="what an answer's log-likelihood is divided by (default characters)",
    )
    parser.add_argument(
        "--noise-samples", type=int, default=128, help="per answer, masked diffusion only (default 128)"
    )
    parser.add_argument("--limit", type=int, help="items per task, evenly spread over its file (default all)")
    parser.add_argument("--loss", action="append", default=[], metavar="ARTIFACT", help="also measure its likelihood")
    parser.add_argument("--loss-samples", type=int, help="of its first samples (default all)")
    parser.add_argument("--loss-noise-samples", type=int, default=8, help="per sample, masked diffusion only (default 8)")
    parser.add_argument("--trained-on", metavar="ARTIFACT", help="the training subset or pool, for the leak check")
    parser.add_argument("--lm-eval", metavar="TASKS", help="comma-separated tasks of lm-evaluation-harness")
    parser.add_argument("--lm-eval-include", metavar="FOLDER", help="your own task files for it")
    parser.add_argument("--batch-tokens", type=int, default=16384, help="tokens read at a time (default 16384)")
    parser.add_argument("--out", default="runs/evaluation", help="results, and items scored so far (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    _model_arguments(parser)
    return _evaluate


def _evaluate(args: argparse.Namespace) -> int:
    from .evaluate import run, write_results

    settings = _settings(args)
    body = run(args.checkpoints, settings)
    if args.lm_eval:
        body["lm_eval"] = _harness(args, settings)
        write_results(body, args.out)
    print(json.dumps(body) if args.json else describe(body, args.out))
    sys.stdout.flush()
    return 0


def _settings(args: argparse.Namespace) -> Any:
    import torch

    from ..shards.errors import RequestError
    from .benchmarks import PAPER_TASKS
    from .evaluate import Settings

    for name in ("noise_samples", "limit", "loss_samples", "loss_noise_samples", "batch_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise RequestError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    wrong = next((f for f in args.file if "=" not in f), None)
    if wrong:
        raise RequestError(f"--file {wrong}: write TASK=PATH")
    default = () if args.loss or args.lm_eval else PAPER_TASKS
    return Settings(
        tasks=default if args.tasks is None else tuple(t for t in args.tasks.split(",") if t),
        files=dict(f.split("=", 1) for f in args.file),
        norm=args.normalize,
        loss=tuple(args.loss),
        dtype=getattr(torch, args.dtype),
        quiet=False,
        **{k: getattr(args, k) for k in _SAME_NAME},
    )


_SAME_NAME = (
    *("data", "noise_samples", "seed", "limit", "loss_samples", "loss_noise_samples", "trained_on"),
    *("batch_tokens", "tokenizer", "device", "out"),
)


def _harness(args: argparse.Namespace, settings: Any) -> list[dict[str, Any]]:
    from ..shards.errors import RequestError
    from .evaluate import open_checkpoint, tokenizer_for

    try:
        from .lm_eval_adapter import run_tasks
    except ImportError as error:
        raise RequestError(f"--lm-eval needs epochal[eval]: pip install 'epochal[eval]' ({error})") from None
    rows = []
    for path in args.checkpoints:
        checkpoint = open_checkpoint(path, settings.device, settings.dtype)
        tokenizer = tokenizer_for(checkpoint.card, settings.tokenizer)
        tasks = args.lm_eval.split(",")
        rows += run_tasks(
            checkpoint,
            tasks,
            tokenizer,
            settings.noise_samples,
            settings.seed,
            settings.batch_tokens,
            settings.limit,
            include=args.lm_eval_include,
        )
    return rows


def describe(body: dict[str, list[dict[str, Any]]], out: str) -> str:
    """Return the tables of an evaluation."""
    parts = []
    if body["tasks"]:
        parts += [_accuracies(body["tasks"]), _leaks(body["tasks"]), _costs(body["tasks"])]
    if body["likelihoods"]:
        parts.append(_likelihoods(body["likelihoods"]))
    if body.get("lm_eval"):
        parts.append(_harness_table(body["lm_eval"]))
    return "\n\n".join([*(p for p in parts if p), f"results in {out}"])


KINDS = {"nll": "NLL, exact", "nelbo": "NELBO, upper bound"}


def _noise(row: dict[str, Any]) -> str:
    return KINDS[row["kind"]] + (f", K={row['noise_samples']}" if row["noise_samples"] else "")


def _percent(row: dict[str, Any], name: str, signed: bool = False) -> str:
    if row.get(name) is None:
        return ""
    error = row.get(f"{name}_se")
    sign = "+" if signed else ""
    return f"{100 * row[name]:{sign}.2f}" + ("" if error is None else f" ± {100 * error:.2f}")


def _accuracies(rows: Sequence[dict[str, Any]]) -> str:
    head = ["model", "task", "items", "accuracy %", "lengths alone %", "difference", "ΔNLL", "likelihood"]
    body = []
    for r in rows:
        items = f"{r['items']:,}" + ("" if r["items"] == r["items_in_file"] else f" of {r['items_in_file']:,}")
        delta = "" if r.get("delta_nll") is None else f"{r['delta_nll']:+.4f}"
        counting, over = _percent(r, "counting"), _percent(r, "over_counting", signed=True)
        name = f"{r['task']}:{r['shots']}"
        body.append([r["model"], name, items, _percent(r, "accuracy"), counting, over, delta, _noise(r)])
    return f"{_table(head, body)}\n{_explain_accuracies(rows[0]['norm'])}"


def _explain_accuracies(norm: str) -> str:
    unit = {"characters": "per character", "tokens": "per token", "none": "per answer"}[norm]
    return (
        f"answers compared by nats {unit}; ± is one standard error over items. `lengths alone`: what a model scores "
        f"that knows\nonly how many tokens and characters answers have. ΔNLL: wrong minus right answers, nats {unit}."
    )


def _leaks(rows: Sequence[dict[str, Any]]) -> str:
    lines = dict.fromkeys(f"{r['model']} {r['task']}:{r['shots']}: {r['leak_check']}" for r in rows)
    return "\n".join(["leak check:", *(f"  {line}" for line in lines)])


def _costs(rows: Sequence[dict[str, Any]]) -> str:
    timed = [r for r in rows if r["scored_now"]]
    body = [
        [r["model"], f"{r['task']}:{r['shots']}", f"{r['scored_now']:,}", f"{r['items_per_s']:,.1f}"]
        + [f"{r['sequences_per_s']:,.1f}", f"{100 * r['padding_waste']:.1f} %", str(r["truncated"])]
        for r in timed
    ]
    head = ["model", "task", "scored now", "items/s", "sequences/s", "padding", "cut texts"]
    return _table(head, body) if body else ""


def _likelihoods(rows: Sequence[dict[str, Any]]) -> str:
    head = ["model", "data", "kind", "nats/token", "bits/byte", "tokens", "noise seed"]
    body = []
    for r in rows:
        error = "" if not r["per_token_se"] else f" ± {r['per_token_se']:.4f}"
        byte = "" if r["bits_per_byte"] is None else f"{r['bits_per_byte']:.4f}"
        seed = "" if r["seed"] is None else str(r["seed"])
        figures = [f"{r['per_token']:.4f}{error}", byte, f"{r['tokens']:,}", seed]
        body.append([r["name"], f"{r['source']} {r['data'][:8]}", _noise(r), *figures])
    return _table(head, body)


def _harness_table(rows: Sequence[dict[str, Any]]) -> str:
    head = ["model", "lm-eval task", "metric", "value", "stderr", "likelihood"]
    body = [
        [r["model"], r["task"], r["metric"], f"{r['value']:.4f}", "" if r["stderr"] is None else f"{r['stderr']:.4f}"]
        + [_noise(r)]
        for r in rows
    ]
    return _table(head, body)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def generate(parser: argparse.ArgumentParser) -> Run:
    """Add the arguments of `epochal generate`; return what runs it."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of a model, or of a run (its final)")
    parser.add_argument("prompt", nargs="?", default="", help="text to go on from; - reads standard input (default none)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="(default 128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default 0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="share of probability to draw from (default 1)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text")
    parser.add_argument("--steps", type=int, help="masked diffusion: reads for the whole text (default one per token)")
    parser.add_argument(
        "--order", choices=("confidence", "random"), default="confidence", help="masked diffusion: what is settled first"
    )
    parser.add_argument("--block", type=int, help="masked diffusion: tokens filled in together (default all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _model_arguments(parser)
    return _generate


def _generate(args: argparse.Namespace) -> int:
    import torch

    from .evaluate import open_checkpoint, tokenizer_for
    from .generate import Sampling
    from .generate import generate as run
    from .terminal import LiveText

    checkpoint = open_checkpoint(args.checkpoint, args.device, getattr(torch, args.dtype))
    tokenizer = tokenizer_for(checkpoint.card, args.tokenizer)
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    ids = [tokenizer.info.eod, *(tokenizer.encode([prompt])[0].tolist() if prompt else [])]
    keys = ("max_new_tokens", "temperature", "top_p", "seed", "steps", "order", "block")
    sampling = Sampling(stop=(tokenizer.info.eod,), **{k: getattr(args, k) for k in keys})
    _check_room(len(ids) + args.max_new_tokens, checkpoint.card.seq_len)
    live = LiveText(lambda new: prompt + tokenizer.decode(new), tokenizer.info.mask)
    new = run(checkpoint.model, ids, tokenizer.info.mask, sampling, None if args.json else live.show)
    live.clear()
    text = _until(tokenizer.decode(new), args.stop)
    if args.json:
        print(json.dumps({"prompt": prompt, "text": text, "ids": new, "tokens": len(new)}, ensure_ascii=False))
    else:
        print(prompt + text)
    return 0


def _check_room(tokens: int, seq_len: int) -> None:
    from ..shards.errors import RequestError

    if tokens > seq_len:
        raise RequestError(
            f"prompt and new tokens are {tokens} together, the model was trained on {seq_len}: "
            "shorten the prompt or --max-new-tokens"
        )


def _until(text: str, stops: Sequence[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text


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
    from ..shards.errors import RequestError
    from ..shards.units import parse_count
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

    from ..shards.errors import RequestError
    from ..shards.settings import load_yaml, validate
    from .config import ModelSection, model_section, presets, shipped

    found = path if Path(path).exists() else shipped(path) or shipped(f"model-{path}")
    if found is None:
        raise RequestError(f"{path} is neither a file, a shipped run nor a preset ({', '.join(presets())})")
    given = [f"{key}=x" for key in ("train_loader.dataset.path", "eval_loader.dataset.path")]  # of no matter here
    data = load_yaml(found, [*(given if "objective:" in Path(found).read_text() else []), *overrides])
    if not isinstance(data.get("model"), dict):
        raise RequestError(f"{path} has no section `model`")
    section = validate(ModelSection, model_section(data["model"], path), f"{path}: model")
    objective = data.get("objective") or {}
    causal = {"ar": True, "mdm": False}.get(objective.get("name"))
    seq_len = data.get("max_seq_len")
    return section.shape(causal is not False, section.vocab_size or GPT2_IDS), seq_len, causal


def describe_flops(body: dict[str, Any]) -> str:
    """Return the tables of `epochal flops`."""
    p, t = body["parameters"], body["training"]
    lines = [
        f"weights in matrix products: {p['blocks']:,} in blocks, {p['head']:,} in the head ({body['vocab_size']:,} ids)",
        "",
        f"training, FLOPs per token at {body['seq_len']} tokens: 6ND {t['six_nd']:.4g}, with attention "
        f"{t['with_attention_causal']:.4g} (causal), {t['with_attention_full']:.4g} (full)",
    ]
    if "run" in body:
        r = body["run"]
        lines.append(
            f"training on {r['tokens']:,} tokens: 6ND {r['six_nd']:.4g}, with attention {r['with_attention_causal']:.4g} "
            f"(causal), {r['with_attention_full']:.4g} (full)"
        )
    head = ["tokens", "AR, cached", "MDM, steps = tokens", "ratio", "MDM steps", "FLOPs", "ratio"]
    head += [f"cached, blocks of {body['block']}", "ratio"]
    rows = []
    for n, r in body["inference"].items():
        full = body["inference_ratio"][n]
        rows.append(
            [n, f"{r['autoregressive']:.4g}", f"{full * r['autoregressive']:.4g}", f"{full:.4g}", str(r["steps"])]
            + [f"{r['masked_diffusion']:.4g}", f"{r['ratio']:.4g}", f"{r['masked_diffusion_cached']:.4g}"]
            + [f"{r['ratio_cached']:.4g}"]
        )
    lines += ["", "inference, FLOPs of one text without a prompt:", _table(head, rows)]
    return "\n".join(lines + (_measured(body["measured"]) if "measured" in body else []))


def _measured(measured: dict[str, Any]) -> list[str]:
    rows = []
    for name, r in measured.items():
        if isinstance(r, dict):
            timed = [f"{r['seconds']:.4g} s", f"{r['flops_per_s']:.3g}"] if "seconds" in r else ["", ""]
            rows.append([name, f"{r['counted']:.5g}", f"{r['formula']:.5g}", f"{r['counted_over_formula']:.4f}", *timed])
    head = ["step", "counted", "formula", "counted / formula", f"on {measured['device']}", "FLOP/s"]
    why = [] if measured["timed"] else [f"not timed: {measured['why']}"]
    return ["", f"what torch executes at {measured['seq_len']} tokens:", _table(head, rows), *why]
