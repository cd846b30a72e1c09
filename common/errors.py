"""The two kinds of failure that a user sees, each as one line; any other exception is a defect of this package."""

import re
from itertools import pairwise


class EpochalError(Exception):
    """Base of what the command line reports as one line. `exit_status` is the process's exit status."""

    exit_status = 1


class RequestError(EpochalError):
    """The request is wrong: a missing file, an unknown key, more tokens than there are. Exit status 2."""

    exit_status = 2


class WorkError(EpochalError):
    """The request is right, but the work failed: a damaged shard, a full disk, too many bad rows. Exit status 1."""

    exit_status = 1


_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the direction of writing, and halves of surrogate pairs."""


def printable(text: str) -> str:
    """Return `text` as one line that a terminal shows as it is: names and ids of others may hold what moves its cursor,
    sets its title or hides what follows. Such characters become \\n, \\x1b, \\u202e."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def without_passwords(text: str) -> str:
    """Return `text` with `***` for the password of each URL in it (`scheme://user:password@host`)."""
    return re.sub(r"(://[^/\s:@\"']*:)[^/\s@\"']+@", r"\1***@", text)


def one_line(error: BaseException | str, most: int = 200) -> str:
    """Return what a library's error says, as one line of at most `most` characters; never empty.

    Indented lines, which only explain the one before, are left out unless that one ends with a colon. For a YAML error
    the line in the file is added; for a database's error the driver's message is used.
    """
    mark = getattr(error, "problem_mark", None)
    if mark is not None and getattr(error, "problem", None):
        return f"{error.problem} (line {mark.line + 1})"[:most]  # type: ignore[union-attr]  # yaml.MarkedYAMLError
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    kept = [line for before, line in pairwise([":", *lines]) if not line[:1].isspace() or before.endswith(":")]
    text = printable(" ".join(" ".join(kept).split())[:most])
    return text or ("no message" if isinstance(error, str) else type(error).__name__)
