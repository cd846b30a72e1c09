"""kill -9 of push and pull at random moments: `python -m epochal.tests.stress.kills_of_transfers --kills 20`.

Each transfer, to and from S3 and a stand-in of the Hugging Face hub, is killed and started again, at moments spread
over its whole length, until it ends by itself. Between the kills nothing that is not whole may pass for an artifact,
and what is there in the end must be the source, byte for byte.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import epochal
from epochal.common import storage
from epochal.shards.carve import carve
from epochal.shards.transfer.transfer import push
from epochal.shards.verify import verify
from epochal.tests.support.hub import Hub, hub
from epochal.tests.support.pools import write_pool
from epochal.tests.support.stores import forget_clients, moto, new_bucket

_SERVER = """
import json, os, sys
import s3fs, huggingface_hub.hf_api, huggingface_hub.lfs, pyarrow.parquet
from epochal.__main__ import main
from epochal.shards.transfer import transfer
for line in sys.stdin:
    words, out = json.loads(line)
    process = os.fork()
    if not process:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        sys.exit(main(words))
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, null when it was killed, the seconds that it took, what it wrote."""

    status: int | None
    seconds: float
    out: str


class Commands:
    """Runs commands, each in a process of its own that is forked from one with all imports done."""

    def __init__(self, out: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(epochal.__file__).parents[1])}
        command = [sys.executable, "-W", "ignore", "-c", _SERVER]
        self._out = out
        self._server = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.communicate()

    def run(self, words: list[str], seconds: float = 300.0) -> Ended:
        """Run a command, killed so many seconds after it began."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([words, str(self._out)]) + "\n")
        process = int(self._server.stdout.readline())
        began = time.monotonic()
        end = threading.Timer(seconds, _kill, [process])
        end.start()
        status = int(self._server.stdout.readline())
        end.cancel()
        return Ended(None if status == -signal.SIGKILL else status, time.monotonic() - began, self._out.read_text())


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(process, signal.SIGKILL)


def files_of(root: str) -> dict[str, bytes]:
    """Return the bytes of all files below a folder or URL, but those that the hub adds."""
    names = [name for name in storage.files_below(root) if name != ".gitattributes"]
    return {name: storage.read_bytes(storage.join(root, name)) for name in names}


def passes_for_whole(target: str) -> bool:
    """Return whether readers take what is at `target` for an artifact; what they take must be whole but for the file
    that says it was not finished."""
    forget()
    if not storage.exists(storage.join(target, "manifest.json")):
        return False
    problems = [problem for problem in verify(target) if not problem.startswith("unfinished does not belong")]
    assert problems == [], problems
    return True


def forget() -> None:
    """Have stores asked anew: what this process knows of them, others have changed."""
    from huggingface_hub import HfFileSystem

    forget_clients()
    HfFileSystem.clear_instance_cache()


def torture(
    run: Callable[..., Ended],
    words: Callable[[str], list[str]],
    targets: Iterator[str],
    expected: dict[str, bytes],
    kills: int,
    chance: random.Random,
) -> int:
    """Kill a transfer `kills` times in all, in as many lives as that takes; return how often it came to its end.

    Args:
        run: as of Commands.
        words: the command, for a target.
        targets: places that are empty.
        expected: the files that must be at a target in the end.
        kills: see above.
        chance: says when.

    Raises:
        AssertionError: when something else is at a target.
    """
    whole = run(words(next(targets)))
    assert whole.status == 0, whole.out
    killed = ends = 0
    while killed < kills:
        target = next(targets)
        while True:
            ended = run(words(target), chance.uniform(0.0, 1.1 * whole.seconds) if killed < kills else 300.0)
            published = passes_for_whole(target)
            if ended.status is not None:
                break
            killed += 1
        assert ended.status == 0, ended.out
        assert published
        assert verify(target) == []
        assert files_of(target) == expected
        ends += 1
    return ends


def _emptied(served: Hub, repo: str) -> str:
    """Return the URL of a data set that is not there yet, at a hub that keeps no large file which was sent for
    another one: it would not be sent again."""
    served.state.large = {oid: data for oid, data in served.state.large.items() if oid in served.state.needed("me/all")}
    return f"hf://datasets/{repo}"


def campaign(folder: Path, kills: int, seed: int, tokens: int) -> Iterator[tuple[str, int]]:
    """Yield each transfer's name and how often it came to its end."""
    pool = str(write_pool(folder, tokens, 64, 16))
    view = carve(pool, tokens // 2 + 1)[0]
    numbers = itertools.count()
    with ExitStack() as servers:
        servers.enter_context(moto())
        served = servers.enter_context(hub())
        served.state.make("me/all")
        bucket = new_bucket("kills")
        commands = servers.enter_context(Commands(folder / "said.txt"))  # it knows the two servers by the environment
        copies = [push(view, f"{place}/copy").root for place in (bucket, "hf://datasets/me/all")]

        in_bucket = (f"{bucket}/{n}" for n in numbers)
        at_hub = (_emptied(served, f"me/data{n}") for n in numbers)
        local = (str(folder / f"pulled{n}") for n in numbers)
        works: list[tuple[str, Callable[[str], list[str]], Iterator[str], dict[str, bytes]]] = [
            ("push to S3", lambda t: ["push", pool, t], in_bucket, files_of(pool)),
            ("push of a view to S3", lambda t: ["push", view, t], in_bucket, files_of(copies[0])),
            ("push to the hub", lambda t: ["push", pool, t], at_hub, files_of(pool)),
            ("pull from S3", lambda t: ["pull", copies[0], t], local, files_of(copies[0])),
            ("pull from the hub", lambda t: ["pull", copies[1], t], local, files_of(copies[1])),
        ]
        for name, words, targets, expected in works:
            yield name, torture(commands.run, words, targets, expected, kills, random.Random(f"{seed} {name}"))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, ends in campaign(Path(folder), args.kills, args.seed, 60_000):
            print(f"{name}: {args.kills} kills, {ends} times to its end, each time the source's bytes", flush=True)


if __name__ == "__main__":
    main()
