"""Connections that send nothing, send slowly or do not read are closed, and never keep others out."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from epochal.service import security
from epochal.service.api import connections
from epochal.service.client.client import Client
from epochal.tests.support.servers import PATIENCE, serving, serving_app


def connect(url: str, sent: bytes = b"") -> socket.socket:
    """Return a connection to the service on which `sent` was sent."""
    host, _, port = url.removeprefix("http://").partition(":")
    opened = socket.create_connection((host, int(port)), timeout=PATIENCE)
    opened.sendall(sent)
    return opened


def rest(opened: socket.socket) -> bytes:
    """Return what comes until the connection is closed."""
    parts = []
    with opened, contextlib.suppress(ConnectionResetError):
        while part := opened.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 1)
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.5)
    monkeypatch.setattr(security, "BODY_SECONDS", 0.5)


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: x", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET"])
def test_a_connection_without_a_whole_request_is_closed(sent: bytes, tmp_path: Path):
    with serving(tmp_path) as client:
        answer = rest(connect(client.url, sent))
    assert answer.startswith(b"HTTP/1.1 200") == (b"\r\n\r\n" in sent)


@pytest.mark.usefixtures("_hasty")
def test_a_head_that_comes_byte_by_byte_is_not_waited_for(tmp_path: Path):
    with serving(tmp_path) as client, connect(client.url) as opened, contextlib.suppress(OSError):
        begun = time.monotonic()
        for byte in b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000:
            opened.sendall(bytes([byte]))
            time.sleep(0.02)
    assert time.monotonic() - begun < 60


@pytest.mark.usefixtures("_hasty")
def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path):
    head = b"POST /limits HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    with serving(tmp_path) as client:
        answer = rest(connect(client.url, head))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"the body did not come within 0.5 seconds" in answer


@pytest.mark.usefixtures("_hasty")
def test_an_answer_that_is_not_read_is_given_up():
    ended = threading.Event()

    async def endless(scope: dict, receive: object, send: Callable) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(1000):
                await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
                await asyncio.sleep(0)
            ended.set()

    with serving_app(endless) as url:
        begun = time.monotonic()
        opened = connect(url, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert ended.wait(PATIENCE)  # it goes on into nothing, and is not waited for
        assert len(rest(opened)) < 100 << 20
    assert time.monotonic() - begun < 60


def test_too_many_silent_connections_make_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "most_connections", lambda: 20)
    with serving(tmp_path) as client, contextlib.ExitStack() as kept:
        silent = [kept.enter_context(connect(client.url)) for _ in range(60)]
        for _ in range(5):
            with Client(client.url, timeout=PATIENCE)._http as http:
                assert http.get("/health").status_code == 200
        silent[0].settimeout(PATIENCE)
        with contextlib.suppress(ConnectionResetError):
            assert silent[0].recv(1) == b""  # the oldest went first


def test_a_head_too_large_is_refused(tmp_path: Path):
    with serving(tmp_path) as client:
        answer = rest(connect(client.url, b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000))
    assert answer.startswith(b"HTTP/1.1 400")
