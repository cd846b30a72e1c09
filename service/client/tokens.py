"""Tokens of services, each bound to the address that it is for: none goes to an address that only a file names.

They are kept in `$EPOCHAL_TOKENS` (`https://host:port=TOKEN,...`) or by `epochal login URL`, in a file of its owner's.
`$EPOCHAL_TOKEN` names no address, so it goes to those alone that the user gave: on the command line, in a call of
`Client`, or as `$EPOCHAL_SERVICE`.
"""

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ...common.errors import RequestError
from ...common.json_text import strict_json

URL_VARIABLE, TOKEN_VARIABLE, TOKENS_VARIABLE = "EPOCHAL_SERVICE", "EPOCHAL_TOKEN", "EPOCHAL_TOKENS"
DEFAULT_URL = "http://127.0.0.1:8642"
PORTS = {"http": 80, "https": 443}
ROLES = ("read:", "write:")
"""How entries of $EPOCHAL_TOKENS begin that say what a server demands."""

_named: set[str] = set()
"""Origins that the user named in this process."""


def origin(url: str) -> str | None:
    """Return scheme, host and port of an address, as `https://host:443`; None for what is no address."""
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS[parts.scheme.lower()]
    except (ValueError, KeyError):
        return None
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme.lower()}://{host}:{port}" if host else None


def user_names(url: str) -> None:
    """Let `url`, which the user gave on the command line, be one that `$EPOCHAL_TOKEN` goes to."""
    named = origin(url)
    if named is not None:
        _named.add(named)


def token_for(where: str, from_file: bool, environment: Mapping[str, str] = os.environ) -> tuple[str | None, str]:
    """Return the token for the origin `where`, or None; and, where one is held back, a line that says why.

    Args:
        from_file: the address was read from a file, of a run or a configuration, that may be somebody else's.

    Raises:
        RequestError: when tokens are kept in a wrong form; no message contains one.
    """
    own = _in_variable(environment).get(where) or _in_file(environment).get(where)
    if own is not None:
        return own, ""
    general = environment.get(TOKEN_VARIABLE)
    if not general:
        return None, ""
    if not from_file or where in _named or where == origin(environment.get(URL_VARIABLE) or DEFAULT_URL):
        return _checked(general, f"${TOKEN_VARIABLE}"), ""
    mend = f"`epochal login {where}` keeps a token for it, or name it in ${URL_VARIABLE}"
    return None, f"${TOKEN_VARIABLE} is not sent to {where}, an address that only a file names: {mend}"


def keep(url: str, token: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Keep `token` for the origin of `url` (None: forget it); return the file.

    Raises:
        RequestError: for what is no address or no token.
    """
    where = origin(url)
    if where is None:
        raise RequestError(f"'{url}' is no address of a service: write it as {DEFAULT_URL}")
    kept = _in_file(environment)
    kept.pop(where, None)
    if token is not None:
        kept[where] = _checked(token, "what was given")
    path = _path(environment)
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=folder)  # only its owner may read it, from the first byte on
        try:
            with open(handle, "w", encoding="utf-8") as f:
                json.dump(kept, f, indent=2, sort_keys=True)
                f.flush()
                os.fsync(handle)
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from None
    return path


def _path(environment: Mapping[str, str]) -> str:
    home = environment.get("XDG_CONFIG_HOME", "")
    base = home if os.path.isabs(home) else os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "epochal", "tokens.json")


def _in_file(environment: Mapping[str, str]) -> dict[str, str]:
    path = _path(environment)
    data: Any = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            with open(path, encoding="utf-8") as f:
                if stat.S_IMODE(os.fstat(f.fileno()).st_mode) & 0o077:
                    raise RequestError(f"{path} holds tokens and others may read it: chmod 600 {path}")
                data = strict_json(f.read())
        except (PermissionError, IsADirectoryError) as error:
            raise RequestError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError):
            data = None
    if not isinstance(data, dict) or not all(isinstance(token, str) for token in data.values()):
        raise RequestError(f"{path} is damaged: remove it and run `epochal login URL` again")
    return {key: _checked(token, path) for key, token in data.items()}


def _in_variable(environment: Mapping[str, str]) -> dict[str, str]:
    tokens = {}
    entries = [entry.strip() for entry in environment.get(TOKENS_VARIABLE, "").split(",")]
    for number, entry in enumerate(entries, 1):
        if not entry or entry.startswith(ROLES):  # the latter say what a server on this machine demands
            continue
        url, _, token = entry.partition("=")
        where = origin(url)
        if where is None or not token:
            wanted = f"an address and a token, as {DEFAULT_URL}=TOKEN"
            raise RequestError(f"${TOKENS_VARIABLE}: entry {number} must be {wanted}")
        tokens[where] = _checked(token, f"${TOKENS_VARIABLE}, entry {number}")
    return tokens


def _checked(token: str, where: str) -> str:
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise RequestError(f"{where} is no token: one has letters, digits and signs of ASCII, and no spaces")
    return token
