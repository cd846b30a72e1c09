"""A folder served over HTTP on loopback, with troubles."""

import contextlib
import functools
import http.server
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TROUBLES = ("other bytes", "short", "a page", "a long page", "403", "404", "500", "reset")


class Web:
    """The server. `trouble` is what `times` GETs of each file meet, after the first `after`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.trouble, self.times, self.name, self.after = "", 0, "", 0
        self.asked: Counter[str] = Counter()

    def make(self, trouble: str, times: int, name: str = "", after: int = 0) -> None:
        """Begin with a trouble, for files whose path holds `name`."""
        self.trouble, self.times, self.name, self.after = trouble, times, name, after
        self.asked.clear()


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    web: Web

    def log_message(self, *_) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        path = self.translate_path(self.path)
        if not os.path.isfile(path):
            super().do_HEAD()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(os.path.getsize(path)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        path = self.translate_path(self.path)
        if not os.path.isfile(path):
            super().do_GET()
            return
        web = self.server.web  # type: ignore[attr-defined]
        web.asked[path] += web.name in path
        meets = web.after < web.asked[path] <= web.after + web.times
        trouble = web.trouble if web.name in path and meets else ""
        if trouble.isdigit():
            self.send_error(int(trouble))
            return
        if trouble == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = Path(path).read_bytes()
        status = 200
        if spans := self.headers.get("Range", "").removeprefix("bytes="):
            first, _, last = spans.partition("-")
            body, status = body[int(first) : int(last) + 1 if last else None], 206
        if trouble == "a page":
            body = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
        if trouble == "a long page":  # as servers send them, whatever was asked for
            body, status = b"<html>" + b"Please sign in " * (os.path.getsize(path) // 10 + 10), 200
        if trouble == "other bytes" and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            size = os.path.getsize(path)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{size}")
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if trouble == "short" else body)


@contextlib.contextmanager
def web(folder: Path) -> Iterator[Web]:
    """Serve `folder`."""
    handler = functools.partial(_Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.web = Web(f"127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.web  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()
