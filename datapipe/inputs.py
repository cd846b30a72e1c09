"""What the files of a build hold, by content: a file that was edited in place is another input, whatever its size; one
that was only copied or touched is not.

A local file is read once for its digest. The digest is remembered beside the pool together with the file's size, times
and inode, and taken from there as long as these are the same. An object in a store has a version that the store says.
Where a source has a limit, so that most of its files are never read, size and time of change stand for the content;
not so in our own artifacts and exports, whose files are held against the hashes beside them.
"""

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ..common import storage
from ..common.errors import WorkError
from ..common.json_text import strict_json
from ..common.publish import FileInfo
from ..common.units import format_bytes
from ..shards.artifact import read_any_manifest
from ..shards.formats import megatron
from .config import Build, Source
from .sources.listing import Listing
from .sources.tokenizers import artifact_folder
from .text.evaluation_items import item_files

SETTLED_NS = 2_000_000_000
"""Only the digest of a file that is older is remembered: a change within one tick of the clock would not show."""

ANNOUNCED = 8 << 30
"""Reading this many bytes for their digests takes long enough to be announced."""

Memory = dict[str, list[str]]
"""By path: what `_state` said of a file, and the digest of its content then."""


@dataclass(frozen=True)
class Stock:
    """What a build begins with.

    Attributes:
        listings: with the stamp of each file, so that readers notice when it changes.
        contents: what each file holds, by path.
        memory: what is to be remembered for the next time.
    """

    listings: list[Listing]
    contents: dict[str, str]
    memory: Memory


def take_stock(config: Build, listings: list[Listing], memory_path: str, say: Callable[[str], object]) -> Stock:
    """Look at the files of a build, and read those whose content is not known.

    Args:
        memory_path: where digests may have been remembered.

    Raises:
        WorkError: when a file is being changed.
    """
    stamped = [_stamped(item, config.sources[item.source]) for item in listings]
    versions: dict[str, str | None] = {}
    for item in stamped:
        versions |= _versions(item, config.sources[item.source])
    if config.decontaminate is not None:
        versions |= {storage.absolute(path): None for path in item_files(config.decontaminate.files)}
    versions |= {storage.absolute(path): None for path in config.exclude}
    unknown = [path for path, version in versions.items() if version is None]
    remembered = recall(memory_path)  # it has paths as they may be shown
    known = {path: remembered[config.public(path)] for path in unknown if config.public(path) in remembered}
    listed = [_listed(source) for source in config.sources]
    sizes = {storage.absolute(storage.join(i.root, f.path)): f.known_size for i in stamped for f in i.files}
    memory = _digests(unknown, known, {path: info for files in listed for path, info in files.items()}, sizes, say)
    contents = {path: memory[path][1] if version is None else version for path, version in versions.items()}
    for source, files in zip(config.sources, listed, strict=True):
        _check_hashes(source, files, {path: memory[path][1] for path in unknown})
    return Stock(stamped, contents, {config.public(path): entry for path, entry in memory.items() if entry[0]})


def _listed(source: Source) -> dict[str, FileInfo]:
    """Return what the manifest of one of our artifacts or exports says of its files, by path."""
    folder = artifact_folder(source) if source.tokenized is not None else None
    files = read_any_manifest(folder).files if folder is not None else {}
    return {storage.absolute(storage.join(str(folder), name)): info for name, info in files.items()}


def _check_hashes(source: Source, listed: dict[str, FileInfo], digests: dict[str, str]) -> None:
    """Raise WorkError when a file of one of our artifacts or exports is not what the manifest beside it says: most
    formats of ids do not show a flipped bit."""
    for path, info in listed.items():
        if digests.get(path, f"{info.bytes} {info.xxh64}") != f"{info.bytes} {info.xxh64}":
            raise WorkError(
                f"source '{source.name}': {path} is damaged: it is not what its manifest says; fetch it again"
            )


def recall(path: str) -> Memory:
    """Return what an earlier build remembered at `path`, nothing when there was none."""
    try:
        return dict(strict_json(storage.read_bytes(path, may_lack=True), most_values=1 << 30))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def remember(path: str, memory: Memory) -> None:
    """Remember digests at `path`."""
    if memory and memory != recall(path):
        storage.write_atomic(path, json.dumps(memory, sort_keys=True).encode())


def _stamped(item: Listing, source: Source) -> Listing:
    if source.format == "hub" or storage.is_url(item.root):
        return item
    paths = (storage.join(item.root, file.path) for file in item.files)
    try:
        stamps = ["" if storage.is_url(path) else storage.stamp(path) for path in paths]
    except FileNotFoundError as error:
        raise WorkError(f"source '{source.name}': {error.filename} is missing: restore it") from None
    return replace(item, files=[replace(f, stamp=s or f.stamp) for f, s in zip(item.files, stamps, strict=True)])


def _versions(item: Listing, source: Source) -> dict[str, str | None]:
    """Return what stands for the content of each file, by path; None where it has to be read for that."""
    found: dict[str, str | None] = {}
    limited = source.limit is not None and (source.tokenized is None or artifact_folder(source) is None)
    for file in item.files if source.format != "hub" else ():
        path = storage.absolute(storage.join(item.root, file.path))
        known = limited or (storage.is_url(path) and file.stamp and not file.whole)
        found[path] = file.stamp if known else None
        if source.format == "megatron":
            found[megatron.index_path(path)] = None
    return found


def _digests(
    paths: list[str],
    memory: Memory,
    listed: dict[str, FileInfo],
    sizes: dict[str, int | None],
    say: Callable[[str], object],
) -> Memory:
    """Return state and digest of each file, its state empty where that is not to be remembered."""
    known = {path: memory[path] for path in paths if path in memory and memory[path][0] == _state(path)}
    new = [path for path in paths if path not in known]
    size = sum(os.path.getsize(path) for path in new if not storage.is_url(path))
    if size > ANNOUNCED:
        say(f"reading {format_bytes(size)} in {len(new):,} files once, so that a later change in them is noticed")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return known | dict(zip(new, pool.map(_read, new, map(listed.get, new), map(sizes.get, new)), strict=True))


def _read(path: str, listed: FileInfo | None, known_size: int | None) -> list[str]:
    before = _state(path)
    size, digest = storage.file_digest(path, (listed.bytes, listed.xxh64) if listed else None, known_size)
    if _state(path) != before:
        raise WorkError(f"{path} was changed while it was read: run the same command again when it stays as it is")
    settled = before and time.time_ns() - os.stat(path).st_mtime_ns > SETTLED_NS
    return [before if settled else "", f"{size} {digest}"]


def _state(path: str) -> str:
    """Return what changes with a local file, however it is changed; empty for a URL."""
    if storage.is_url(path):
        return ""
    info = os.stat(path)
    return f"{info.st_size} {info.st_mtime_ns} {info.st_ctime_ns} {info.st_ino}"
