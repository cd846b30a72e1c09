"""`epochal optouts`: enter lists of documents that are to be fed no more, and see who holds them."""

import argparse
from collections.abc import Callable
from typing import Any

from ...common.cli import Runner, add_examples, print_json, text_table
from ...common.text import content_key, normalise
from ...shards.without.lists import Entry, read_entries
from ..commands import add_service, counted

KINDS = ("pool", "subset", "plan", "run")
SHOWN = 100
"""Holders of a kind that are shown."""


def optouts(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal optouts`; return what runs it."""
    add_examples(
        parser,
        "optouts",
        "optouts requests-2026 opt-outs.txt",
        "optouts requests-2026 --service http://127.0.0.1:8642",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="of a list: who holds its documents (default: lists)")
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="enter this list, or a newer version: keys, ids or texts, one a line, as carve --without takes them",
    )
    add_service(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return _run


def _run(args: argparse.Namespace) -> int:
    from ..client.client import Client

    client = Client(args.service)
    answer: Any
    text: Callable[[Any], str]
    if args.file is not None:
        body = [_said(entry) for entry in read_entries(args.file)]
        answer, text = client.opt_out(args.name, body), _entered_text
    elif args.name is not None:
        answer, text = _held(client, args.name), _held_text
    else:
        answer, text = client.optouts(limit=1000), _lists_text
    if args.json:
        print_json(answer)
    else:
        print(text(answer))
    return 0


def _said(entry: Entry) -> str | dict[str, str]:
    """Return a line of a list as the service takes it; a text stays here, its key is sent."""
    kind, value = entry
    if kind == "text":
        return {"key": content_key(normalise(value)).hex()}
    return value if kind is None else {kind: value}


def _held(client: Any, name: str) -> dict[str, Any]:
    pages = {kind: client.optout_holders(name, kind, limit=SHOWN) for kind in KINDS}
    return (
        client.optout(name)
        | {"holders": {kind: page["holders"] for kind, page in pages.items()}}
        | {"more": [kind for kind, page in pages.items() if page["next"] is not None]}
    )


def _lists_text(answer: dict[str, Any]) -> str:
    if not answer["optouts"]:
        return "no opt-out list was entered: epochal optouts NAME FILE enters one"
    rows = [(of["name"], str(of["version"]), f"{of['lines']:,}") for of in answer["optouts"]]
    more = ["there are more lists than these"] if answer["next"] is not None else []
    return "\n".join([text_table(("list", "version", "lines"), rows), *more])


def _entered_text(answer: dict[str, Any]) -> str:
    was = "is in force" if answer["new"] else "was in force already"
    lines = [f"list {answer['name']}, version {answer['version']}, {was}: {_matched(answer)}"]
    held = counted(answer["live_runs"], "live run")
    lines.append(f"{held} may feed them and go on" + (":" if answer["live_runs"] else ""))
    lines += [f"  {run['run']}: {_fed(run)}" for run in answer["live"]]
    return "\n".join(lines)


def _matched(answer: dict[str, Any]) -> str:
    unread = f"; {counted(len(answer['unread']), 'pool')} could not be looked at" if answer["unread"] else ""
    return (
        f"{counted(answer['lines'], 'line')}, {counted(answer['documents'], 'document')} in "
        f"{counted(answer['pools'], 'pool')}, {counted(answer['unmatched'], 'line')} matched nothing{unread}"
    )


def _held_text(answer: dict[str, Any]) -> str:
    lines = [f"list {answer['name']}, version {answer['version']}: {_matched(answer)}"]
    for kind in KINDS:
        rows = answer["holders"][kind]
        lines.append(f"{counted(len(rows), kind)}{' or more' if kind in answer['more'] else ''} with documents of it")
        lines += [f"  {_holder(kind, row)}" for row in rows]
    return "\n".join(lines)


def _holder(kind: str, row: dict[str, Any]) -> str:
    if kind == "run":
        return f"{row['run']}{' (live)' if row['live'] else ''}: {_fed(row)}"
    if kind == "plan":
        name = next(iter(row["names"]), row["fingerprint"])
        return f"{name} on {' + '.join(row['subset_names'])}: {_times(row['to_the_end'])} to the end"
    if row["documents"] is None:
        return f"{row['name']}: not known, register it"
    return f"{row['name']}: {counted(row['documents'], 'document')}, {counted(row['tokens'], 'token')}"


def _fed(run: dict[str, Any]) -> str:
    since = run["since"]
    stopped = f"; 0 since position {since['position']:,} of {since['run']}" if since and run["so_far"]["most"] else ""
    return f"{_times(run['so_far'])} so far, {_times(run['to_the_end'])} to the end{stopped}"


def _times(fed: dict[str, Any]) -> str:
    unknown = f" (not known of {counted(len(fed['unknown']), 'subset')})" if fed["unknown"] else ""
    return f"{counted(fed['documents'], 'document')}, each at most {counted(fed['most'], 'time')}{unknown}"
