"""A run's folder: what lies in it by name, and how it is kept at a URL; needs neither Composer nor torch."""

import contextlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from ..common import storage
from ..common.errors import WorkError
from ..common.hashing import digest, stream_hash
from ..common.json_text import strict_json
from ..common.publish import FileInfo
from ..common.remote.patience import ATTEMPTS, patiently
from ..shards.order.receipt import RECEIPT_NAME
from ..shards.tokenizer_file import TOKENIZER_NAME
from .saved import hashes

RUN_NAME, RESULT_NAME = "run.json", "result.json"
MEMORISATION_NAME = "memorisation.json"
CONFIG_NAME, ENVIRONMENT_NAME = "config.yaml", "environment.json"
METRICS_NAME = "metrics.jsonl"
LATEST_NAME = "latest-rank0.pt"
PUBLISHED_NAME = "published.json"
JOURNAL_NAME, SENT_NAME = "service.jsonl", "service.sent"
MODEL_FOLDERS = ("best", "final")
SNAPSHOTS = "snapshots"
"""Folder of the models at the ends of cycles, by their number from 1."""
LOSS_KINDS = {"nll": "NLL", "nelbo": "NELBO", "nelbo_given_lengths": "NELBO given lengths"}
"""Validation losses, and what people call them; the last is that of a model that is told where documents end."""
BOUNDS = tuple(kind for kind in LOSS_KINDS if kind != "nll")
PENALTIES = ("label_smoothing", "z_loss")
"""What is logged as `loss/train/...` beside the loss."""


def losses_in_words(losses: Mapping[str, float]) -> str:
    """Return validation losses by kind as people read them, `NLL 3.2150`; what else is among them is left out."""
    return ", ".join(f"{words} {losses[kind]:.4f}" for kind, words in LOSS_KINDS.items() if kind in losses)


def train_losses(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the training losses of a step by kind; what is added to them (`PENALTIES`) and the sum are left out."""
    named = {k.removeprefix("loss/train/"): v for k, v in metrics.items() if k.startswith("loss/train/")}
    return {kind: value for kind, value in named.items() if kind not in ("total", *PENALTIES)}


def whole_rows(text: str) -> list[dict[str, float]]:
    """Return the rows of a file of metrics in order, without a last one that is still being written or was cut off."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step = row.get("step") if isinstance(row, dict) else None
        if isinstance(step, int | float) and math.isfinite(step):
            rows.append(row)
    return rows


def of_step_after(row: dict[str, float]) -> bool:
    """Return whether a row is one of version 0.1.0 with the loss of the step after the one that it names."""
    return "run/tokens" not in row and any(key.startswith(("loss/train/", "run/grad_norm")) for key in row)


def read_metrics(folder: str) -> list[dict[str, float]]:
    """Return the metrics of the run in `folder` (local or URL), one mapping per step, in order.

    A last line that is still being written is left out. Rows of version 0.1.0, two a step and the loss under the number
    of the step before, are put together as they belong.
    """
    rows: dict[int, dict[str, float]] = {}
    text = storage.read_bytes(storage.join(folder, METRICS_NAME)).decode(errors="replace")
    for row in whole_rows(text):
        step = int(row["step"]) + of_step_after(row)
        rows.setdefault(step, {}).update(row | {"step": step})
    return [rows[step] for step in sorted(rows)]


class RunFolder:
    """The folder of a run at `path`, local or a URL; everything is written to the folder `local`.

    For a URL, `local` is a folder of `cache` that nothing depends on: `publish` copies it to the URL, and `fetch`, at
    the start of a run, makes it what lies there. `published.json`, written after the files that it names, says where a
    run resumes: the newest checkpoint and, of files that only grow, the bytes they had by then. So a run that is killed
    while it publishes resumes from what it had published before.
    """

    def __init__(self, path: str, cache: str) -> None:
        self.path = path.rstrip("/") if storage.is_url(path) else storage.local_path(path)
        self.remote = storage.is_url(path)
        self.local = os.path.join(cache, "runs", digest(self.path)[:16]) if self.remote else self.path
        self._sent: dict[str, tuple[tuple[int, int], FileInfo]] = {}
        self.before_publishing: Callable[[], None] = lambda: None

    def read(self, name: str) -> bytes | None:
        """Return the file `name` as it lies at `path`, None when there is none."""
        try:
            return storage.read_bytes(storage.join(self.path, name), may_lack=True)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def steps_saved(self) -> int:
        """Return the steps that the newest whole checkpoint in `local` has taken, 0 when there is none."""
        return step_of_checkpoint(self.newest() or "")

    def newest(self) -> str | None:
        """Return the name of the newest whole checkpoint in `local`."""
        link = os.path.join(self.local, LATEST_NAME)
        return os.path.basename(os.readlink(link)) if os.path.islink(link) and os.path.exists(link) else None

    def put_aside(self, checkpoint: str) -> None:
        """Have `local` no longer name `checkpoint`, which is spoilt, but the one before it, as its newest.

        The file itself is removed when the run is gone on with.
        """
        whole = [n for n in os.listdir(self.local) if n != checkpoint and step_of_checkpoint(n) and "-rank0" in n]
        earlier = [n for n in whole if step_of_checkpoint(n) < step_of_checkpoint(checkpoint)]
        link = os.path.join(self.local, LATEST_NAME)
        os.unlink(link)
        hashes.drop(self.local, checkpoint)
        if earlier:
            os.symlink(max(earlier, key=step_of_checkpoint), link)

    def mend_link(self) -> None:
        """Have `local` name a newest checkpoint again, where the one that it named was removed, or the link to it was
        not made anew before a kill: the newest that there is a hash of."""
        link = os.path.join(self.local, LATEST_NAME)
        if os.path.exists(link):
            return
        whole = [n for n in hashes.known(self.local) if step_of_checkpoint(n) and self._has(n)]
        if os.path.islink(link):
            self.put_aside(os.path.basename(os.readlink(link)))
        if whole and not os.path.islink(link):
            os.symlink(max(whole, key=step_of_checkpoint), link)

    def published(self) -> dict[str, Any] | None:
        """Return from where a run at a URL resumes, None when nothing has been published.

        Raises:
            WorkError: when the work failed.
        """
        data = self.read(PUBLISHED_NAME)
        try:
            return None if data is None else strict_json(data)
        except ValueError:
            raise WorkError(f"{storage.join(self.path, PUBLISHED_NAME)} is damaged: restore it") from None

    def fetch(self) -> None:
        """Make `local` what the run at the URL resumes from; does nothing for a local run.

        Raises:
            WorkError: when the work failed.
        """
        if not self.remote:
            return
        there = self.published() or {"checkpoint": None, "files": {}, "service_sent": None}
        os.makedirs(self.local, exist_ok=True)
        for name in set(os.listdir(self.local)) - set(there["files"]):
            path = os.path.join(self.local, name)
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        for name, info in there["files"].items():
            self._fetch(name, FileInfo(**info))
        if there["checkpoint"]:
            os.symlink(there["checkpoint"], os.path.join(self.local, LATEST_NAME))
            hashes.write(self.local, {there["checkpoint"]: FileInfo(**there["files"][there["checkpoint"]])})
        if there["service_sent"]:
            storage.write_atomic(os.path.join(self.local, SENT_NAME), there["service_sent"].encode())

    def _fetch(self, name: str, info: FileInfo) -> None:
        """Make the first `info.bytes` bytes of the file at the URL the local file, unless it holds them already."""
        source, target = storage.join(self.path, name), os.path.join(self.local, os.path.basename(name))

        def download() -> None:
            storage.copy_file(source, target)
            if not _cut(target, info):
                raise ValueError(f"what arrived does not have the xxh64 {info.xxh64}")

        if not (os.path.exists(target) and _cut(target, info)):
            try:
                patiently(download, f"download {source}", ATTEMPTS, missing_too=True)
            except FileNotFoundError:
                raise WorkError(f"{source} is gone, which {PUBLISHED_NAME} names: restore it") from None
        self._sent[name] = (_signature(target), info)

    def publish(self) -> None:
        """Copy to the URL what is new in `local`: models, then what a run resumes from, then how it ended.

        Raises:
            WorkError: when the store does not take it: what was published before still holds.
        """
        if not self.remote:
            return
        self.before_publishing()
        for folder in (*MODEL_FOLDERS, *self._snapshots()):
            self._publish_model(folder)
        sent = _text(os.path.join(self.local, SENT_NAME))  # read before the journal that it counts the bytes of
        files = {name: self._grown(name).model_dump() for name in (JOURNAL_NAME, METRICS_NAME) if self._has(name)}
        newest = self.newest()
        if newest is not None:
            files[newest] = self._upload(newest).model_dump()
            there = {name: info for name, (_, info) in self._sent.items() if name.startswith("ba")}
            hashes.write(self.path, there)  # for whoever names one of them as load_path
        state = {"checkpoint": newest, "files": files, "service_sent": sent}
        storage.write_atomic(storage.join(self.path, PUBLISHED_NAME), (json.dumps(state, indent=2) + "\n").encode())
        for name in (RECEIPT_NAME, RESULT_NAME):
            if self._has(name):
                self._upload(name)
        self._remove_old()

    def _snapshots(self) -> list[str]:
        folder = os.path.join(self.local, SNAPSHOTS)
        return [f"{SNAPSHOTS}/{name}" for name in sorted(os.listdir(folder))] if os.path.isdir(folder) else []

    def _has(self, name: str) -> bool:
        return os.path.exists(os.path.join(self.local, name))

    def _publish_model(self, folder: str) -> None:
        """Copy a model; while its weights are replaced, there is no config.json, and so no model."""
        names = ("model.safetensors", "config.json", TOKENIZER_NAME, hashes.HASHES_NAME)
        weights, config, tokenizer, sums = (f"{folder}/{name}" for name in names)
        if not self._has(config) or not (self._changed(weights) or self._changed(config)):
            return
        storage.remove(storage.join(self.path, config))
        for name in filter(self._has, (weights, tokenizer, sums, config)):
            self._upload(name)

    def _changed(self, name: str) -> bool:
        return self._sent.get(name, (None,))[0] != _signature(os.path.join(self.local, name))

    def _upload(self, name: str) -> FileInfo:
        """Copy a file to the URL, unless that was done and it is as it was; return its size and hash."""
        path = os.path.join(self.local, name)
        if self._changed(name):
            signature = _signature(path)
            info = FileInfo.at(path)
            storage.upload(path, storage.join(self.path, name))
            self._sent[name] = (signature, info)
        return self._sent[name][1]

    def _grown(self, name: str) -> FileInfo:
        """Copy a file that another thread may be adding to, as it is now; return size and hash of what was copied."""
        with open(os.path.join(self.local, name), "rb") as f:
            data = f.read()
        storage.write_atomic(storage.join(self.path, name), data)
        return FileInfo.of(data)

    def _remove_old(self) -> None:
        """Remove checkpoints at the URL that this process put there and Composer has removed since."""
        for name in [name for name in self._sent if name.startswith("ba") and not self._has(name)]:
            with contextlib.suppress(WorkError):
                storage.remove(storage.join(self.path, name))
            del self._sent[name]


def step_of_checkpoint(name: str) -> int:
    """Return the steps that a checkpoint has taken, by its name; 0 for other names."""
    match = re.match(r"ba(\d+)-rank", name)
    return int(match[1]) if match else 0


def _signature(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as f:
            return f.read()
    except FileNotFoundError:
        return None


def _cut(path: str, info: FileInfo) -> bool:
    """Cut the file to its first `info.bytes` bytes if they have the hash; return whether they have."""
    with open(path, "rb") as f:
        begun = stream_hash(f, info.bytes)
    if (begun.bytes, begun.hexdigest()) != (info.bytes, info.xxh64):
        return False
    if os.path.getsize(path) > info.bytes:
        os.truncate(path, info.bytes)
    return True
