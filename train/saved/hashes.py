"""`hashes.json`: the sizes and hashes of the files beside it, so that damage is noticed by whoever reads one of them.

It guards against damage, not against people: who can write the files can write it too. Needs neither Composer nor
torch.
"""

import json
import os
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from ...common import storage
from ...common.cli import say
from ...common.errors import WorkError
from ...common.hashing import digest
from ...common.json_text import strict_json
from ...common.publish import FileInfo

HASHES_NAME = "hashes.json"

Hashes = dict[str, FileInfo]


def to_json(files: Mapping[str, FileInfo]) -> bytes:
    """Return the text of hashes.json, which has a digest of its own."""
    body = {name: info.model_dump() for name, info in files.items()}
    return (json.dumps({"files": body, "digest": digest(body)}, indent=2) + "\n").encode()


def write(folder: str, files: Mapping[str, FileInfo]) -> None:
    """Write the hashes of files in `folder` (local or URL)."""
    storage.write_atomic(storage.join(folder, HASHES_NAME), to_json(files))


def read(folder: str) -> Hashes:
    """Return the hashes that lie in `folder` (local or URL), none where there is no hashes.json.

    Raises:
        WorkError: when it is damaged.
    """
    path = storage.join(folder, HASHES_NAME)
    try:
        data = storage.read_bytes(path, lambda d: "it is damaged" if _parsed(d) is None else None, may_lack=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = _parsed(data)
    if found is None:
        raise WorkError(f"{path} is damaged: restore it, or remove it to go without the hashes in it")
    return found


def _parsed(data: bytes) -> Hashes | None:
    """Return the hashes in a hashes.json, None where it is damaged."""
    try:
        body = strict_json(data)
        if digest(body["files"]) == body["digest"]:
            return {name: FileInfo.model_validate(info) for name, info in body["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError):
        pass
    return None


def wrong(folder: str, name: str) -> Callable[[bytes], str | None]:
    """Return what says whether bytes are not those of the file `name`, for `storage.read_bytes`."""

    def problem(data: bytes) -> str | None:
        expected = read(folder).get(name)
        return None if expected in (None, FileInfo.of(data)) else f"it is not what was saved, by {HASHES_NAME}"

    return problem


def check(folder: str, name: str, found: FileInfo, mend: str = "restore it") -> bool:
    """Return whether hashes.json in `folder` has the hash of its file `name`, and so vouches for it.

    Args:
        found: size and hash of the file as it was read.
        mend: says what to do about a file that is another.

    Raises:
        WorkError: when the file is another than the one that was saved.
    """
    for _ in range(2):  # a file that was replaced meanwhile has another hash now
        known = read(folder).get(name)
        if known is None or known == found:
            return known is not None
    path = storage.join(folder, name)
    raise WorkError(
        f"{path} is damaged: it is not what was saved, by its hash in {HASHES_NAME}: {mend} (or remove {HASHES_NAME} "
        "if you changed it yourself)"
    )


def say_unchecked(path: str) -> None:
    """Say on standard error that nothing vouches for the file at `path`."""
    say(f"{path}: no {HASHES_NAME} vouches for it, so damage may go unnoticed")


def add(folder: str, name: str) -> None:
    """Add the file `name` of a local folder to its hashes, or all files of the folder of that name; drop those of files
    that are gone."""
    path = os.path.join(folder, name)
    names = [name] if os.path.isfile(path) else [f"{name}/{inner}" for inner in sorted(os.listdir(path))]
    kept = {k: info for k, info in known(folder).items() if os.path.exists(os.path.join(folder, k))}
    write(folder, kept | {name: FileInfo.at(os.path.join(folder, name)) for name in names})


def drop(folder: str, name: str) -> None:
    """Drop the hash of the file `name` of a local folder, if there is one."""
    if name in (files := known(folder)):
        write(folder, {k: info for k, info in files.items() if k != name})


def known(folder: str) -> Hashes:
    """Return the hashes in `folder`; none when they are damaged, which whoever reads the files is told."""
    try:
        return read(folder)
    except WorkError:
        return {}
