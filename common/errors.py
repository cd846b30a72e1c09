"""The two kinds of failure that a user sees, each as one line; any other exception is a defect of this package."""

import errno
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

Written = Mapping[str, str]
"""By text that came from the environment: how it was written in a configuration, as `${oc.env:NAME}`."""

INTERPOLATION = re.compile(r"\$\{oc\.env:(\w+)\}")
"""How a configuration refers to a variable of the environment."""

HIDDEN = "***"
"""What stands where a secret was written."""

_known: dict[str, str] = {}
"""A `Written` of all configurations that this process has read. Only messages and logs go by it."""

SUBSTRING = 8
"""Text of the environment that is at least as long is recognised within longer text too."""

_CREDENTIALS = re.compile(r"(?:(?<=://)[^/\s\"@]*:|(?<=https://)|(?<=http://))[^/\s\"]*@")
"""User and password of a URL; at http also a user alone, which may be a token. `abfs://container@host` holds none."""

_SIGNED = re.compile(
    r"([?&][\w.%-]*(?:sig|token|secret|passw|key|credential|auth)[\w.%-]*=)([^&#\s\"'<>]+)", re.IGNORECASE
)
"""A part of a URL's query that lets whoever has it in: `X-Amz-Signature=`, `sig=`, `token=`."""


def without_secrets(text: str, written: Written | None = None) -> str:
    """Return `text` without secrets: what came from the environment stands as it was written, and `***` stands for the
    credentials in URLs, before the host or in a query.

    Args:
        text: any.
        written: what came from the environment; by default all that this process knows of.
    """
    table = _known if written is None else written
    if table:
        text = table.get(text) or _replaced(text, table)
    return _SIGNED.sub(_hidden_value, _CREDENTIALS.sub(_hidden_login, text))


def _hidden_login(match: re.Match[str]) -> str:
    """Return what stands for `user:password@`: itself where the environment has the password."""
    rest = INTERPOLATION.sub("", match[0])
    return match[0] if rest != match[0] and re.fullmatch("@|[^:]*:@", rest) else f"{HIDDEN}@"


def _hidden_value(match: re.Match[str]) -> str:
    return match[0] if INTERPOLATION.fullmatch(match[2]) else match[1] + HIDDEN


def _replaced(text: str, table: Written) -> str:
    for value in sorted(table, key=len, reverse=True):
        if len(value) >= SUBSTRING and value in text:
            text = text.replace(value, table[value])
    return text


def public(value: Any, written: Written) -> Any:
    """Return JSON-like `value` with `without_secrets` of every text in it."""
    if isinstance(value, dict):
        return {k: public(v, written) for k, v in value.items()}
    if isinstance(value, list):
        return [public(v, written) for v in value]
    return without_secrets(value, written) if isinstance(value, str) else value


def keep_secret(written: Written) -> None:
    """Have messages and logs of this process show these texts as they were written."""
    _known.update(written)


class EpochalError(Exception):
    """Base of what the command line reports as one line; it holds no secrets. `exit_status` is that of the process."""

    exit_status = 1

    def __init__(self, message: object = "", *more: object) -> None:
        super().__init__(without_secrets(str(message)), *more)


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


_AGAIN = "and run the same command again"
_OS_ERRORS = {
    errno.ENOSPC: f"no space left on the disk: free some {_AGAIN}",
    errno.EDQUOT: f"the quota of the disk is used up: free some {_AGAIN}",
    errno.EFBIG: f"a file is larger than is allowed here: raise the limit (ulimit -f) {_AGAIN}",
    errno.EMFILE: f"too many open files: raise the limit (ulimit -n) {_AGAIN}",
    errno.ENFILE: f"too many open files on this machine: close some {_AGAIN}",
    errno.ENOMEM: "not enough memory: ask for less at once, or use a machine with more",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "there is a folder where a file should be",
    errno.ELOOP: "there is a link that leads to itself",
    errno.EROFS: "nothing can be written",
}
"""What the system refuses, and how to mend it; where it did comes before the colon."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No room for a file."""

LOCAL_FAILURES = FULL | {*_OS_ERRORS, errno.ENAMETOOLONG}
"""What trying again does not mend."""


def system_line(error: OSError, where: str = "") -> str:
    """Return what the system refused, and how to mend it, as one line that names the file, or else `where`."""
    unknown = (error.strerror or type(error).__name__).lower()
    what, colon, mend = _OS_ERRORS.get(error.errno or 0, unknown).partition(":")
    path = error.filename if isinstance(error.filename, str | bytes) else where
    path = path.decode(errors="replace") if isinstance(path, bytes) else path
    return f"{what} at {path}{colon}{mend}" if path else f"{what}{colon}{mend}"
