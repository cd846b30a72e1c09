"""S3 servers on loopback for tests: moto's, with faults, and a second one where it is installed."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from epochal.common import storage
from epochal.common.errors import EpochalError


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def serving(command: list[str], port: int, secret: str = "test", key: str = "test") -> Iterator[str]:
    """Run an S3 server that listens on `port`, the environment pointed at it; yield its address."""
    address = f"http://127.0.0.1:{port}"
    # s3rver's tokens for long listings use a cipher that Node's OpenSSL has put aside.
    environment = os.environ | {"NODE_OPTIONS": "--openssl-legacy-provider"}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patch.setenv(name, value)
        try:
            _wait_for(port)
            forget_clients()
            yield address
        finally:
            server.kill()
            server.wait()
            forget_clients()


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """Run tests/support/s3_server.py."""
    port = free_port()
    with serving([sys.executable, str(Path(__file__).parent / "s3_server.py"), str(port)], port) as address:
        yield address


def s3rver(folder: Path) -> contextlib.AbstractContextManager[str]:
    """Return s3rver, to be run with its objects in `folder`; skip where neither $S3RVER nor the PATH has it."""
    command = os.environ.get("S3RVER") or shutil.which("s3rver")
    if command is None:
        pytest.skip("s3rver is not installed: npm install s3rver, and S3RVER=node_modules/.bin/s3rver")
    port = free_port()
    words = [command, "--directory", str(folder), "--port", str(port), "--address", "127.0.0.1"]
    return serving(words, port, "S3RVER", "S3RVER")


def _wait_for(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"no server on port {port}")


def forget_clients() -> None:
    """Have the next access make a client anew, from the environment as it is then."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def new_bucket(name: str) -> str:
    """Make a bucket whose name begins with `name`; return its URL."""
    bucket = f"{name}-{uuid.uuid4().hex[:12]}"  # not `random`, which Composer seeds
    storage.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}"


def unsteady(address: str, **settings: float) -> dict[str, int]:
    """Have what changes `unsteady*` buckets fail as s3_server.py says; return the counts of what happened before."""
    counts = json.loads(urllib.request.urlopen(f"{address}/-/unsteady").read())
    query = "&".join(f"{k}={v}" for k, v in settings.items())
    urllib.request.urlopen(urllib.request.Request(f"{address}/-/unsteady?{query}", method="POST")).read()
    return counts


def refusal(work: Callable[[], object]) -> str | None:
    """Return what `work` says when it raises one of our errors, None when it does not."""
    try:
        work()
    except EpochalError as error:
        return str(error)
    return None
