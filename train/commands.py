"""The commands that train and use models: train, evaluate, generate."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from ..common.cli import Runner, add_examples, at_least_1, device_argument, say_next, short_path
from ..common.errors import RequestError
from ..common.hashing import check_seed
from .exact.writing_order import ORDERS, WritingOrder
from .run_folder import BOUNDS, losses_in_words
from .run_state.often_changed import OFTEN_CHANGED


def train(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal train`; return what runs it."""
    add_examples(
        parser,
        "train tiny-mdm train_loader.dataset.path=artifacts/subsets/mine-500k "
        "eval_loader.dataset.path=artifacts/pools/mine-val",
        "train my.yaml optimizer.lr=1e-3 save_folder=runs/mine",
    )
    parser.epilog = f"{parser.epilog}\n\n{OFTEN_CHANGED}"
    parser.add_argument(
        "config", metavar="CONFIG", help="YAML file, or the name of a shipped run: tiny-ar, 125m-mdm, paper-1b-ar, ..."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change, as in optimizer.lr=1e-3")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return _train


def _train(args: argparse.Namespace) -> int:
    from .config import load_config

    config = load_config(args.config, args.overrides)
    from .light_import import import_composer

    import_composer()
    from composer.utils import dist

    from . import trainer

    if config.service and any(word.split("=")[0].strip() in ("service", "service.url") for word in args.overrides):
        from ..service.client.tokens import user_names

        user_names(config.service.url)
    result = trainer.train(config)
    if dist.get_global_rank() == 0:
        print(json.dumps(result) if args.json else describe(result))
        if not args.json and result["folder"]:
            say_next(
                ["generate", short_path(result["folder"]), "Once upon a time", "--temperature", "0.8"],
                ["audit", short_path(result["folder"])],
            )
    sys.stdout.flush()
    return 0


def describe(result: dict) -> str:
    """Return the lines that end a run."""
    kinds = losses_in_words(result["validation"]) or "none measured"
    bound = " (upper bound)" if any(kind in result["validation"] for kind in BOUNDS) else ""
    if exact := result.get("exact"):
        words = WritingOrder(exact["order"], exact["tokens_per_step"]).words
        given = ", given lengths" if "given" in exact else ""
        bound += f"; NLL {exact['loss']:.4f} (exact, {words}{given})"
    return (
        f"{result['name']}: {result['steps']} steps, {result['tokens']:,} tokens, {result['passes']:.2f} passes\n"
        f"validation loss in nats per token: {kinds}{bound}\n"
        f"receipt {'valid' if result['receipt']['valid'] else 'NOT VALID'} ({result['receipt']['digest']})\n"
        + (
            f"results in {result['folder']}: final/ is the model, metrics.jsonl has every step"
            if result["folder"]
            else "nothing was saved: set save_folder to keep the model"
        )
    )


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    device_argument(parser)
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of matrix products (default auto: bfloat16 on a GPU, float32 on the CPU)",
    )
    parser.add_argument("--tokenizer", metavar="PATH", help="its tokenizer.json, for a model that carries none")
    parser.add_argument("--seed", metavar="N", type=_seed, default=0, help="of all noise (default 0)")


def _seed(text: str) -> int:
    return check_seed(int(text))


_seed.__name__ = "int"  # what argparse calls a value that is none


def _order_arguments(parser: argparse.ArgumentParser, choices: Sequence[str], what: str, default: str | None) -> None:
    parser.add_argument("--order", choices=choices, default=default, help=f"masked diffusion: {what}")
    parser.add_argument(
        "--tokens-per-step",
        metavar="N",
        type=int,
        help="masked diffusion: tokens of the order that are written at a time, from one read of the text (default 1)",
    )


def evaluate(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal evaluate`; return what runs it."""
    add_examples(
        parser,
        "evaluate runs/tiny-ar runs/tiny-mdm --loss artifacts/pools/mine-val",
        "evaluate runs/tiny-mdm --loss artifacts/pools/mine-val --order confidence --loss-samples 64",
        "evaluate runs/a runs/b runs/c --ensemble --loss artifacts/pools/mine-val",
        "evaluate runs/tiny-ar --tasks hellaswag,mmlu:5 --data benchmarks/",
    )
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="folder of a model, or of a run (its final)"
    )
    parser.add_argument(
        "--tasks",
        metavar="TASKS",
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
        "--noise-samples", metavar="N", type=int, default=128, help="per answer, masked diffusion only (default 128)"
    )
    parser.add_argument(
        "--limit", metavar="N", type=int, help="items per task, evenly spread over its file (default all)"
    )
    parser.add_argument("--loss", action="append", default=[], metavar="ARTIFACT", help="also measure its likelihood")
    parser.add_argument("--loss-samples", metavar="N", type=int, help="of its first samples (default all)")
    parser.add_argument(
        "--loss-noise-samples", metavar="N", type=int, default=8, help="per sample, masked diffusion only (default 8)"
    )
    _order_arguments(
        parser,
        ORDERS,
        "its exact likelihood when it writes in this order, beside the bound for --loss and in its place for tasks; "
        "it takes one read of the whole text per step",
        None,
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="with --loss: of the mean of the models' probabilities, in place of each model's",
    )
    parser.add_argument(
        "--trained-on", metavar="ARTIFACT", help="the training subset or pool, for the contamination check"
    )
    parser.add_argument("--lm-eval", metavar="TASKS", help="comma-separated tasks of lm-evaluation-harness")
    parser.add_argument("--lm-eval-include", metavar="FOLDER", help="your own task files for it")
    parser.add_argument(
        "--batch-tokens", metavar="N", type=int, default=16384, help="tokens read at a time (default 16384)"
    )
    parser.add_argument(
        "--out", metavar="DIR", default="runs/evaluation", help="results, and items scored so far (default %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    _model_arguments(parser)
    return _evaluate


def _evaluate(args: argparse.Namespace) -> int:
    from .eval.evaluate import run
    from .eval.results import write_results
    from .eval.tables import describe

    settings = _settings(args)
    body = run(args.checkpoints, settings)
    if args.lm_eval:
        body["lm_eval"] = _harness(args, settings)
        write_results(body, args.out)
    print(json.dumps(body) if args.json else describe(body, args.out))
    sys.stdout.flush()
    return 0


def _settings(args: argparse.Namespace) -> Any:
    from .checkpoint import chosen_place
    from .eval.evaluate import Settings
    from .eval.tasks import PAPER_TASKS

    at_least_1(args, "noise_samples", "limit", "loss_samples", "loss_noise_samples", "batch_tokens", "tokens_per_step")
    if args.tokens_per_step and not args.order:
        raise RequestError("--tokens-per-step belongs to an order of writing: give --order too, as --order confidence")
    if args.ensemble and (len(args.checkpoints) < 2 or not args.loss or args.tasks or args.lm_eval):
        raise RequestError("--ensemble takes two models or more and measures their likelihood alone: give --loss POOL")
    wrong = next((f for f in args.file if "=" not in f), None)
    if wrong:
        raise RequestError(f"--file {wrong}: write TASK=PATH")
    default = () if args.loss or args.lm_eval else PAPER_TASKS
    device, dtype = chosen_place(args.device, args.dtype)
    return Settings(
        tasks=default if args.tasks is None else tuple(t for t in args.tasks.split(",") if t),
        files=dict(f.split("=", 1) for f in args.file),
        norm=args.normalize,
        loss=tuple(args.loss),
        writing=WritingOrder(args.order, args.tokens_per_step or 1) if args.order else None,
        quiet=False,
        device=device,
        dtype=dtype,
        **{k: getattr(args, k) for k in _SAME_NAME},
    )


_SAME_NAME = (
    *("data", "noise_samples", "seed", "limit", "loss_samples", "loss_noise_samples", "trained_on"),
    *("batch_tokens", "tokenizer", "ensemble", "out"),
)


def _harness(args: argparse.Namespace, settings: Any) -> list[dict[str, Any]]:
    from .checkpoint import open_checkpoint, types_of
    from .eval.tokenizers import tokenizer_for

    try:
        from .eval.lm_eval_adapter import run_tasks
    except ImportError as error:
        raise RequestError(f"--lm-eval needs epochal[eval]: pip install 'epochal[eval]' ({error})") from None
    rows = []
    for path in args.checkpoints:
        checkpoint = open_checkpoint(path, settings.device, settings.dtype)
        tokenizer = tokenizer_for(checkpoint, settings.tokenizer)
        tasks = args.lm_eval.split(",")
        for model in types_of(checkpoint).values():
            rows += run_tasks(
                model,
                tasks,
                tokenizer,
                settings.noise_samples,
                settings.seed,
                settings.batch_tokens,
                settings.limit,
                include=args.lm_eval_include,
                writing=settings.writing,
            )
    return rows


def generate(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal generate`; return what runs it."""
    add_examples(
        parser,
        'generate runs/tiny-ar "def f(x):" --max-new-tokens 64 --temperature 0.8',
        "generate runs/tiny-mdm - < prompt.txt",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of a model, or of a run (its final)")
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="?",
        default="",
        help="text to go on from; - reads standard input (default none)",
    )
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=128, help="at most (default 128)")
    parser.add_argument(
        "--temperature", metavar="X", type=float, default=0.0, help="0 takes the likeliest token (default 0)"
    )
    parser.add_argument(
        "--top-p", metavar="X", type=float, default=1.0, help="share of probability to draw from (default 1)"
    )
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text")
    parser.add_argument(
        "--steps", metavar="N", type=int, help="masked diffusion: reads for the whole text (default one per token)"
    )
    _order_arguments(parser, (*ORDERS, "random"), "what is settled first (default confidence)", "confidence")
    parser.add_argument(
        "--block", metavar="N", type=int, help="masked diffusion: tokens filled in together (default all)"
    )
    parser.add_argument(
        "--as", choices=("ar", "mdm"), dest="type", help="a model of both types: which of them writes (default ar)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _model_arguments(parser)
    return _generate


def _generate(args: argparse.Namespace) -> int:
    from .checkpoint import chosen_place, open_checkpoint, types_of
    from .eval.generate import Sampling, before_any
    from .eval.generate import generate as run
    from .eval.terminal import LiveText
    from .eval.tokenizers import tokenizer_for

    checkpoint = open_checkpoint(args.checkpoint, *chosen_place(args.device, args.dtype))
    types = types_of(checkpoint)
    if args.type and len(types) == 1:
        raise RequestError(f"--as {args.type}: {args.checkpoint} is a model of one type: leave --as out")
    model = types[(args.type or "ar") if len(types) > 1 else ""].model
    tokenizer = tokenizer_for(checkpoint, args.tokenizer)
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    ids = [tokenizer.info.eod, *(tokenizer.encode([prompt])[0].tolist() if prompt else [])]
    keys = ("max_new_tokens", "temperature", "top_p", "seed", "steps", "order", "block", "tokens_per_step")
    sampling = Sampling(stop=(tokenizer.info.eod,), **{k: getattr(args, k) for k in keys})
    _check_room(len(ids) + args.max_new_tokens, checkpoint.card.seq_len)
    live = LiveText(lambda new: tokenizer.decode_after(ids, new), tokenizer.info.mask, prompt)
    new = run(model, ids, tokenizer.info.mask, sampling, None if args.json else live.show)
    live.clear()
    text = before_any(tokenizer.decode_after(ids, new), args.stop)
    if args.json:
        print(json.dumps({"prompt": prompt, "text": text, "ids": new, "tokens": len(new)}, ensure_ascii=False))
    else:
        print(prompt + text)
    return 0


def _check_room(tokens: int, seq_len: int) -> None:
    if tokens > seq_len:
        raise RequestError(
            f"prompt and new tokens are {tokens} together, the model was trained on {seq_len}: "
            "shorten the prompt or --max-new-tokens"
        )
