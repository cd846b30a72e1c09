"""Progress of a stage whose tasks run in other processes: each says in a file how far it is, one thread sums up."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from ..shards.progress import Progress


class StageProgress:
    """A task's side: `report` how many units are done; written at most four times a second."""

    def __init__(self, work: str, stage: str, rank: int) -> None:
        folder = os.path.join(work, "progress", stage)
        os.makedirs(folder, exist_ok=True)
        self._path = os.path.join(folder, f"{rank:05d}")
        self._last = 0.0

    def report(self, done: int) -> None:
        """Say that this task has done `done` units in all."""
        now = time.monotonic()
        if now - self._last >= 0.25:
            self._last = now
            with open(self._path, "w") as f:
                f.write(str(done))


@contextlib.contextmanager
def watch(work: str, stage: str, total: int, unit: str, quiet: bool) -> Iterator[None]:
    """Show the progress of `stage` while the body runs: the sum of what its tasks report, `total` at the end."""
    folder = os.path.join(work, "progress", stage)
    stop = threading.Event()
    with Progress(stage, total, unit, quiet=quiet) as progress:

        def poll() -> None:
            while not stop.wait(0.2):
                progress.update(min(_sum(folder), total))

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        progress.finish(total)


def _sum(folder: str) -> int:
    total = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, name)) as f:
                total += int(f.read())
    return total
