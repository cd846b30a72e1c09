"""`epochal backup`, `epochal restore`, `epochal thin`: the service's database saved, put back, thinned, as it runs."""

import argparse
import os
import re
from typing import TYPE_CHECKING

from ...common.cli import Runner, add_examples
from ...common.errors import RequestError
from ..commands import add_store, counted, installed

if TYPE_CHECKING:  # its packages are an extra
    from sqlalchemy import URL


def backup(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal backup`; return what runs it."""
    add_examples(
        parser,
        "backup ledger.db --root artifacts",
        "backup ledger.db --database postgresql://me@db/epochal --replace",
    )
    parser.add_argument("file", metavar="FILE", help="where it is written: an SQLite database, whatever it comes from")
    add_store(parser)
    parser.add_argument("--replace", action="store_true", help="replace FILE where it exists")
    parser.add_argument(
        "--revision", metavar="R", help="with tables of this earlier revision, for an earlier version of epochal"
    )
    return _run_backup


def _run_backup(args: argparse.Namespace) -> int:
    installed()
    from .backup import back_up

    found = back_up(_url(args), args.file, args.replace, args.revision)
    print(f"{args.file}: {_told(found)}; {os.path.getsize(args.file):,} bytes")
    return 0


def restore(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal restore`; return what runs it."""
    add_examples(
        parser,
        "restore ledger.db --root artifacts",
        "restore ledger.db --database postgresql://me@db/epochal --replace",
    )
    parser.add_argument("file", metavar="FILE", help="what `epochal backup` wrote, of this version or an earlier one")
    add_store(parser)
    parser.add_argument("--replace", action="store_true", help="replace what the database holds")
    return _run_restore


def _run_restore(args: argparse.Namespace) -> int:
    installed()
    from .backup import restore as put_back

    found = put_back(args.file, _url(args), args.replace)
    print(f"restored {args.file}: {_told(found)}")
    return 0


def thin(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal thin`; return what runs it."""
    add_examples(parser, "thin --older-than 90d", "thin --older-than 90d --database postgresql://me@db/epochal")
    parser.add_argument(
        "--older-than",
        metavar="DAYS",
        required=True,
        type=_days,
        help="age from which reports are thinned, as 90d: one of each lease is left in each of 1,000 to 2,000 spans",
    )
    add_store(parser)
    return _run_thin


def _days(text: str) -> float:
    """Return a number of days, written as 90d or 90."""
    if not re.fullmatch(r"\d{1,5}(\.\d+)?d?", text):
        raise argparse.ArgumentTypeError(f"write a number of days as 90d, not {text!r}")
    return float(text.removesuffix("d"))


def _run_thin(args: argparse.Namespace) -> int:
    installed()
    from ..database import open_database
    from .backup import check_there
    from .thinning import thin as take_out

    url = _url(args)
    check_there(url)
    db = open_database(url)
    try:
        done = take_out(db, args.older_than)
    finally:
        db.close()
    print(f"thinned {counted(done.reports, 'report')} of {counted(done.runs, 'run')}; {done.left:,} are left")
    return 0


def _url(args: argparse.Namespace) -> "str | URL":
    """Return the database that the options name."""
    from ..service import default_database

    if args.database is None and not os.path.isdir(args.root):
        raise RequestError(f"--root {args.root} is no folder: name the service's root, or its --database")
    return args.database or default_database(args.root)


def _told(found: dict[str, int]) -> str:
    words = {"artifacts": "artifact", "plans": "plan", "runs": "run", "reports": "report", "checkpoints": "checkpoint"}
    return ", ".join(counted(found.get(table, 0), word) for table, word in words.items())
