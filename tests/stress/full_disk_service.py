"""A service whose disk is full: `python -m epochal.tests.stress.full_disk_service`, as root.

It must start or say why not; once it runs, refuse in a line what it cannot keep, answer the rest, and go on when there
is space again, with every report that it acknowledged.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from epochal.service.client.client import AwayError, Client, RefusedError
from epochal.shards.artifact import read_manifest
from epochal.shards.order.plan import Plan
from epochal.tests.stress import world as w
from epochal.tests.support.servers import free_port, start_server, wait_for

KILOBYTES = (4, 16, 40, 80, 120, 200)
ROOM = 64 << 10
"""Bytes that are left when the service runs; a report takes some of them until the next checkpoint of its database."""


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """Yield the folder of a file system of its own, of 8 MB."""
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def start_on(small: Path, kilobytes: int) -> str | None:
    """Start the service with a root of `kilobytes`; return what is wrong, None for nothing."""
    shutil.rmtree(small / ".service", ignore_errors=True)
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", small], check=True)
    command = [sys.executable, "-W", "ignore", "-m", "epochal", "serve", "--root", small, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = server.stdout.readline()
        server.terminate()
        _, error = server.communicate()
    if said:
        return None
    named = error.startswith("epochal: ") and len(error.splitlines()) == 1 and str(small) in error and "space" in error
    return None if named else f"it does not say that the disk is full, and where: {error}"


def run_on(small: Path, artifacts: Path) -> Iterator[str]:
    """Fill the disk of a service that runs, ask it for all that it does, empty it again; yield what is wrong."""
    subprocess.run(["mount", "-o", "remount,size=8m", small], check=True)
    root, filler = small / "root", small / "filler"
    shutil.copytree(artifacts, root, symlinks=True)
    port = free_port()
    server = start_server(root, port)
    client = Client(f"http://127.0.0.1:{port}", timeout=120)
    try:
        wait_for(client)
        pool = read_manifest(str(root / "pools/tiny"))
        plan = Plan.for_artifact(pool, 100 * pool.tokens, 0, "reshuffle")
        claim = {"plan": plan.to_dict(), "batch_samples": 1, "holder": "a", "session": "a", "lease_seconds": 3600}
        token = client.post("/runs", name="run", **claim)["token"]
        free = os.statvfs(small)
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - ROOM))
        kept, refusals = _report_until_refused(client, token)
        yield from refusals
        yield from _ask(client, pool.fingerprint)
        filler.unlink()
        reported = client.post("/runs/run/reports", token=token, reports=[{"position": kept + 1, "tokens": 0}])
        if not reported:
            yield "no report is taken after there was space again"
        found = client.get("/runs/run")
        if found["position"] != kept + 1:
            yield f"position {found['position']} where {kept + 1} was acknowledged"
        if len(client.seen(id="d1")["documents"]) != 1:
            yield "a document is not found after there was space again"
    finally:
        server.terminate()
        if server.wait(60) not in (0, -15):
            yield f"the server ended with {server.returncode}"


def _report_until_refused(client: Client, token: int) -> tuple[int, list[str]]:
    """Return the last position that was acknowledged, and what was wrong with the refusal."""
    position = 0
    while position < 5000:
        try:
            said = [{"position": position + 1, "tokens": 0, "loss": 1.0, "kind": "nll"}]
            client.post("/runs/run/reports", token=token, reports=said)
            position += 1
        except (AwayError, RefusedError) as error:
            print(f"  after {position} reports: {error}", flush=True)
            return position, _faults(error)
    return position, ["5,000 reports were taken by a disk that is full"]


def _ask(client: Client, pool: str) -> Iterator[str]:
    """Ask for what needs no disk, and for what does; yield what is wrong."""
    if client.get("/runs")["runs"][0]["name"] != "run":
        yield "GET /runs without the run"
    began = time.monotonic()
    with contextlib.suppress(AwayError, RefusedError):
        client.seen(id="d1")  # builds the index of the pool's documents
        print("  the index of documents was built", flush=True)
    try:
        client.seen(id="d2")
    except (AwayError, RefusedError) as error:
        print(f"  a look-up of a document of {pool}: {error}", flush=True)
        yield from _faults(error)
    if time.monotonic() - began > 90:
        yield "a look-up took more than 90 s"


def _faults(error: Exception) -> list[str]:
    """Return what is wrong with a refusal."""
    text = str(error)
    return [] if "space" in text and "\n" not in text else [f"refused without the reason: {text}"]


def main() -> None:
    """Run from the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    w.warm_up()
    faults = 0
    with tempfile.TemporaryDirectory() as name, small_disk() as small:
        w.make_world(Path(name))
        for kilobytes in KILOBYTES:
            if fault := start_on(small, kilobytes):
                faults += 1
                print(f"start, {kilobytes} kB: {fault}", flush=True)
        for fault in run_on(small, Path(name, "artifacts")):
            faults += 1
            print(f"full while it runs: {fault}", flush=True)
    print(f"{len(KILOBYTES)} starts and a disk that was full for a time, {faults} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
