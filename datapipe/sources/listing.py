"""Which files a source has. What lies in its folder and is not read is listed too, with the reason."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import fsspec

from ...common import storage
from ...common.errors import RequestError
from ...common.remote.patience import ATTEMPTS, patiently
from ...common.unpack import named_compression, refused_name, without_compression
from ..config import Source


@dataclass(frozen=True)
class InputFile:
    """One file to read, or a part of one.

    Attributes:
        path: relative to its listing's root.
        name: as it appears in ids and rejects.
        size: in bytes.
        start: where the part begins, for files that are divided (in bytes; in documents for Megatron-LM's).
        stamp: what `storage.stamp` said of it before the build began; empty: it is not known.
        whole: the size of the whole file, where this is a part of one.
    """

    path: str
    name: str
    size: int
    start: int = 0
    stamp: str = ""
    whole: int = 0

    @property
    def known_size(self) -> int | None:
        """The size of the whole file; None where its server does not say it."""
        return self.whole or self.size or None


@dataclass(frozen=True)
class Listing:
    """The files of a source below one root (path or URL), in order of name.

    Attributes:
        left_out: names of other files and folders there, each with the reason why it is not read.
        refused: names of files that should be read and cannot be, as their names show, each with the reason.
        notes: lines for the user: what was decided of them.
    """

    source: int
    root: str
    files: list[InputFile]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def shown(self, show: Callable[[str], str]) -> "Listing":
        """Return the same with names as they may be shown, which are in ids and in the pool's tables."""
        return replace(
            self,
            files=[replace(file, name=show(file.name)) for file in self.files],
            left_out=[(show(name), why) for name, why in self.left_out],
            refused=[(show(name), why) for name, why in self.refused],
        )


HIDDEN, BOOKKEEPING, DOCUMENTATION = "hidden", "bookkeeping of the program that wrote the data", "documentation"
OTHER_FORMAT, UNKNOWN, NO_FILE, EMPTY = "of another format", "of unknown kind", "a pipe or a device", "empty"
FOLDER = "a folder, of which the pattern names no file"
NOT_READ = (HIDDEN, BOOKKEEPING, DOCUMENTATION, OTHER_FORMAT, UNKNOWN, NO_FILE, EMPTY, FOLDER)
"""Reasons why files are not read that mean no loss."""

_ARCHIVES = ("zip", "tar", "libarchive", "jar")
"""Protocols of archives, `zip://*.jsonl::a.zip`: a root in one cannot be opened again by the tasks."""

_LEFT_BEHIND = re.compile(
    r"_SUCCESS|_temporary|_(common_)?metadata|_(committed|started)_\d+|_delta_log|_spark_metadata"
)
"""Names of what Spark and its like leave beside the data."""

_CHECKSUMS = (".crc", ".md5", ".sha1", ".sha256", ".sha512", ".asc")
_DOCUMENTATION = (".md", ".rst", ".html", ".htm", ".pdf", ".py", ".ipynb", ".yaml", ".yml", ".png", ".jpg", ".svg")
_DOCUMENTS = re.compile(r"(README|LICEN[CS]E|COPYING|NOTICE)(\.txt)?|CITATION.cff")
_DESCRIPTIONS = re.compile(r"dataset_(infos?|dict)\.json")
_INDICES, _INDEXED = ("state.json", "index.json"), (".arrow", ".mds")
"""Names of files that list the data beside them, where that has such endings."""

_JSON = (".jsonl", ".json", ".ndjson")
_TABLES = (".csv", ".tsv", ".arrow", ".feather", ".orc", ".avro", ".xlsx", ".npy", ".safetensors", ".idx", ".mds")
_OTHER_FORMATS = {"jsonl": (*_TABLES, ".parquet"), "parquet": (*_TABLES, *_JSON, ".txt"), "auto": _TABLES}


def _left_out(name: str, format: str) -> str | None:
    """Return why a file in a source's folder is not read, None when it is. Only names are looked at, and only
    those that no program gives to data of this format."""
    parts = name.rstrip("/").split("/")
    if any(part.startswith(".") for part in parts):
        return HIDDEN
    if any(_LEFT_BEHIND.fullmatch(part) for part in parts) or name.endswith(_CHECKSUMS):
        return BOOKKEEPING
    last = without_compression(parts[-1].lower())
    if format in _OTHER_FORMATS and _DESCRIPTIONS.fullmatch(parts[-1]):
        return DOCUMENTATION
    if format in ("jsonl", "parquet") and (last.endswith(_DOCUMENTATION) or _DOCUMENTS.fullmatch(parts[-1])):
        return DOCUMENTATION
    return OTHER_FORMAT if last.endswith(_OTHER_FORMATS.get(format, ())) else None


def _table(name: str, format: str) -> str | None:
    """Return why a file that is named itself is not read: only where its format is to be seen from its name."""
    return OTHER_FORMAT if format == "auto" and without_compression(name.lower()).endswith(_TABLES) else None


Found = tuple[int, str]
"""A file's size, and the version that its store says."""


def list_files(number: int, source: Source) -> Listing:
    """Return the files at a source's path.

    Raises:
        RequestError: when there is none.
    """
    assert source.path is not None
    path = os.path.expanduser(source.path)
    unread: dict[str, str] = {}
    try:
        if os.path.exists(path):  # as it is written, whatever `[`, `::` or `#` would mean in a pattern or a URL
            base, found = _local_files(os.path.abspath(path), source, unread)
            fs = fsspec.filesystem("file")
        else:
            if storage.is_url(path):
                _check_protocol(path, source)
            fs, path = fsspec.core.url_to_fs(path)
            look = _matches if "file" in (fs.protocol, *fs.protocol) else _patient_matches
            base, found = look(fs, path, source, unread)
    except (ImportError, ValueError) as error:
        raise RequestError(f"source '{source.name}': cannot open {source.path}: {error}") from None
    if not found and not unread:
        raise RequestError(f"source '{source.name}': {source.path} does not exist or holds no file")
    itself = len(found) == 1 and next(iter(found)) in (path, os.path.abspath(path))  # a file that is named is read
    files, left_out, refused = [], dict(unread), {}
    names = {p: p.removeprefix(base).lstrip("/") for p in found}
    indexed = {os.path.dirname(name) for name in names.values() if without_compression(name).endswith(_INDEXED)}
    for p, (size, stamp) in found.items():
        name = names[p]
        why = _table(name, source.format) if itself else _left_out(name, source.format)
        if why is None and os.path.basename(name) in _INDICES and os.path.dirname(name) in indexed and not itself:
            why = DOCUMENTATION if source.format in _OTHER_FORMATS else None
        if why is None and not size and source.format == "jsonl" and not named_compression(name):
            why = EMPTY
        if why is not None:
            left_out[name] = why
        elif (why := _refused(name, source)) is not None:
            refused[name] = why
        else:
            files.append(InputFile(name, name, size, stamp=stamp))
    others, bad = (sorted((_printable(name), why) for name, why in some.items()) for some in (left_out, refused))
    return Listing(number, str(fs.unstrip_protocol(base)), sorted(files, key=lambda f: f.name), others, bad)


def _refused(name: str, source: Source) -> str | None:
    """Return why a file that should be read cannot be, as its name shows."""
    if name != _printable(name):
        if sys.getfilesystemencoding() != "utf-8":
            return "has a name that this locale cannot write: set LC_ALL=C.UTF-8"
        return "has a name that is not UTF-8: rename it"
    return None if source.tokenized else refused_name(name)


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _check_protocol(path: str, source: Source) -> None:
    """Raise RequestError for a URL that cannot be opened here."""
    protocol = path.partition("://")[0].rpartition("::")[2]
    if protocol in _ARCHIVES:
        raise RequestError(f"source '{source.name}': {source.path}: archives are not opened here: unpack it")
    storage.filesystem(protocol)


def _local_files(path: str, source: Source, unread: dict[str, str]) -> tuple[str, dict[str, Found]]:
    """Return the folder of a local file or folder, and each file in it; links are followed. What is hidden is not
    looked at, but added to `unread`."""
    if os.path.isfile(path):
        return os.path.dirname(path), {path: _local(path, source)}
    found: dict[str, Found] = {}
    for folder, folders, names in os.walk(path, onerror=_cannot_list, followlinks=True):
        above = {os.path.realpath(folder)}
        above |= {os.path.realpath(folder[:i]) for i, c in enumerate(folder) if c == "/" and i >= len(path)}
        inside = "" if folder == path else f"{os.path.relpath(folder, path)}/"
        shut = {name for name in folders if name.startswith(".") or _LEFT_BEHIND.fullmatch(name)}
        unread |= {f"{inside}{name}/": HIDDEN if name.startswith(".") else BOOKKEEPING for name in shut}
        folders[:] = [name for name in folders if name not in shut]
        for name in folders:
            if os.path.realpath(os.path.join(folder, name)) in above:
                raise RequestError(f"source '{source.name}': {folder}/{name} links to a folder above it: remove it")
        for name in names:
            whole = os.path.join(folder, name)
            if name.startswith("."):
                unread[inside + name] = HIDDEN
            elif os.path.exists(whole) and not os.path.isfile(whole):
                unread[inside + name] = NO_FILE
            else:
                found[whole] = _local(whole, source)
    return path, found


def _cannot_list(error: OSError) -> None:
    raise RequestError(f"cannot look into {error.filename}: {error.strerror}")


def _local(path: str, source: Source) -> Found:
    try:
        return os.path.getsize(path), ""
    except FileNotFoundError:
        raise RequestError(
            f"source '{source.name}': {path} is a link to nothing: restore its file or remove it"
        ) from None


def _patient_matches(fs: Any, path: str, source: Source, unread: dict[str, str]) -> tuple[str, dict[str, Found]]:
    """Return what `_matches` does; a store that names no file is asked again."""

    def look() -> tuple[str, dict[str, Found]]:
        base, found = _matches(fs, path, source, unread)
        if not found:
            raise FileNotFoundError(path)
        return base, found

    try:
        return patiently(look, f"list {source.path}", ATTEMPTS, missing_too=True)
    except FileNotFoundError:
        return path, {}


def _matches(fs: Any, path: str, source: Source, unread: dict[str, str]) -> tuple[str, dict[str, Found]]:
    """Return what a path or pattern in a file system begins with, and each file that it names. Folders that it names,
    but no file in them, are added to `unread`."""
    base, pattern = _split_glob(fs, path)
    try:
        if pattern:
            infos = fs.glob(f"{_escaped(base)}/{pattern}", detail=True)
        elif fs.isfile(path):
            base, infos = path.rpartition("/")[0], {path: fs.info(path)}
        else:
            infos = fs.find(path, detail=True)
    except FileNotFoundError:
        infos = {}
    local = "file" in (fs.protocol, *fs.protocol)
    folders = [p for p, i in infos.items() if pattern and (os.path.isdir(p) if local else i["type"] == "directory")]
    entered = {p.rpartition("/")[0] for p in infos}
    unread |= {f"{p.removeprefix(base).strip('/')}/": FOLDER for p in folders if p.rstrip("/") not in entered}
    if local:
        return base, {p: _local(p, source) for p in infos if not os.path.isdir(p)}
    objects = {p: info for p, info in infos.items() if info["type"] == "file"}
    unsized = [p for p, info in objects.items() if info["size"] is None]  # a web server's list of links
    objects |= {p: fs.info(p) for p in unsized}
    return base, {p: (int(info["size"] or 0), storage.version(info)) for p, info in objects.items()}


def matching(fs: Any, path: str) -> list[str]:
    """Return the files that a pattern names, sorted; none where it has no wildcard."""
    base, pattern = _split_glob(fs, path)
    prefix = f"{_escaped(base)}/" if base or path.startswith("/") else ""
    return sorted(fs.glob(prefix + pattern)) if pattern else []


def _split_glob(fs: Any, path: str) -> tuple[str, str]:
    """Split `a/b/*.gz` into (`a/b`, `*.gz`); no pattern where there is no wildcard. A folder that is there is no
    pattern, whatever its name."""
    parts = path.split("/")
    for i, part in enumerate(parts):
        if any(c in part for c in "*?[") and not fs.isdir("/".join(parts[: i + 1])):
            return "/".join(parts[:i]), "/".join(parts[i:])
    return path.rstrip("/"), ""


def _escaped(path: str) -> str:
    """Return a pattern that matches `path` alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)
