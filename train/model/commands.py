"""The commands of models without their training: export-model, flops."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...common.cli import Runner, add_examples, at_least_1, device_argument
from ...common.errors import RequestError
from ...common.units import parse_count


def export_model(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal export-model`; return what runs it."""
    add_examples(
        parser,
        "export-model runs/tiny-ar --out hf-model",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of a model, or of a run (its final)")
    parser.add_argument(
        "--format", choices=("huggingface",), default="huggingface", help="for AutoModelForCausalLM (default)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where it goes: a new folder")
    parser.add_argument("--tokenizer", metavar="PATH", help="its tokenizer.json, for a model that carries none")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return _export_model


def _export_model(args: argparse.Namespace) -> int:
    from .hf_export import export_huggingface

    body = export_huggingface(args.checkpoint, args.out, args.tokenizer)
    described = f"exported {body['out']}  ({body['architecture']}, {body['parameters']:,} weights)"
    loading = f"transformers.AutoModelForCausalLM.from_pretrained({body['out']!r})"
    print(json.dumps(body) if args.json else f"{described}\nin Python: {loading}, and AutoTokenizer likewise")
    return 0


def flops(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal flops`; return what runs it."""
    add_examples(
        parser,
        "flops paper-1b --tokens 96B",
        "flops my.yaml model.layers=12 --measure",
        "flops 8b --memory --gpus 8 --micro-batch 4",
        "flops runs/tiny-ar",
    )
    parser.add_argument("model", metavar="MODEL.yaml", help="file with a `model` section, a shipped run, or a preset")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in model.layers=12")
    parser.add_argument("--seq-len", metavar="N", type=int, help="training length (default max_seq_len, else 2048)")
    parser.add_argument(
        "--steps", metavar="N", type=int, help="reads per text of masked diffusion (default one per token)"
    )
    parser.add_argument("--block", metavar="N", type=int, default=32, help="of the cached form (default 32)")
    parser.add_argument("--tokens", metavar="N", help="training budget, such as 96B: adds the whole run's FLOPs")
    parser.add_argument(
        "--memory", action="store_true", help="also what training takes of each GPU's memory, by formula"
    )
    parser.add_argument("--gpus", metavar="N", type=int, default=1, help="that FSDP shares it out over (default 1)")
    parser.add_argument("--micro-batch", metavar="N", type=int, default=8, help="samples on each GPU (default 8)")
    parser.add_argument(
        "--recompute",
        choices=("none", "norms", "products", "blocks"),
        default="none",
        help="activation_checkpointing of the run (default none)",
    )
    parser.add_argument("--measure", action="store_true", help="also count what torch executes, and time it")
    device_argument(parser, "with --measure, to time on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return _flops


GPT2_IDS = 50259
"""GPT-2's vocabulary with MASK and PAD, for shapes that leave the vocabulary to the data."""


def _flops(args: argparse.Namespace) -> int:
    from .flops.formulas import report
    from .flops.tables import describe

    at_least_1(args, "seq_len", "steps", "block", "gpus", "micro_batch")
    asked = {"--gpus": args.gpus != 1, "--micro-batch": args.micro_batch != 8, "--recompute": args.recompute != "none"}
    if not args.memory and any(asked.values()):
        raise RequestError(f"{next(k for k, given in asked.items() if given)} is about memory: add --memory")
    shape, seq_len, causal = _shape(args.model, args.overrides)
    seq_len = args.seq_len or seq_len or 2048
    body = {"model": args.model, "causal": causal, "vocab_size": shape.vocab_size}
    body |= {"document_mask": True} if shape.document_mask else {}
    body |= report(shape, seq_len, args.steps, args.block)
    if args.tokens:
        tokens = parse_count(args.tokens)
        body["run"] = {"tokens": tokens} | {k: v * tokens for k, v in body["training"].items()}
    if args.memory:
        from .flops.memory import training_memory

        body["memory"] = training_memory(shape, seq_len, args.micro_batch, args.gpus, args.recompute)
    if args.measure:
        from ..checkpoint import check_device
        from .flops.measured import measure

        body["measured"] = measure(shape, seq_len, check_device(args.device))
    print(json.dumps(body) if args.json else describe(body))
    return 0


def _shape(path: str, overrides: Sequence[str]) -> tuple[Any, int | None, bool | None]:
    """Return the shape in the file, preset or model's folder `path`; training length and type where it says them."""
    from ...common.config import load_yaml, shipped, shipped_names, validate
    from ...common.problems import did_you_mean
    from ..settings.model import ModelSection
    from ..settings.objective import BlockSection
    from .presets import YAMLS, model_section, preset_file, presets

    if Path(path).is_dir():
        from ..checkpoint import load_card, model_folder

        if overrides:
            raise RequestError(f"{path} is a model, whose settings are what they are: leave {overrides[0]} away")
        card = load_card(model_folder(path))
        return card.shape, card.seq_len, {"nll": True, "nelbo": False, "nelbo_given_lengths": False}.get(card.kind)
    found = path if Path(path).exists() else shipped(YAMLS, path) or preset_file(path)
    if found is None:
        names = [*presets(), *shipped_names(YAMLS)]
        meant = did_you_mean(path, names) or f" ({', '.join(names)})"
        raise RequestError(f"{path} is neither a file, a model's folder, a shipped run nor a preset{meant}")
    given = [
        f"{key}=x" for key in ("train_loader.dataset.path", "eval_loader.dataset.path")
    ]  # must be given, and are not read
    is_run = Path(found).is_file() and b"objective:" in Path(found).read_bytes()
    data = load_yaml(found, [*(given if is_run else []), *overrides])
    if not isinstance(data.get("model"), dict):
        raise RequestError(f"{path} has no section `model`")
    section = validate(ModelSection, model_section(data["model"], path), f"{path}: model")
    objective = data.get("objective") or {}
    causal = {"ar": True, "mdm": False}.get(str(objective.get("name")))
    block = validate(BlockSection, objective, path).block_size if objective.get("name") == "block" else None
    left = causal is True or not objective  # of a shape alone either type's
    return section.shape(left, section.vocab_size or GPT2_IDS, block), data.get("max_seq_len"), causal
