"""`epochal memorisation`: what a finished run knows of the documents that it was fed, by how often it was."""

import argparse
from dataclasses import asdict
from typing import Any

from ...common.cli import Runner, add_examples, at_least_1, device_argument, print_json
from ...common.errors import RequestError
from ...common.hashing import check_seed


def memorisation(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal memorisation`; return what runs it."""
    add_examples(
        parser,
        "memorisation runs/tiny-ar",
        "memorisation runs/tiny-mdm --documents 256 --k 50",
        "memorisation runs/mine --subset /new/place/mine-500M --validation /new/place/mine-val",
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run that has ended")
    parser.add_argument(
        "--documents", metavar="N", type=int, default=64, help="measured per number of exposures, at most (default 64)"
    )
    parser.add_argument(
        "--k", metavar="N", type=int, default=32, help="tokens of a document that the model is to write (default 32)"
    )
    parser.add_argument(
        "--noise-samples", metavar="N", type=int, default=32, help="per document, of a bound only (default 32)"
    )
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the choice and all noise (default 0)")
    parser.add_argument(
        "--subset",
        action="append",
        default=[],
        metavar="PATH",
        help="where the training data lies now, if it was moved; NAME=PATH for a source of a mixture",
    )
    parser.add_argument("--validation", metavar="PATH", help="where the validation pool lies now")
    parser.add_argument(
        "--batch-tokens", metavar="N", type=int, default=16384, help="tokens read at a time (default 16384)"
    )
    device_argument(parser)
    parser.add_argument("--out", metavar="DIR", help="for memorisation.json and the plots (default the run's folder)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return _run


def _run(args: argparse.Namespace) -> int:
    at_least_1(args, "documents", "k", "noise_samples", "batch_tokens")
    check_seed(args.seed)
    from .report import describe, write

    body = measured(args)
    out = args.out or args.run
    files = write(body, out)
    print_json(body) if args.json else print(describe(body, files))
    return 0


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Return what `memorisation.json` says of the run that the arguments name."""
    from ...common.progress import Progress
    from ..checkpoint import chosen_place, open_checkpoint, types_of
    from ..eval.likelihood import check_tokenizer
    from ..run_state.receipt import read_receipt
    from .fed import read_run
    from .measure import know, summarise, take

    read_receipt(args.run)  # before the model, which takes longer
    checkpoint = open_checkpoint(args.run, *chosen_place(args.device))
    most = checkpoint.card.seq_len - 1  # EOD is read before
    if args.k >= most:
        raise RequestError(
            f"--k must be below {most}: samples have {most + 1} tokens, and some come before; got {args.k}"
        )
    fed = read_run(args.run, most, args.subset, args.validation)
    for source in fed.sources:
        check_tokenizer(checkpoint.card, source.artifact)
    samples, left_out = take(fed.sources, args.documents, args.k + 1, args.seed)
    models = []
    for name, model in types_of(checkpoint).items():
        total = sum(len(sample.taken) for sample in samples)
        known = []
        with Progress(model.name, total, "documents") as progress:
            for sample in samples:
                settings = (args.k, args.noise_samples, args.seed, args.batch_tokens)
                known.append(know(model, sample, *settings, progress.advance))
        exact = model.model.config.exact
        models.append(
            {
                "name": model.name,
                "type": name or ("ar" if model.model.config.causal else "mdm"),
                "kind": "nll" if exact else "nelbo",
                "noise_samples": None if exact else args.noise_samples,
                "groups": [asdict(summarise(s, own)) for s, own in zip(samples, known, strict=True)],
                "documents": [asdict(one) for own in known for one in own],
            }
        )
    return {
        "run": checkpoint.name,
        "model": checkpoint.fingerprint,
        "plan": fed.order.fingerprint,
        "receipt": {"positions": fed.positions, "digest": fed.digest},
        "init_from": fed.init_from,
        "data": {source.name: source.artifact.manifest.fingerprint for source in fed.sources},
        "seed": args.seed,
        "k": args.k,
        "documents": args.documents,
        "left_out": left_out,
        "validated": any(source.held_out for source in fed.sources),
        "models": models,
    }
