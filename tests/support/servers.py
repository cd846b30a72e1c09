"""Servers of the repetition-control service for tests: in a thread, or as processes that can be killed."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import epochal
from epochal.service.api.app import create_app
from epochal.service.api.connections import server_config
from epochal.service.client.client import AwayError, Client
from epochal.service.client.retries import NO_RETRIES
from epochal.service.security import AccessRules
from epochal.service.service import Service

PATIENCE = 300.0
"""Seconds that a test waits for an answer: on a crowded machine a flush to the disk alone may take half a minute."""

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
DATABASES = [
    "sqlite",
    pytest.param(
        "postgresql",
        marks=pytest.mark.skipif(not POSTGRES, reason="PostgreSQL is not installed: apt-get install postgresql"),
    ),
]


@contextlib.contextmanager
def serving_app(app: Any, proxies: Sequence[str] = ()) -> Iterator[str]:
    """Serve an ASGI application from a thread; yield its address."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(server_config(app, proxies, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive(), "the server has started")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def serving(
    root: Path, database: str | None = None, rules: AccessRules | None = None, proxies: Sequence[str] = ()
) -> Iterator[Client]:
    """Serve `root` from a thread; yield a client."""
    with serving_app(create_app(Service(str(root), database), rules or AccessRules()), proxies) as url:
        client = Client(url, timeout=PATIENCE, retries=NO_RETRIES)
        try:
            wait_for(client)
            yield client
        finally:
            client.close()


def until(condition: Callable[[], Any], what: str) -> None:
    """Return when `condition()` is true. Raises AssertionError after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def wait_for(client: Client, seconds: float = 180.0) -> None:
    """Return when the service answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.get("/health")
            return
        except AwayError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def start_server(root: Path, port: int, database: str | None = None) -> subprocess.Popen:
    """Start `epochal serve` as a process."""
    command = [sys.executable, "-W", "ignore", "-m", "epochal", "serve", "--root", str(root), "--port", str(port)]
    command += ["--database", database] if database else []
    environment = os.environ | {"PYTHONPATH": str(Path(epochal.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir())


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Run a private PostgreSQL cluster with its durable defaults; yield the URL of an empty database."""
    binaries = POSTGRES[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="epochal-pg-", dir="/tmp"))
    user = "nobody" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root
    if user:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    quiet = {"stdout": subprocess.DEVNULL, "user": user, "cwd": "/"}
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "epochal", "-A", "trust", "--no-sync"], check=True, **quiet
        )
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"],
            stderr=subprocess.DEVNULL,
            **quiet,
        )
        try:
            ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
            for _ in range(300):
                if subprocess.run(ready).returncode == 0:
                    break
                time.sleep(0.05)
            yield f"postgresql://epochal@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait()
    finally:
        shutil.rmtree(folder)
