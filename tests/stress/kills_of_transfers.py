"""kill -9 of push and pull at random moments: `python -m epochal.tests.stress.kills_of_transfers --kills 20`.

Each transfer, to and from S3 and a stand-in of the Hugging Face hub, is killed and started again, at moments spread
over its whole length, until it ends by itself. Between the kills nothing that is not whole may pass for an artifact,
and what is there in the end must be the source, byte for byte.
"""

import argparse
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import epochal
from epochal.common import storage
from epochal.shards.carve import carve
from epochal.shards.transfer.transfer import push
from epochal.shards.verify import verify
from epochal.tests.support.hub import Hub, hub
from epochal.tests.support.pools import write_pool
from epochal.tests.support.stores import forget_clients, moto, new_bucket

_CHILD = """
import sys
import s3fs, huggingface_hub.hf_api, huggingface_hub.lfs, pyarrow.parquet
from epochal.__main__ import main
from epochal.shards.transfer import transfer
print("ready", flush=True)
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, null when it was killed, the seconds that it took, what it wrote."""

    status: int | None
    seconds: float
    out: str


def run(words: list[str], seconds: float = 300.0) -> Ended:
    """Run a command in a process of its own, killed so many seconds after its imports are done."""
    environment = os.environ | {"PYTHONPATH": str(Path(epochal.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, *words]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        assert p.stdout is not None
        assert p.stdout.readline() == "ready\n"
        began = time.monotonic()
        try:
            status: int | None = p.wait(seconds)
        except subprocess.TimeoutExpired:
            p.send_signal(signal.SIGKILL)
            status = None
        return Ended(status, time.monotonic() - began, p.stdout.read())


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
    words: Callable[[str], list[str]],
    targets: Iterator[str],
    expected: dict[str, bytes],
    kills: int,
    chance: random.Random,
) -> int:
    """Kill a transfer `kills` times in all, in as many lives as that takes; return how often it came to its end.

    Args:
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
            yield name, torture(words, targets, expected, kills, random.Random(f"{seed} {name}"))


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
