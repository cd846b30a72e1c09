"""Who may do what, and how much: tokens with roles, sizes, rates, and what browsers send that they should not."""

import asyncio
import hmac
import json
import os
import re
import time
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..common.errors import RequestError
from .errors import DeniedError
from .observe.log import id_of
from .operations.audit import Asker, asking

TOKENS_VARIABLE = "EPOCHAL_TOKENS"
ROLES = ("read", "write")
LEAST_TOKEN = 16
TOKEN_NAME = re.compile(r"[A-Za-z0-9._@+-]{1,64}")
MOST_CLIENTS = 10_000
BODY_SECONDS = 30.0
OPEN_PATHS = ("/", "/health", "/healthz", "/readyz", "/openapi.json")
TOKEN_KEY = "epochal.token"
"""Of a request's scope: the name of the token that it came with."""

READING_POSTS = ("/documents/exposures",)
WRITERS_PATHS = ("/audit",)
"""What is read with a token that may write alone: it tells who works here, from which addresses."""

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class AccessRules:
    """What a server demands.

    Attributes:
        tokens: role by token; none: everybody may do everything (loopback only).
        names: what each token is called where it is told who did something.
        hosts: names that requests may be for (None: any), which keeps other sites' names from being pointed at a
            loopback server.
        body_bytes: of a request.
        rate: requests a second of one client.
        burst: how many at once.
    """

    tokens: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    hosts: frozenset[str] | None = None
    body_bytes: int = 4 << 20
    rate: float = 500.0
    burst: int = 1000


def is_loopback(host: str) -> bool:
    """Return whether `host` can be reached from this machine only."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def read_tokens(file: str | None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return roles by token, from lines `role token [name]` of `file` or `role:token[:name],...` in $EPOCHAL_TOKENS.

    Raises:
        RequestError: ; no message contains a token.
    """
    return {token: role for role, token, _ in _token_entries(file, environment)}


def read_names(file: str | None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return names by token, from where `read_tokens` reads: what stands behind it, else its role and entry, `write-2`.

    Raises:
        RequestError: ; no message contains a token.
    """
    return {token: name for _, token, name in _token_entries(file, environment)}


def _token_entries(file: str | None, environment: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return (role, token, name) of each entry. Raises RequestError."""
    if file is not None:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"--tokens {file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        where = file
        lists = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    else:
        where = f"${TOKENS_VARIABLE}"
        given = [part.strip() for part in environment.get(TOKENS_VARIABLE, "").split(",")]
        lists = [part.split(":") for part in given if part and "://" not in part]  # the others are a client's own
    entries = []
    for number, words in enumerate(lists, 1):
        if not 2 <= len(words) <= 3 or words[0] not in ROLES or len(words[1]) < LEAST_TOKEN:
            wanted = f"a role (read or write) and a token of at least {LEAST_TOKEN} characters"
            raise RequestError(f"{where}: entry {number} must be {wanted}, and may have a name behind them")
        name = words[2] if len(words) == 3 else f"{words[0]}-{number}"
        if not TOKEN_NAME.fullmatch(name):
            raise RequestError(f"{where}: entry {number}: a name is of at most 64 letters, digits and . _ @ + -")
        entries.append((words[0], words[1], name))
    return entries


def check_proxy(text: str) -> str:
    """Return the address, or network, of a proxy.

    Raises:
        RequestError: for what is none.
    """
    try:
        return str(ip_network(text)) if "/" in text else str(ip_address(text))
    except ValueError:
        raise RequestError(f"--proxy {text} is no address: write 10.0.0.7, or a network as 10.0.0.0/24") from None


def authorize(rules: AccessRules, method: str, path: str, headers: Headers) -> str:
    """Return the name of the request's token, empty where it needs none.

    Raises:
        DeniedError: when the request may not be made.
    """
    if not rules.tokens or path in OPEN_PATHS:
        return ""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    role, name = None, ""
    for token, its_role in rules.tokens.items():  # all of them, so that time tells nothing
        if hmac.compare_digest(token.encode(), given.encode()) and scheme.lower() == "bearer":
            role, name = its_role, rules.names.get(token, its_role)
    if role is None:
        raise DeniedError("this service needs a token: send the header `Authorization: Bearer TOKEN`", known=False)
    reads = method in ("GET", "HEAD") or path in READING_POSTS
    if role == "read" and path in WRITERS_PATHS:
        raise DeniedError("this is read with a token that may write", known=True)
    if role == "read" and not reads:
        raise DeniedError("this token may only read", known=True)
    return name


def check_origin(rules: AccessRules, path: str, headers: Headers) -> None:
    """Raise DeniedError for a request that a page of another site makes a browser send."""
    host = headers.get("host", "")
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if rules.hosts is not None and name.strip("[]").lower() not in rules.hosts:
        raise DeniedError("this service is not called that: use its address", known=True)
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    # A GET for an image or a script has no Origin; every browser of today says where it comes from all the same.
    # Another port of this machine is another site here. A link to the page itself shows nothing to who made it.
    link = path == "/" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    foreign = site not in ("none", "same-origin") and not link
    if foreign or (origin is not None and origin.partition("://")[2] != host):
        raise DeniedError("requests from pages of other sites are refused", known=True)


class Buckets:
    """A token bucket for each client; those not heard of for longest are forgotten."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Return 0 when a request may go ahead, else the seconds to wait."""
        at = time.monotonic()
        left, since = self._clients.pop(client, (float(self._burst), at))
        left = min(self._burst, left + (at - since) * self._rate)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate
        self._clients[client] = (left - (not wait), at)
        if len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        return wait


class TooLargeError(Exception):
    """A body beyond the limit."""


class Guard:
    """ASGI middleware that lets through what `rules` allow, its body read whole."""

    def __init__(self, app: ASGIApp, rules: AccessRules) -> None:
        self._app, self._rules = app, rules
        self._buckets = Buckets(rules.rate, rules.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        wait = self._buckets.take((scope.get("client") or ("", 0))[0])
        if wait:
            more = {"retry-after": str(max(1, round(wait)))}
            await _answer(send, 429, f"too many requests: at most {self._rules.rate:g} a second", more)
            return
        try:
            check_origin(self._rules, scope["path"], headers)
            scope[TOKEN_KEY] = authorize(self._rules, scope["method"], scope["path"], headers)
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive, headers, self._rules.body_bytes)
        except DeniedError as error:
            more = {} if error.known else {"www-authenticate": "Bearer"}
            await _answer(send, 403 if error.known else 401, str(error), more)
            return
        except TimeoutError:
            await _answer(send, 408, f"the body did not come within {BODY_SECONDS:g} seconds", {})
            return
        except TooLargeError:
            await _answer(send, 413, f"the body is too large: at most {self._rules.body_bytes:,} bytes", {})
            return
        with asking(Asker(scope[TOKEN_KEY], (scope.get("client") or ("",))[0], id_of(scope))):
            await self._app(scope, _replay(body, receive), _hardened(send))


async def _read(receive: Receive, headers: Headers, most: int) -> bytes:
    stated = headers.get("content-length", "0")
    if not stated.isdecimal() or int(stated) > most:
        raise TooLargeError
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise TooLargeError
        more = message.get("more_body", False)
    return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def _hardened(send: Send) -> Send:
    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            extra = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
            message["headers"] = [*message.get("headers", []), *extra]
        await send(message)

    return sent


async def _answer(send: Send, status: int, detail: str, headers: Mapping[str, str]) -> None:
    body = json.dumps({"detail": detail}).encode()
    pairs = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"} | dict(
        headers
    )
    encoded = [(k.encode(), v.encode()) for k, v in pairs.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
