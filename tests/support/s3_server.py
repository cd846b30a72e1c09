"""moto's S3 on loopback as a process: `python s3_server.py PORT`. Objects of buckets named `faulty*` arrive badly.

Of every eight GETs of one shard there, one gets 503, one ends after half of the body, one has a byte changed; shards
begin at different ones, and no two in a row fail.

What changes buckets named `unsteady*` (PUT, POST, DELETE: whole objects, parts of multipart uploads, their beginning
and end) fails at random once it is asked for: POST /-/unsteady?seed=S&share=P fails a share of them, each in one of
four ways, and `&until=N` all after the first N, as a store does that has gone away. Counts of each kind are returned
by GET /-/unsteady.
"""

import json
import random
import socket
import sys
import threading
import zlib
from collections import Counter
from urllib.parse import parse_qsl

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

application = DomainDispatcherApplication(create_backend_app)
asked: Counter[str] = Counter()
"""How often each shard was asked for: counted together, two readers in turn could meet nothing but faults."""


class Unsteady:
    """Decides, request by request, what goes wrong; the same for the same seed and order of requests."""

    KINDS = ("internal error", "slow down", "cut in the body", "cut before the answer")

    def __init__(self, seed: int = 0, share: float = 0.0, until: int | None = None) -> None:
        self.random, self.share, self.until = random.Random(seed), share, until
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def next(self) -> str | None:
        """Return what happens to the next request, None when nothing does."""
        with self.lock:
            self.counts["requests"] += 1
            wrong, kind = self.random.random() < self.share, self.random.choice(self.KINDS)
            if self.until is not None and self.counts["requests"] > self.until:
                kind = "away"
            elif not wrong:
                return None
            self.counts[kind] += 1
            return kind


unsteady = Unsteady()


def faulty(environ, start_response):
    path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
    if path == "/-/unsteady":
        return control(environ, start_response)
    if path.startswith("/unsteady") and method in ("PUT", "POST", "DELETE") and path.count("/") > 1:
        return changed(environ, start_response)
    if method != "GET" or not path.startswith("/faulty") or not path.endswith(".mds"):
        return application(environ, start_response)
    turn = (zlib.crc32(path.encode()) + asked[path]) % 8
    asked[path] += 1
    if turn == 1:
        start_response("503 Slow Down", [("Content-Length", "0")])
        return []
    body = b"".join(application(environ, start_response))
    if turn == 3:
        return [body[: len(body) // 2]]
    return [body[:-1] + bytes([body[-1] ^ 1])] if turn == 6 and body else [body]


def control(environ, start_response):
    global unsteady
    if environ["REQUEST_METHOD"] == "POST":
        query = dict(parse_qsl(environ["QUERY_STRING"]))
        until = int(query["until"]) if "until" in query else None
        unsteady = Unsteady(int(query.get("seed", 0)), float(query.get("share", 0)), until)
    body = json.dumps(unsteady.counts).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def changed(environ, start_response):
    """Answer a request that changes something, or fail it."""
    kind, length = unsteady.next(), int(environ.get("CONTENT_LENGTH") or 0)
    # The end of a multipart upload cannot be asked for twice of moto, as it can of S3.
    if kind == "cut before the answer" and "uploadId" in environ["QUERY_STRING"]:
        kind = "cut in the body"
    if kind is None:
        return application(environ, start_response)
    if kind == "cut before the answer":
        b"".join(application(environ, lambda *_: None))
    else:
        environ["wsgi.input"].read(length // 2 if kind == "cut in the body" else length)
    if kind.startswith("cut"):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError
    code = "SlowDown" if kind == "slow down" else "InternalError"
    body = f"<Error><Code>{code}</Code><Message>{kind}</Message></Error>".encode()
    status = "503 Slow Down" if kind == "slow down" else "500 Internal Server Error"
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


class Silent(WSGIRequestHandler):
    def log(self, *_) -> None:
        """Log nothing."""


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), faulty, threaded=True, request_handler=Silent)
