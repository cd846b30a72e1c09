"""`epochal summary`: what a run was trained on, written for others."""

import argparse
import json
import os

from ...common import storage
from ...common.cli import Runner, add_examples, say
from ...common.errors import RequestError
from ..commands import add_service

FILES = ("summary.md", "summary.json", "bom.cdx.json")


def summary(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal summary`; return what runs it."""
    add_examples(
        parser,
        "summary web-1b",
        "summary web-1b --service https://host:8642 --out web-1b-summary --replace",
    )
    parser.add_argument("run", metavar="RUN", help="name or fingerprint of a run")
    parser.add_argument("--out", metavar="DIR", help="folder for the three files (default RUN-summary)")
    parser.add_argument("--replace", action="store_true", help="replace files that were written before")
    add_service(parser)
    return _run_summary


def _run_summary(args: argparse.Namespace) -> int:
    import epochal

    from ..client.client import Client
    from .account import gather
    from .bom import bom
    from .markdown import left_to_fill_in
    from .markdown import summary as write

    out = args.out or f"{args.run.replace('/', '_')}-summary"
    there = [name for name in FILES if os.path.exists(os.path.join(out, name))]
    if there and not args.replace:
        raise RequestError(f"{os.path.join(out, there[0])} exists, perhaps filled in: name another --out, or --replace")
    account = gather(Client(args.service), args.run, epochal.__version__)
    text = write(account)
    os.makedirs(out, exist_ok=True)
    contents = (text, _json(account.to_dict()), _json(bom(account)))
    for name, content in zip(FILES, contents, strict=True):
        storage.write_atomic(os.path.join(out, name), content.encode())
    print(f"{out}: {', '.join(FILES)}; the model was fed {account.tokens_fed:,} tokens")
    print(f"{left_to_fill_in(text):,} places of {FILES[0]} are the provider's to fill in: no manifest states them")
    if account.seen is None:
        say(f"different tokens and documents were not counted: {account.not_counted}")
    return 0


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
