"""The door through which checkpoints come to Composer: while it loads one, nothing that is saved is run.

Composer unpickles what it is given, and evaluates the text by which a checkpoint describes its algorithms. For as long
as it loads, what it calls for that (`torch.load`, the reading of a sharded checkpoint's index, the applying of
algorithms) is ours: values alone, each file held against its hash.
"""

import atexit
import contextlib
import io
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import IO, Any

import torch
import torch.distributed.checkpoint as sharded
import torch.distributed.checkpoint.filesystem as sharded_files
from composer import Trainer
from composer.callbacks import CheckpointSaver
from composer.core import State
from composer.utils import dist, is_tar
from composer.utils.compression import is_compressed_pt

from ...common import storage
from ...common.errors import EpochalError, RequestError, WorkError, one_line
from ...common.publish import FileInfo
from ...common.remote.patience import ATTEMPTS, patiently
from . import archive, hashes

_METADATA = "torch.distributed.checkpoint.metadata"
_INDEX_NAMES = {
    *((_METADATA, f"{kind}Metadata") for kind in ("", "TensorStorage", "ChunkStorage", "BytesStorage")),
    *((_METADATA, name) for name in ("TensorProperties", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    *(("torch", name) for name in ("Size", "float64", "float32", "float16", "bfloat16", "bool")),
    *(("torch", name) for name in ("int64", "int32", "int16", "int8", "uint8")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
}
"""What the index of a sharded checkpoint names: records of where its tensors lie."""


def make_trainer(load_path: str | None, save_folder: str | None, save_latest_filename: str, **settings: Any) -> Trainer:
    """Return Composer's trainer: what it loads comes in as data, what it saves has its hash beside it.

    Args:
        load_path: file or URL of a checkpoint; downloaded once. Not asked for by a run that resumes.
        settings: see Composer's Trainer.

    Raises:
        RequestError: for a checkpoint that holds code or is of another run.
        WorkError: for a damaged one.
    """
    save_folder = save_folder and _plain_folder(save_folder)
    latest = os.path.join(save_folder, save_latest_filename.replace("{rank}", "0")) if save_folder else ""
    if dist.all_gather_object(settings["autoresume"] and os.path.exists(latest))[0]:
        load_path = None
    with checkpoints_as_data(load_path) as path:
        trainer = Trainer(
            load_path=path, save_folder=save_folder, save_latest_filename=save_latest_filename, **settings
        )
    if trainer._checkpoint_saver is not None:
        _hash_what_is_saved(trainer._checkpoint_saver, latest)
    return trainer


def _plain_folder(folder: str) -> str:
    """Return a path of a local folder that Composer reads as it is. It takes paths for URLs and for patterns (`#`, `?`,
    `:` and braces in them), so a folder with an unusual name gets a link with a plain one, while this process lives."""
    path = os.path.abspath(folder)
    if re.fullmatch(r"[\w/.,=+ -]*\w", path):
        return path
    links = tempfile.mkdtemp(prefix="epochal-")
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    os.makedirs(path, exist_ok=True)
    os.symlink(path, os.path.join(links, "run"))
    return os.path.join(links, "run")


def _hash_what_is_saved(saver: CheckpointSaver, latest: str) -> None:
    """Have `saver` add the hash of each checkpoint that it has saved, which the link `latest` then leads to."""
    save = saver._save_checkpoint

    def save_and_hash(*arguments: Any) -> None:
        save(*arguments)
        if _is_first():
            hashes.add(os.path.dirname(latest), os.readlink(latest))

    saver._save_checkpoint = save_and_hash  # type: ignore[method-assign,assignment]


@contextlib.contextmanager
def checkpoints_as_data(load_path: str | None) -> Iterator[str | None]:
    """Have Composer take every checkpoint that it loads in the body as data; yield what to give it as `load_path`.

    Args:
        load_path: file or URL that the run asks for; downloaded once, to a folder that is gone afterwards.

    Raises:
        RequestError: from the body too, for a checkpoint that holds code.
        WorkError: from the body too, for a damaged one.
    """
    names: dict[str, str] = {}
    index = SimpleNamespace(load=_load_index, dump=pickle.dump)

    def load(file: Any, *_: Any, **__: Any) -> Any:
        if isinstance(file, str | os.PathLike):
            return _load_file(os.path.realpath(file), names)
        return archive.load(io.BytesIO(file.read()), "the sharded checkpoint")

    with (
        tempfile.TemporaryDirectory(prefix="epochal-") as folder,
        _replaced(torch, "load", load),
        _replaced(sharded_files, "pickle", index),
        _replaced(State, "_apply_required_algorithms", lambda *_, **__: None),
    ):
        try:
            yield _at_hand(load_path, folder, names) if load_path else None
        except sharded.CheckpointException as error:  # torch's, of all ranks; it says nothing in one line
            causes = [cause for cause, _ in error.failures.values()]
            ours = next((cause for cause in causes if isinstance(cause, EpochalError)), None)
            raise ours or WorkError(f"the sharded checkpoint cannot be read: {one_line(str(causes[0]))}") from error


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _load_file(path: str, names: dict[str, str]) -> Any:
    """Return what the file at `path` holds; `names` has where files came from, and where their hashes lie."""
    shown = names.get(path, path)
    folder, _, name = shown.rpartition("/")
    mend = "restore it, or remove it: its run goes on from the checkpoint before it"
    if not hashes.check(folder, name, FileInfo.at(path), mend) and _is_first():
        hashes.say_unchecked(shown)
    value = archive.load(path, shown)
    if not isinstance(value, dict) or not isinstance(value.get("state"), dict):
        raise RequestError(
            f"{shown} holds no state of a run: name a ba*-rank0.pt of its save_folder, or start with the weights of "
            "a saved model by init_from"
        )
    return value


def _is_first() -> bool:
    return dist.get_global_rank() == 0


class _IndexReader(pickle.Unpickler):
    """Reads the index of a sharded checkpoint, whose records are classes of torch's."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _INDEX_NAMES:
            raise pickle.UnpicklingError(f"holds code ({module}.{name})")
        return super().find_class(module, name)


def _load_index(file: IO[bytes]) -> Any:
    """Return the index of the sharded checkpoint in whose folder `file` lies; hold its files against their hashes."""
    path = os.path.realpath(file.name)
    folder, name = os.path.split(os.path.dirname(path))
    try:
        index = _IndexReader(io.BytesIO(file.read())).load()
        files = {info.relative_path for info in index.storage_data.values()}
    except pickle.UnpicklingError as error:
        raise RequestError(f"{path} {one_line(error)}: it was not loaded") from None
    except Exception as error:  # whatever a damaged pickle makes of torch's records
        raise WorkError(f"{path} is damaged: {one_line(error)}") from None
    outside = next((file for file in files if os.path.basename(str(file)) != file), None)
    if outside is not None:
        raise RequestError(f"{path} names {str(outside)[:100]!r}, which is no file beside it: it was not loaded")
    if _is_first():
        known = [
            hashes.check(folder, f"{name}/{part}", FileInfo.at(os.path.join(folder, name, part)))
            for part in sorted(os.listdir(os.path.join(folder, name)))
        ]
        if not all(known):
            hashes.say_unchecked(os.path.join(folder, name))
    return index


def _at_hand(load_path: str, folder: str, names: dict[str, str]) -> str:
    """Return a local path of a checkpoint that a run asks for, the same on all ranks of a machine."""
    path = load_path.replace("{rank}", "0")
    if not storage.is_url(path):
        path = os.path.abspath(storage.local_path(path))
        if not os.path.exists(path):
            raise RequestError(f"load_path {path}: there is no such file")
        link = os.path.join(folder, "checkpoint.pt")  # Composer takes a path for a pattern, braces in it for fields
        os.symlink(_plain_name(path), link)
        return link
    here, problem = None, None
    if dist.get_local_rank() == 0:
        try:
            here = _download(path, folder)
        except (RequestError, WorkError) as error:
            problem = error
    told = dist.all_gather_object((here, problem))
    failed = next((error for _, error in told if error), None)
    if failed:
        raise failed
    here = told[dist.get_global_rank() - dist.get_local_rank()][0]
    assert here is not None, "the first rank of this machine has it, or failed"
    names[os.path.realpath(here)] = path
    return here


def _plain_name(path: str) -> str:
    """Return `path`. Raises RequestError for a name by which Composer would unpack or follow the file unread."""
    if is_tar(path) or is_compressed_pt(path) or path.endswith(".symlink"):
        raise RequestError(f"load_path {path}: packed files are not loaded: name a .pt file as a save_folder holds it")
    return path


def _download(url: str, folder: str) -> str:
    """Copy a checkpoint to `folder`; return its path there."""
    target = os.path.join(folder, _plain_name(url).rpartition("/")[2])
    source, _, name = url.rpartition("/")

    arrived: list[bool] = []

    def fetch() -> None:
        arrived[:] = []
        storage.copy_file(url, target)
        arrived.append(True)
        if hashes.read(source).get(name) not in (None, FileInfo.at(target)):
            raise OSError(f"it is not what was saved, by {hashes.HASHES_NAME}")

    try:
        patiently(fetch, f"download {url}", ATTEMPTS, missing_too=True)
    except FileNotFoundError:
        raise RequestError(f"load_path {url}: there is no such file") from None
    except WorkError:
        if not arrived:
            raise  # else whoever loads it says that it is damaged
    return target
