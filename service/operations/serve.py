"""`epochal serve`: run the service."""

import argparse
import contextlib
import gc
import os
import signal
import socket
from typing import TYPE_CHECKING, NamedTuple

from ...common.cli import Runner, add_examples
from ...common.errors import RequestError, WorkError
from ...common.publish import MANIFEST_NAME
from ..commands import add_store, counted, installed

if TYPE_CHECKING:  # its packages are an extra
    from ..security import AccessRules
    from ..service import Service

MOST_PROBLEMS = 10


def serve(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal serve`; return what runs it."""
    add_examples(
        parser,
        "serve --root artifacts",
        "serve --host 0.0.0.0 --tokens tokens.txt --database postgresql://me@db/epochal",
    )
    add_store(parser)
    parser.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="address to listen at (default: this machine only)"
    )
    parser.add_argument("--port", metavar="N", type=int, default=8642, help="port (default 8642; 0: a free one)")
    parser.add_argument(
        "--tokens", metavar="FILE", help="lines `read TOKEN [NAME]` or `write TOKEN [NAME]` (or $EPOCHAL_TOKENS)"
    )
    parser.add_argument(
        "--rate", metavar="X", type=float, default=500.0, help="requests a second of one client (default 500)"
    )
    parser.add_argument(
        "--proxy", action="append", default=[], metavar="ADDRESS", help="believe X-Forwarded-For of this proxy"
    )
    parser.add_argument("--log", choices=("json", "text"), help="write a line a request to standard error")
    parser.add_argument(
        "--openlineage", metavar="URL|FILE", help="send OpenLineage events of runs there (key: $OPENLINEAGE_API_KEY)"
    )
    parser.add_argument("--check", action="store_true", help="only say whether it would start, and what it would find")
    return _run_serve


class Access(NamedTuple):
    """Who may ask this server, and which proxies are believed."""

    rules: "AccessRules"
    proxies: list[str]


def access(args: argparse.Namespace) -> Access:
    """Return what the options say of who may ask.

    Raises:
        RequestError: for what does not go together.
    """
    from ..security import LOOPBACK_NAMES, AccessRules, check_proxy, is_loopback, read_names, read_tokens

    tokens, local = read_tokens(args.tokens), is_loopback(args.host)
    if not local and not tokens:
        raise RequestError(
            f"--host {args.host} can be reached from other machines: name tokens with --tokens FILE or $EPOCHAL_TOKENS"
        )
    if not args.rate > 0:
        raise RequestError("--rate must be more than 0")
    if not 0 <= args.port < 2**16:
        raise RequestError(f"--port must be from 0 to 65535, got {args.port}")
    hosts, burst = LOOPBACK_NAMES if local else None, max(1, int(2 * args.rate))
    rules = AccessRules(tokens, hosts, rate=args.rate, burst=burst, names=read_names(args.tokens))
    return Access(rules, [check_proxy(text) for text in args.proxy])


def _run_serve(args: argparse.Namespace) -> int:
    installed()
    if args.check:
        from .check import check

        return check(args, access)
    from ..service import Service

    allowed = access(args)
    if not os.path.isdir(args.root):
        raise RequestError(f"--root {args.root} is no folder: build an artifact first, or make it (mkdir {args.root})")
    listener = _listen(args.host, args.port)
    service = Service(args.root, args.database)
    service.refresh(at_once=True)
    shown = f"[{args.host}]" if ":" in args.host else args.host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    print(f"serving {args.root} at {address} (stop with ctrl-c)")
    print("\n".join(catalogue_text(args.root, service)))
    print(f"its page is there too; runs report with service={address}", flush=True)
    _serve(service, allowed, listener, args)
    return 0


def _serve(service: "Service", allowed: Access, listener: socket.socket, args: argparse.Namespace) -> None:
    """Answer until the process is told to stop; then close what was opened."""
    import uvicorn

    from ..api.app import create_app
    from ..api.connections import server_config
    from ..observe.lineage import Lineage
    from ..observe.log import RequestLog

    lineage = Lineage(service, args.openlineage) if args.openlineage else None
    app = create_app(service, allowed.rules, RequestLog(args.log) if args.log else None, lineage)
    # The application prints its own defects; uvicorn would add tracebacks of requests that are cut off at the end.
    config = server_config(app, allowed.proxies, log_level="critical", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop that was asked for is no failure
    gc.collect()
    gc.freeze()  # imported objects are never garbage: each full collection among them stops all answers for 0.1 s
    with contextlib.suppress(KeyboardInterrupt):  # raised again once everything is answered and closed
        server.run(sockets=[listener])
    if not server.started:
        raise WorkError("the server did not start: run again with --debug")


def catalogue_text(root: str, service: "Service") -> list[str]:
    """Return what lies under the root, or what would have to."""
    from ..catalogue import KINDS

    kinds = [found.manifest.kind for found in service.found]
    pools, subsets = kinds.count("pool"), kinds.count("subset")
    lines = [f"it has {counted(pools, 'pool')} and {counted(subsets, 'subset')} under {service.root}"]
    if not kinds:
        below = [name for name in ("artifacts",) if any(os.path.isdir(os.path.join(root, name, k)) for k in KINDS)]
        mend = f"; did you mean --root {os.path.join(root, below[0])}?" if below else ""
        if os.path.basename(service.root) in KINDS:
            mend = f"; did you mean --root {os.path.dirname(service.root)}?"
        looked = " or ".join(os.path.join(kind, "NAME", MANIFEST_NAME) for kind in KINDS)
        lines = [f"it has no artifacts: {service.root} has no {looked}{mend}"]
    shown = list(service.problems.items())
    lines += [f"  left out: {path}: {reason}" for path, reason in shown[:MOST_PROBLEMS]]
    if len(shown) > MOST_PROBLEMS:
        lines.append(f"  and {len(shown) - MOST_PROBLEMS:,} others: see `problems` of GET /artifacts")
    return lines


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With the protocol named, asyncio turns Nagle's algorithm off: without, every answer waits 40 ms for an ACK.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot listen at {host}, port {port}: {reason}; choose others") from None
    return listener
