"""`epochal evaluate` and `epochal generate`."""

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
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="folder of a model, or of a run (its final)"
    )
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
    parser.add_argument(
        "--loss-noise-samples", type=int, default=8, help="per sample, masked diffusion only (default 8)"
    )
    parser.add_argument("--trained-on", metavar="ARTIFACT", help="the training subset or pool, for the leak check")
    parser.add_argument("--lm-eval", metavar="TASKS", help="comma-separated tasks of lm-evaluation-harness")
    parser.add_argument("--lm-eval-include", metavar="FOLDER", help="your own task files for it")
    parser.add_argument("--batch-tokens", type=int, default=16384, help="tokens read at a time (default 16384)")
    parser.add_argument(
        "--out", default="runs/evaluation", help="results, and items scored so far (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    _model_arguments(parser)
    return _evaluate


def _evaluate(args: argparse.Namespace) -> int:
    from .evaluate import run, write_results
    from .evaluation_tables import describe

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

    from ..common.errors import RequestError
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
    from ..common.errors import RequestError
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


def generate(parser: argparse.ArgumentParser) -> Run:
    """Add the arguments of `epochal generate`; return what runs it."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of a model, or of a run (its final)")
    parser.add_argument(
        "prompt", nargs="?", default="", help="text to go on from; - reads standard input (default none)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=128, help="(default 128)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token (default 0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="share of probability to draw from (default 1)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text")
    parser.add_argument("--steps", type=int, help="masked diffusion: reads for the whole text (default one per token)")
    parser.add_argument(
        "--order",
        choices=("confidence", "random"),
        default="confidence",
        help="masked diffusion: what is settled first",
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
    from ..common.errors import RequestError

    if tokens > seq_len:
        raise RequestError(
            f"prompt and new tokens are {tokens} together, the model was trained on {seq_len}: "
            "shorten the prompt or --max-new-tokens"
        )


def _until(text: str, stops: Sequence[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text
