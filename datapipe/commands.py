"""The command that builds pools."""

import argparse
import contextlib
import functools
import gc
import json
import os
import re
import sys
from collections.abc import Iterator

from ..common.cli import Runner, add_examples, print_json, say_next, short_path
from ..common.errors import RequestError, without_secrets
from ..common.units import format_count, round_down


def init(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal init`; return what runs it."""
    add_examples(parser, "init data/", "init data/ --name mine --out mine.yaml")
    parser.add_argument("folder", metavar="FOLDER", help="file, folder, glob or URL with the documents")
    parser.add_argument("--name", metavar="NAME", help="of the pool (default: the folder's)")
    parser.add_argument("--out", metavar="FILE", help="a new file (default: NAME.yaml here)")

    def run(args: argparse.Namespace) -> int:
        from .scaffold import configuration, write

        stem = os.path.basename(args.folder.rstrip("/")).partition(".")[0]
        name = args.name or re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "mine"
        out = args.out or f"{name}.yaml"
        if os.path.exists(out):
            raise RequestError(f"{out} is there already: name another file with --out, or remove it")
        write(out, configuration(args.folder, name))
        print(f"wrote {out}: look through it, then\n  epochal build {out} --dry-run\n  epochal build {out}")
        return 0

    return run


def build(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal build`; return what runs it."""
    add_examples(
        parser,
        "build folder sources.0.path=data/ name=mine",
        "build folder sources.0.path=data/ sources.0.text_key=body out=/big/disk tasks=8 workers=4",
        "build my.yaml decontaminate.files='[benchmarks/*.jsonl]'",
    )
    parser.add_argument(
        "config", metavar="CONFIG", help="YAML of the build, or a shipped one's name (python, folder, paper-10B, ...)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="sources.0.path=data/ out=DIR tasks=8 ...")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be read, from a sample of it; build nothing"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print what `epochal show --json` prints, of the pool")

    def run(args: argparse.Namespace) -> int:
        from .run.fork_server import set_environment

        set_environment()  # before a library that reads it is imported
        with _importing():
            from ..shards.artifact import read_manifest
            from ..shards.commands import describe
            from .config import load_build

            config = load_build(args.config, args.overrides)
        if args.dry_run:
            from .preview import describe as describe_preview
            from .preview import preview

            found = preview(config)
            print(json.dumps(found) if args.json else describe_preview(found))
            if not args.json and not found["already_there"]:
                say_next(["build", args.config, *args.overrides])
            return 0

        with _importing():
            from .build import build
            from .summary import left_out
        say = functools.partial(print, file=sys.stderr) if args.json else print
        built = build(config, quiet=args.quiet or args.json, say=say)
        manifests = {path: read_manifest(path) for path in filter(None, (built.pool, built.validation))}
        for line in left_out(manifests[built.pool], manifests.get(built.validation or "")):
            say(line)
        if args.json:
            print_json(describe(built.pool))
            return 0
        for path, m in manifests.items():
            state, shown = "built" if built.new else "already there:", without_secrets(path, {})
            print(f"{state} {shown}  ({m.tokens:,} tokens, {m.documents:,} documents, {m.shards:,} shards)")
        print(f"report: {without_secrets(built.pool, {})}/report.html")
        tokens = round_down(manifests[built.pool].tokens // 2)
        if tokens:
            say_next(["carve", short_path(built.pool), "--unique-tokens", format_count(tokens).replace(",", "")])
        return 0

    return run


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Have what the body makes never looked through for garbage: imported objects are none, and this process does
    nothing else. A tenth of the time would go into it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
