"""Where a pool is to be: who builds there, what lies there already, and where the work on it is kept."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import filelock

from ..common import storage
from ..common.errors import RequestError
from ..common.hashing import digest
from ..common.json_text import strict_json
from ..common.publish import MANIFEST_NAME, UNFINISHED_NAME, copy_files, filling, rename_folder
from ..shards.artifact import read_manifest
from ..shards.facts import FACTS, facts_by_source, plain, without_facts
from ..shards.manifest import Manifest
from ..tokenize.tokenizer import Tokenizer
from .config import Build
from .run.executors import run_stage
from .run.stage_progress import StageProgress, watch
from .settings.executors import LocalExecutor
from .stages.division import FileStep
from .stages.finish import versions
from .stages.pack import ROWS_NAME

FileSize = tuple[str, int]
"""Name and size in bytes."""

AT_ONCE = 16
"""Files that a store is asked to copy at once."""

SMALL_COPY = 1 << 26
"""Bytes below which a pool is copied by the build's own process: it takes less time than to start others."""


def targets_of(config: Build) -> list[str]:
    """Return where the pool of a build is to be, and its validation pool if there is one."""
    names = [config.name] + ([f"{config.name}-val"] if config.validation_tokens != 0 else [])
    return [storage.join(storage.absolute(config.out), f"pools/{name}") for name in names]


@contextlib.contextmanager
def lock(target: str) -> Iterator[None]:
    """Lock the target against a second build of it from this machine (if it is local, from any that sees the folder).
    The lock ends with the process, however that ends."""
    folder, name = (tempfile.gettempdir(), f"epochal-{digest(target)}") if storage.is_url(target) else _split(target)
    os.makedirs(folder, exist_ok=True)
    held = filelock.FileLock(os.path.join(folder, f".{name}.lock"))
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        raise RequestError(f"another build of {target} is running: wait for it or choose another name") from None
    try:
        yield
    finally:
        held.release()


def _split(target: str) -> tuple[str, str]:
    folder, _, name = target.rpartition("/")
    return folder, name


def record_path(target: str, what: str = "request") -> str:
    """Return where the last build of a target leaves what the next one wants to know."""
    folder, name = _split(target)
    return f"{folder}/.{name}.{what}.json"


def recorded(targets: list[str]) -> dict[str, Any]:
    """Return what the last build of these targets left: its request, and how many of the pools it made."""
    try:
        record = strict_json(storage.read_bytes(record_path(targets[0]), may_lack=True))
    except (FileNotFoundError, ValueError):
        record = {}
    return {"request": None, "pools": len(targets)} | (record if isinstance(record, dict) else {})


def built_already(targets: list[str], request: str, config: Build, tokenizer: Tokenizer) -> bool:
    """Return whether all targets are there, made by this very request.

    Raises:
        RequestError: when something else is there.
    """
    record = recorded(targets)
    asked = record["request"]
    there = [target for target in targets if storage.exists(target)]
    for target in list(there):
        if not storage.exists(storage.join(target, MANIFEST_NAME)):
            marker = storage.join(target, UNFINISHED_NAME)
            if storage.is_url(target) and storage.exists(marker):
                if storage.read_bytes(marker) != request.encode():
                    raise RequestError(
                        f"{target} holds what another build left unfinished: remove it, or choose another out= or name="
                    )
                there.remove(target)  # being copied when the build was stopped
                continue
            raise RequestError(f"{target} exists and is not an artifact: choose another out= or name=, or remove it")
        manifest = read_manifest(target)
        if asked not in (None, request) or not config.same(manifest.config):
            raise RequestError(
                f"{target} was built {_difference(manifest, config, tokenizer)}: choose another out= or name=, "
                "or remove it to build again"
            )
    return asked == request and there == targets[: record["pools"]]


def _difference(manifest: Manifest, config: Build, tokenizer: Tokenizer) -> str:
    """Return the first thing in which the build that made a pool differs from this one."""
    if manifest.tokenizer.fingerprint != tokenizer.info.fingerprint:
        return f"with another tokenizer ({manifest.tokenizer.name})"
    settings, now = _flat(without_facts(manifest.config)), _flat(without_facts(config.record()))
    for key in [*now, *(key for key in settings if key not in now)]:
        if settings.get(key) != now.get(key) and key == "sha256":
            return "with another value of what its configuration takes from the environment or holds in a URL"
        if settings.get(key) != now.get(key):
            return f"with {key}={settings.get(key)}, which is {now.get(key)} now"
    present = versions(config, tokenizer)
    changed = [name for name in present if manifest.versions.get(name) != present[name]]
    if changed:
        return f"with {changed[0]} {manifest.versions.get(changed[0])}, where {present[changed[0]]} is now"
    return "from other inputs (files were edited, added or removed since)"


def changed_facts(pool: str, config: Build) -> Iterator[str]:
    """Yield a line where a configuration says other things of its sources than a pool that is there, which keeps what
    it says: no token of it would be another."""
    there, now = facts_by_source(read_manifest(pool).config), facts_by_source(config.record())
    for name in (source.name for source in config.sources):
        for key in FACTS:
            before, after = there.get(name, {}).get(key), now.get(name, {}).get(key)
            if before != after:
                said = [plain(value, 80) if value else "not stated" for value in (before, after)]
                yield (
                    f"source '{name}': {key} is {said[0]} in {pool}, which stays as it is, and {said[1]} now: to have "
                    "that in it, remove it and build again (the tokens will be the same)"
                )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Return the values of a nested mapping by dotted key."""
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, inner in pairs for k, v in _flat(inner, f"{key}.{name}" if key else str(name)).items()}
    return {key: value}


def work_folder(target: str, request: str, config: Build) -> str:
    """Return the folder where this request is worked on; remove those of other requests for the same target."""
    folder, name = _split(target)
    if config.work is not None:  # where builds of other targets may lie too
        folder = storage.absolute(config.work)
        name += f"-{digest(target)[:8]}"
    key = hashlib.blake2b(f"{request} {config.tasks}".encode(), digest_size=6).hexdigest()
    work = f".{name}.building-{key}"
    for other in storage.names(folder):
        if other.startswith(f".{name}.building-") and other != work:
            storage.remove(storage.join(folder, other))
    if not storage.is_url(folder):
        os.makedirs(os.path.join(folder, work), exist_ok=True)
    return storage.join(folder, work)


def publish(staged: str, target: str, request: str, config: Build, work: str, quiet: bool) -> None:
    """Move a finished pool into place: renamed on one disk, else copied by the tasks of a stage, its manifest last. One
    that is there already must be the same."""
    storage.remove(storage.join(staged, ROWS_NAME))
    if storage.exists(storage.join(target, MANIFEST_NAME)):
        if read_manifest(target).fingerprint != read_manifest(staged).fingerprint:
            raise RequestError(f"{target} exists and holds another pool: choose another out= or name=, or remove it")
        return
    if rename_folder(staged, target):
        return
    files = [file for file in storage.sizes(staged).items() if file[0] != MANIFEST_NAME]
    with filling(target, request) as folder:
        for name in set(storage.names(folder)) - {*dict(files), UNFINISHED_NAME}:  # of a task that was killed
            storage.remove(storage.join(folder, name))
        _copy(staged, folder, files, config, work, quiet)
        copy_files(staged, folder, [MANIFEST_NAME])


def _copy(staged: str, folder: str, files: list[FileSize], config: Build, work: str, quiet: bool) -> None:
    """Copy the files of a pool, in processes of this machine where others may not reach the folder."""
    stage, total = "copy" if staged.endswith("/pool") else "copy-val", sum(size for _, size in files)
    copying = CopyFiles(work, stage, staged, folder, sorted(files))
    storage.remove(storage.join(work, f"logs/{stage}"))  # what is done is seen in the folder
    with watch(work, stage, total, "bytes", quiet):
        if total < SMALL_COPY:
            copying.do(0, 1)
        elif storage.is_url(folder):
            run_stage(work, stage, [copying], config.tasks, config.workers, config.executor, (), config.written)
        else:
            workers = min(config.workers, os.cpu_count() or 1)
            run_stage(work, stage, [copying], config.tasks, workers, LocalExecutor(), (), config.written)


class CopyFiles(FileStep):
    """Copies every world_size-th of the files of a finished pool, but those that have been copied already."""

    name = "Copy"

    def __init__(self, work: str, stage: str, staged: str, folder: str, files: list[FileSize]) -> None:
        super().__init__()
        self.work, self.stage, self.staged, self.folder, self.files = work, stage, staged, folder, files

    def do(self, rank: int, world_size: int) -> None:
        """Copy this rank's share."""
        progress, done, there = StageProgress(self.work, self.stage, rank), 0, storage.sizes(self.folder)
        mine = self.files[rank::world_size]
        for start in range(0, len(mine), AT_ONCE):
            some = mine[start : start + AT_ONCE]
            copy_files(self.staged, self.folder, [name for name, size in some if there.get(name) != size])
            done += sum(size for _, size in some)
            progress.report(done)
