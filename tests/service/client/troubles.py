"""A proxy before a service that fails as networks and servers do: it refuses, drops connections, loses answers."""

import contextlib
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx

Trouble = str | Callable[[], object]
"""A status is answered with a refusal (502 with a page, as proxies do). `drop`: the connection is closed before the
request is passed on. `lost`: after the service has answered; what is called then instead is the same, and is called
in between. `half`: of the answer. The empty one is none."""


@dataclass
class Troubles:
    """The proxy at `url`. `met` are what the next requests meet, in order; `keys` are those of requests with one."""

    url: str
    met: list[Trouble] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    asked: int = 0


@contextlib.contextmanager
def troubles(service: str) -> Iterator[Troubles]:
    """Run a proxy before the service at an address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Proxy) as server, httpx.Client(base_url=service) as http_:
        server.troubles = found = Troubles(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
        server.http = http_  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


class _Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        met: Troubles = self.server.troubles  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        trouble = met.met.pop(0) if met.met else ""
        met.asked += 1
        if key := self.headers.get("idempotency-key"):
            met.keys.append(key)
        if trouble == "drop":
            self._close()
            return
        if isinstance(trouble, str) and trouble.isdigit():
            page = b"<html>Bad Gateway</html>" if trouble == "502" else b'{"detail": "not now"}'
            self._answer(int(trouble), page, {"retry-after": "0"})
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        answer = self.server.http.request(self.command, self.path, headers=headers, content=body)  # type: ignore
        if trouble == "lost" or callable(trouble):
            if callable(trouble):
                trouble()
            self._close()
            return
        kinds = {"content-type": answer.headers.get("content-type", "")}
        self._answer(answer.status_code, answer.content, kinds, len(answer.content) // 2 if trouble == "half" else None)

    do_GET = do_DELETE = do_POST  # noqa: N815 - as http.server wants them

    def _answer(self, status: int, body: bytes, headers: dict[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])
        if sent is not None:
            self.wfile.flush()
            self._close()

    def _close(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
