"""`epochal plan`, `epochal audit`: what a run will read, and whether it did. `epochal order` is in tokenize/."""

import argparse
from typing import Any

from ...common import storage
from ...common.cli import Runner, add_examples, for_terminal, print_json
from ...common.config import load_yaml, validate
from ...common.errors import EpochalError, RequestError
from ...common.units import format_count, parse_count, tokens_for_epochs
from ..artifact import open_artifact
from .amendment.amend import amend
from .amendment.skips import Skip, skip_argument
from .base import POLICIES, Order, Repetition
from .mixture_config import MixtureSettings, OpenedMixture, describe_stages, mixture_file, open_mixture
from .plan import Plan
from .receipt import RECEIPT_NAME, Receipt

MOST_AUDITED = 10**10
"""Positions of a receipt that are checked: 20T tokens in samples of 2048."""

SKIP: dict[str, Any] = {
    "metavar": "FROM:TO[:WHY]",
    "action": "append",
    "help": "pass over positions FROM to TO - 1 of the order as it is without any skip; may be given several times",
}
"""How the argument `--skip` is added."""


def plan(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal plan`; return what runs it."""
    add_examples(
        parser,
        "plan artifacts/subsets/mine-500M --total-tokens 48B --batch-tokens 524288",
        "plan artifacts/subsets/mine-500M --epochs 96 --batch-tokens 524288 --params 1B",
        "plan mixture.yaml --batch-tokens 524288",
    )
    parser.add_argument(
        "subset", metavar="SUBSET", help="folder or URL of a subset or pool, or the YAML file of a mixture"
    )
    add_budget(parser)
    parser.add_argument("--batch-tokens", metavar="N", required=True, help="tokens of a global batch: 524288")
    parser.add_argument("--params", metavar="N", help="parameters of the model, for its training FLOPs (6ND): 1B")
    add_order(parser)
    return _run_plan


def _run_plan(args: argparse.Namespace) -> int:
    if mixture_file(args.subset):
        return _plan_mixture(args)
    if not asked(args):
        raise RequestError("say how long the run is: --total-tokens 96B or --epochs 96")
    manifest = open_artifact(args.subset).manifest
    whole = Plan.for_artifact(manifest, budget(args, manifest.tokens), args.seed, args.policy or "reshuffle")
    the_plan = amend(whole, asked_skips(args))
    batch_tokens = parse_count(args.batch_tokens, "--batch-tokens")
    numbers = plan_numbers(the_plan, batch_tokens, parse_count(args.params, "--params") if args.params else None)
    if args.json:
        print_json(numbers)
        return 0
    partial = f" + {numbers['partial']:.4f} of a pass" if numbers["partial"] else ""
    print(
        f"subset         {manifest.name}: {format_count(manifest.tokens)} unique tokens, {manifest.samples:,} samples"
    )
    print(f"passes         {numbers['passes']}{partial} ({the_plan.policy}, seed {args.seed})")
    print(f"tokens         {the_plan.tokens:,} in {the_plan.positions:,} samples of {manifest.seq_len}")
    _print_skips(the_plan)
    print(f"steps          {numbers['steps']:,} of {numbers['batch_samples']} samples ({batch_tokens:,} tokens)")
    if numbers["last_batch_samples"] != numbers["batch_samples"]:
        print(f"last step      {numbers['last_batch_samples']} samples")
    if "training_flops" in numbers:
        print(f"training FLOPs {numbers['training_flops']:.4g} (6 x parameters x tokens)")
    print(f"plan           {the_plan.fingerprint}")
    return 0


def _plan_mixture(args: argparse.Namespace) -> int:
    own = opened_mixture(args).mixture
    mixture = amend(own, asked_skips(args))
    plans = mixture.components()
    batch_tokens = parse_count(args.batch_tokens, "--batch-tokens")
    batch_samples = mixture.batch_samples(batch_tokens)
    params = parse_count(args.params, "--params") if args.params else None
    numbers: dict[str, Any] = {
        "steps": mixture.steps(batch_samples),
        "tokens": mixture.tokens,
        "positions": mixture.positions,
        "batch_samples": batch_samples,
        "last_batch_samples": (mixture.positions - 1) % batch_samples + 1,
        "unique_tokens": mixture.unique_tokens,
        "samples": mixture.samples,
        "sources": {name: _of_source(plan) for name, plan in plans.items()},
        "window": own.window,
        "stages": describe_stages(own),
        "fingerprint": mixture.fingerprint,
        "plan": mixture.to_dict(),
    }
    numbers |= {"params": params, "training_flops": 6 * params * mixture.tokens} if params else {}
    if args.json:
        print_json(numbers)
        return 0
    for name, the_plan in plans.items():
        passes = f"{the_plan.positions / the_plan.samples:.4f}".rstrip("0").rstrip(".")
        print(
            f"source         {name}: {format_count(the_plan.unique_tokens)} unique tokens, {passes} passes "
            f"({the_plan.policy}, seed {the_plan.seed}), {the_plan.positions:,} samples"
        )
    for i, stage in enumerate(numbers["stages"]):
        shares = ", ".join(f"{name} {n:.2f}".removesuffix(".00") for name, n in stage["per_window"].items() if n)
        print(f"stage {i:<8} {stage['positions']:,} samples; in every {stage['window']:,} of them: {shares}")
    print(f"tokens         {mixture.tokens:,} in {mixture.positions:,} samples of {mixture.seq_len}")
    _print_skips(mixture)
    print(f"steps          {numbers['steps']:,} of {batch_samples} samples ({batch_tokens:,} tokens)")
    if params:
        print(f"training FLOPs {numbers['training_flops']:.4g} (6 x parameters x tokens)")
    print(f"mixture        {mixture.fingerprint}")
    return 0


def _print_skips(order: Order) -> None:
    for skip in order.skips:
        why = f": {skip.reason}" if skip.reason else ""
        print(for_terminal(f"skipped        positions {skip.start:,} to {skip.stop - 1:,}{why}"))


def _of_source(the_plan: Repetition) -> dict[str, Any]:
    passes, place = divmod(the_plan.positions, the_plan.samples)
    return {
        "passes": passes,
        "partial": place / the_plan.samples,
        "tokens": the_plan.tokens,
        "positions": the_plan.positions,
        "samples": the_plan.samples,
        "unique_tokens": the_plan.unique_tokens,
        "exposures": {str(k): v for k, v in _histogram(the_plan).items()},
        "fingerprint": the_plan.fingerprint,
    }


def opened_mixture(args: argparse.Namespace) -> OpenedMixture:
    """Return the mixture that a YAML file describes, and its artifacts."""
    if args.policy is not None:
        raise RequestError("--policy is for one subset: a mixture's file gives each source its own")
    settings = validate(MixtureSettings, load_yaml(args.subset), args.subset)
    length = (lambda unique: budget(args, unique)) if asked(args) else None
    return open_mixture(settings, args.seed, length, "--total-tokens")


def plan_numbers(the_plan: Repetition, batch_tokens: int, params: int | None = None) -> dict[str, Any]:
    """Return what `epochal plan --json` prints.

    passes: whole passes; partial: the fraction of a pass after them; steps: global batches, a short last one
    included; tokens: real tokens; positions: samples that the run reads;
    samples: those of the subset; training_flops: 6 x params x tokens.
    """
    batch_samples = the_plan.batch_samples(batch_tokens)
    passes, place = divmod(the_plan.positions, the_plan.samples)
    numbers: dict[str, Any] = {
        "passes": passes,
        "partial": place / the_plan.samples,
        "partial_samples": place,
        "steps": the_plan.steps(batch_samples),
        "tokens": the_plan.tokens,
        "positions": the_plan.positions,
        "batch_samples": batch_samples,
        "last_batch_samples": (the_plan.positions - 1) % batch_samples + 1,
        "unique_tokens": the_plan.unique_tokens,
        "samples": the_plan.samples,
        "exposures": {str(k): v for k, v in _histogram(the_plan).items()},
        "fingerprint": the_plan.fingerprint,
        "plan": the_plan.to_dict(),
    }
    return numbers | ({"params": params, "training_flops": 6 * params * the_plan.tokens} if params else {})


def _histogram(the_plan: Repetition) -> dict[int, int]:
    """Return how many samples are seen how often, where that costs no look at every sample."""
    return {} if the_plan.policy == "global" else the_plan.histogram(the_plan.positions)


def audit(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal audit`; return what runs it."""
    add_examples(
        parser,
        "audit runs/mine",
        "audit runs/mine/receipt.json --json",
    )
    parser.add_argument("receipt", metavar="RECEIPT", help="the receipt that a run wrote, or its folder (path or URL)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return _run_audit


def _run_audit(args: argparse.Namespace) -> int:
    in_folder = storage.join(args.receipt, RECEIPT_NAME)
    if storage.exists(in_folder):
        args.receipt = in_folder
    try:
        text = storage.read_bytes(args.receipt).decode()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise RequestError(
            f"{args.receipt} is no receipt, and no run's folder with {RECEIPT_NAME}, which a run writes at its end"
        ) from None
    except UnicodeDecodeError:
        raise RequestError(f"{args.receipt} is no receipt of epochal: it is not text") from None
    try:
        receipt = Receipt.from_json(text)
    except EpochalError as error:
        raise type(error)(f"{args.receipt}: {error}") from None
    if receipt.count > MOST_AUDITED:
        raise RequestError(
            f"{args.receipt} tells of {receipt.count:,} positions: more than {MOST_AUDITED:,}, a quarter of an hour, "
            "are not checked"
        )
    problem = receipt.check()
    if args.json:
        print_json({"ok": problem is None, "problem": problem} | receipt.to_dict())
    elif problem is None:
        print(f"ok: {receipt.count:,} samples, every position of plan {receipt.plan.fingerprint} exactly once")
    else:
        print(f"not ok: {problem}")
    return 0 if problem is None else 1


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how long a run is."""
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--total-tokens", metavar="N", help="tokens to train on: 96B")
    length.add_argument("--epochs", "--passes", metavar="K", help="passes over the subset to train for: 96, 3.5")


def add_order(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say in which order, and `--json`."""
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the order (default 0)")
    parser.add_argument("--policy", choices=POLICIES, help="how data is repeated (default reshuffle)")
    parser.add_argument("--skip", **SKIP)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def asked_skips(args: argparse.Namespace) -> list[Skip]:
    """Return the spans that the arguments pass over, in the order of their positions.

    Raises:
        RequestError: for what is no span.
    """
    return sorted((skip_argument(text) for text in args.skip or ()), key=lambda skip: skip.start)


def asked(args: argparse.Namespace) -> bool:
    """Return whether the arguments say how long the run is."""
    return args.total_tokens is not None or args.epochs is not None


def budget(args: argparse.Namespace, unique_tokens: int) -> int:
    """Return the tokens that the arguments pay for.

    Raises:
        RequestError: for what is no amount.
    """
    if args.epochs is not None:
        return tokens_for_epochs(args.epochs, unique_tokens)
    return parse_count(args.total_tokens, "--total-tokens")
