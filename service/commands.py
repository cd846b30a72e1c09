"""`epochal register`, `seen`, `login`, `release`: tell the service of artifacts and runs, ask it."""

import argparse
import getpass
import os
import re
import sys
from typing import Any
from urllib.parse import quote

from ..common import storage
from ..common.cli import Runner, add_examples, print_json, say, text_table
from ..common.errors import RequestError, without_secrets

KEY = re.compile(r"[0-9a-f]{32}")


def register(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal register`; return what runs it."""
    add_examples(
        parser,
        "register /elsewhere/pools/mine --root artifacts",
        "register runs/mine --service http://127.0.0.1:8642",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folder or URL of a pool or subset, or a run's folder")
    parser.add_argument("--service", metavar="URL", help="where a run's reports go (default: where it reported to)")
    add_store(parser)
    return _run_register


def _run_register(args: argparse.Namespace) -> int:
    installed()
    from .operations.audit import asking, by_command
    from .service import Service

    artifacts = [p for p in args.paths if storage.is_url(p) or not _send_rest(storage.local_path(p), args.service)]
    if artifacts:
        service = Service(args.root, args.database)
        try:
            for path in artifacts:
                with asking(by_command("register")):
                    artifact = service.register(path)
                m = artifact.manifest
                print(f"registered {m.kind} {m.name} {m.fingerprint}: {m.tokens:,} unique tokens at {artifact.path}")
                if m.kind == "pool" and service.index(m.fingerprint) is None:
                    print(f"  {artifact.path} has no documents.parquet: its documents cannot be looked up")
        finally:
            service.close()
    return 0


def _send_rest(folder: str, url: str | None) -> bool:
    """Send what is left of a run's reports and say how they stand; return whether the folder is one of a run."""
    from .client.reporter import send_rest

    sent = send_rest(folder, say, url=url)
    if sent is None and os.path.exists(os.path.join(folder, "run.json")):
        raise RequestError(
            f"{folder} is a run that reported to no service: train it again, in another save_folder, with service=URL"
        )
    if sent is None:
        return False
    if sent.lost:
        print(f"the service has all reports of {folder} but {sent.lost:,}, made after another run had its name")
    elif sent.taken_over:
        print(f"all reports of {folder} were sent; another run has its name since, so the service was not asked again")
    else:
        print(f"the service has all reports of {folder}")
    return True


def login(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal login`; return what runs it."""
    add_examples(
        parser,
        "login https://host:8642 < token.txt",
        "login https://host:8642 --forget",
    )
    parser.add_argument(
        "url", metavar="URL", help="address of a service, as https://host:8642; the token is read from standard input"
    )
    parser.add_argument("--forget", action="store_true", help="remove the token that is kept for this address")
    return _run_login


def _run_login(args: argparse.Namespace) -> int:
    from .client.client import AwayError, Client, RefusedError
    from .client.tokens import keep

    if args.forget:
        print(f"{keep(args.url, None)} has no token for {without_secrets(args.url, {})}")
        return 0
    shown = without_secrets(args.url, {})
    token = (getpass.getpass(f"token for {shown}: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if not token:
        raise RequestError("no token was given: type it, or write it to standard input")
    client = Client(args.url, token)
    tried = "which takes it"
    try:
        client.get("/limits")
    except AwayError as error:
        tried = f"but it could not be tried ({error})"
    except RefusedError as error:
        if error.status == 401:
            raise RequestError(f"the service at {args.url} does not take this token: nothing was kept") from None
    finally:
        client.close()
    print(f"{keep(args.url, token)} keeps the token for {shown}, {tried}")
    return 0


def release(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal release`; return what runs it."""
    add_examples(
        parser,
        "release tiny-ar --service http://127.0.0.1:8642",
    )
    parser.add_argument("run", metavar="RUN", help="name of a run that is dead while its lease lasts")
    add_service(parser)
    return _run_release


def _run_release(args: argparse.Namespace) -> int:
    from .client.client import Client

    done = Client(args.service).post(f"/runs/{quote(args.run, safe='')}/release")
    left = f"the lease had {done['seconds']:,.0f} s left" if done["seconds"] else "no lease on it lasted"
    print(f"run name {done['name']} is free ({left}; the run's last report is of position {done['position']:,})")
    return 0


def seen(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal seen`; return what runs it."""
    add_examples(
        parser,
        "seen --document mine-000123",
        "seen --run tiny-ar --histogram",
        "seen --text page.txt --run tiny-ar --position 20000",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--document", metavar="ID", help="key (32 hexadecimal digits) or id of a document")
    what.add_argument("--text", metavar="FILE", help="file with the document's text (- for standard input)")
    what.add_argument("--histogram", action="store_true", help="how many documents were seen how often (needs --run)")
    parser.add_argument("--run", metavar="R", help="name or fingerprint of a run (default: all of them)")
    parser.add_argument(
        "--position", metavar="N", type=int, help="as of this position of the run (default: its last reported one)"
    )
    add_service(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return _run_seen


def _run_seen(args: argparse.Namespace) -> int:
    from .client.client import Client, RefusedError

    client = Client(args.service)
    if args.histogram and args.run is None:
        raise RequestError("--histogram needs --run")
    try:
        return _print_seen(client, args)
    except RefusedError as error:
        hints = [hint for start, hint in NOT_KNOWN.items() if str(error).startswith(start)]
        raise RequestError(f"{error}: {hints[0]}" if hints else str(error)) from None


NOT_KNOWN = {
    "there is no run": "a run is known once it reports (epochal train CONFIG service=URL)",
    "no document with id": "`epochal peek POOL --document 0` shows the first one's id",
}
"""How the service's answers begin, and what helps."""


def _print_seen(client: Any, args: argparse.Namespace) -> int:
    if args.histogram:
        counted = client.histogram(args.run, args.position)
        if args.json:
            print_json(counted)
        else:
            print(_histogram_text(counted))
        return 0
    answer = _look_up(client, args)
    if args.json:
        print_json(answer)
    else:
        print("\n\n".join(map(_document_text, answer["documents"])))
    return 0


def _look_up(client: Any, args: argparse.Namespace) -> Any:
    from ..common.text import content_key, normalise
    from .client.client import RefusedError

    where = {"run": args.run, "position": args.position}
    if args.text is not None:
        return client.seen(key=content_key(normalise(_read_text(args.text))).hex(), **where)
    if KEY.fullmatch(args.document.lower()):
        try:
            return client.seen(key=args.document.lower(), **where)
        except RefusedError as error:
            if error.status != 404:
                raise
    return client.seen(id=args.document, **where)


def _read_text(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else storage.read_bytes(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--text {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _document_text(document: dict[str, Any]) -> str:
    """Return what one document's answer says, as text for people."""
    lines = [f"document  {document['id']}  ({document['source']}, {document['tokens']:,} tokens)"]
    if document["key"] != document["id"]:
        lines.append(f"key       {document['key']}")
    rows = [
        (
            row["run"],
            _span(row["exposures"]["least"], row["exposures"]["most"]),
            f"{row['tokens_fed']:,}",
            _event_text(row["first"], row["run"]),
            _event_text(row["last"], row["run"]),
        )
        for row in document["runs"]
    ]
    if rows:
        lines.append(text_table(("run", "exposures", "tokens fed", "first", "last"), rows))
    lines += [
        f"  {row['run']}: tokens {part['start']:,} to {part['stop']:,}: {part['exposures']:,} times"
        for row in document["runs"]
        if len(row["intervals"]) > 1
        for part in row["intervals"]
    ]
    lines += [
        f"  {row['run']}: not known for {', '.join(row['unknown'])}: register its pool"
        for row in document["runs"]
        if row["unknown"]
    ]
    others = document["runs_looked_at"] - len(document["runs"])
    if others:
        lines.append(f"not seen by {counted(others, 'other run' if document['runs'] else 'run')}")
    return "\n".join(lines)


def _span(least: int, most: int) -> str:
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _event_text(event: dict[str, Any] | None, run: str) -> str:
    if event is None:
        return "-"
    of = f" of {event['run']}" if event["run"] != run else ""
    return f"position {event['position']:,}, step {event['step']:,}{of}"


def _histogram_text(counted: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("exposures", "documents, every token", "documents, some token", "tokens")]
    counts = sorted({int(k) for name in ("whole", "any", "tokens") for k in counted[name]})
    rows += [(f"{k:,}", *(f"{counted[name].get(str(k), 0):,}" for name in ("whole", "any", "tokens"))) for k in counts]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    of = " <- ".join(f"{a['run']} [0, {a['position']:,})" for a in counted["ancestry"])
    return "\n".join([f"positions {of}", *lines])


def counted(n: int, what: str) -> str:
    """Return `1 run`, `2 runs`."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def add_service(parser: argparse.ArgumentParser) -> None:
    """Add the option for the service that is asked."""
    parser.add_argument("--service", metavar="URL", help="of the service (default $EPOCHAL_SERVICE, or port 8642 here)")


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the options for the root and the database, for commands that need no running service."""
    parser.add_argument(
        "--root", metavar="DIR", default="artifacts", help="folder with pools/ and subsets/ (default artifacts)"
    )
    parser.add_argument("--database", metavar="URL", help="postgresql://user@host/name (default: SQLite in the root)")


def installed() -> None:
    """Raise RequestError, which says how to install it, when a package of the service is missing."""
    from .client.client import INSTALL

    try:
        import alembic
        import fastapi
        import prometheus_client
        import sqlalchemy
        import uvicorn
    except ImportError as error:
        raise RequestError(f"{INSTALL} ({error.name} is missing)") from None
    del alembic, fastapi, prometheus_client, sqlalchemy, uvicorn
