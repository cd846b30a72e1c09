"""Progress of a stage whose tasks run in other processes: each writes how far it is to a file; a thread adds up."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from ...common import storage
from ...common.progress import Progress


class StageProgress:
    """A task's side: `report` how many units are done; written at most four times a second, to a URL every 10 s."""

    def __init__(self, work: str, stage: str, rank: int) -> None:
        self._path = storage.join(work, f"progress/{stage}/{rank:05d}")
        self._pause = 10.0 if storage.is_url(work) else 0.25
        if not storage.is_url(work):
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
        self._last = 0.0

    def report(self, done: int) -> None:
        """Say that this task has done `done` units in all."""
        now = time.monotonic()
        if now - self._last >= self._pause:
            self._last = now
            with contextlib.suppress(OSError), storage.open_write(self._path) as f:  # a task must not fail over this
                f.write(str(done).encode())


@contextlib.contextmanager
def watch(work: str, stage: str, total: int, unit: str, quiet: bool) -> Iterator[None]:
    """Show the progress of `stage` while the body runs: the sum of what its tasks report, `total` at the end."""
    folder = storage.join(work, f"progress/{stage}")
    pause = 10.0 if storage.is_url(work) else 0.2
    stop = threading.Event()
    with Progress(stage, total, unit, quiet=quiet) as progress:

        def poll() -> None:
            while not stop.wait(pause):
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
        for name in storage.names(folder):
            with contextlib.suppress(OSError, ValueError):
                total += int(storage.read_bytes(storage.join(folder, name)))
    return total
