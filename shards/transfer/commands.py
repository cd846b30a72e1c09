"""The commands that send artifacts away and bring them here: push, pull."""

import argparse
from typing import TYPE_CHECKING

from ...common.cli import Runner, add_examples, print_json, say_next, short_path
from ...common.errors import without_secrets

if TYPE_CHECKING:
    from .transfer import Transferred


def push(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal push`; return what runs it."""
    add_examples(
        parser,
        "push artifacts/pools/mine hf://datasets/USER/mine",
        "push artifacts/subsets/mine-500M s3://bucket/subsets/mine-500M",
        "push artifacts/subsets/mine-500M s3://bucket/subsets/mine-500M --refer s3://bucket/pools/mine",
    )
    parser.add_argument("artifact", metavar="ARTIFACT", help="folder or URL of a pool, subset or export")
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="hf://datasets/USER/NAME[@BRANCH][/FOLDER], s3://, gs:// or another fsspec URL, or a folder",
    )
    _add_refer(parser, "where the pool of this view has been pushed to: the view stays one")
    parser.add_argument("--public", action="store_true", help="a data set made on the hub is seen by everybody")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")

    def run(args: argparse.Namespace) -> int:
        from .transfer import push

        done = push(args.artifact, args.target, args.refer, args.public, quiet=args.json)
        return _report(done, "pushed", args.json)

    return run


def pull(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal pull`; return what runs it."""
    add_examples(
        parser,
        "pull hf://datasets/USER/mine artifacts/pools/mine",
        "pull s3://bucket/subsets/mine-500M artifacts/subsets/mine-500M",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="hf://datasets/USER/NAME[@REVISION][/FOLDER], another URL, or a folder"
    )
    parser.add_argument("folder", metavar="DIR", help="the artifact's new folder")
    _add_refer(parser, "where the pool of this view is: the view stays one")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")

    def run(args: argparse.Namespace) -> int:
        from .transfer import pull

        return _report(pull(args.source, args.folder, args.refer, quiet=args.json), "pulled", args.json)

    return run


def _add_refer(parser: argparse.ArgumentParser, what: str) -> None:
    words = "(default: the shards of the pool are copied, and the subset stands alone)"
    parser.add_argument("--refer", metavar="POOL", help=f"{what} {words}")


def _report(done: "Transferred", verb: str, as_json: bool) -> int:
    from ...common.units import format_bytes

    m = done.manifest
    if as_json:
        counts = {"new": done.new, "files": done.files, "kept": done.kept, "bytes": done.bytes}
        print_json({"path": done.root, "kind": m.kind, "name": m.name, "fingerprint": m.fingerprint, **counts})
        return 0
    files = f"{done.files:,} files, {format_bytes(done.bytes)}" + (f", {done.kept:,} there before" if done.kept else "")
    print(f"{verb if done.new else 'already there:'} {without_secrets(done.root, {})}  ({files}; {m.fingerprint})")
    say_next(["verify", short_path(done.root)])
    return 0
