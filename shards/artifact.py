"""Opening an artifact: its manifest and index read, held against each other, its shards located."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..common import storage
from ..common.errors import EpochalError, RequestError, WorkError
from ..common.json_text import parse_json
from ..common.problems import did_you_mean
from ..common.publish import MANIFEST_NAME, FileInfo
from .manifest import ExportManifest, Manifest, parse_manifest
from .mds import SHARD_NAME, shard_config

INDEX_NAME = "index.json"
HUB_OWN = frozenset({".gitattributes", "README.md"})
"""Files that the Hugging Face hub, or whoever made a data set there, puts into it."""

VALUES_OF_A_SHARD = 40
"""In an index.json, at most: an index of more shards than its manifest has is refused before it is parsed."""


@dataclass(frozen=True)
class Shard:
    """One entry of an artifact's index.

    Attributes:
        basename: as the index says it, relative to the artifact's folder.
        path: the file itself, path or URL.
        samples: leading samples that belong to the artifact.
        bytes: of the whole file.
        xxh64: of the whole file.
    """

    basename: str
    path: str
    samples: int
    bytes: int
    xxh64: str


@dataclass(frozen=True)
class Artifact:
    """A pool or a subset at `root` (path or URL) with its shards in order."""

    root: str
    manifest: Manifest
    shards: tuple[Shard, ...]


def read_manifest(root: str) -> Manifest:
    """Return the manifest of the pool or subset at `root`.

    Raises:
        RequestError: when there is none.
    """
    manifest = read_any_manifest(root)
    if isinstance(manifest, ExportManifest):
        raise RequestError(
            f"{root} is an export ({manifest.layout}), not a pool or subset: name what it was made from, "
            f"{manifest.parent.name}, or read it as a source of a build"
        )
    return manifest


def read_export(root: str) -> ExportManifest:
    """Return the manifest of the export at `root`.

    Raises:
        RequestError: when there is none.
    """
    manifest = read_any_manifest(root)
    if not isinstance(manifest, ExportManifest):
        raise RequestError(f"{root} is a {manifest.kind}, not an export")
    return manifest


def read_any_manifest(root: str) -> Manifest | ExportManifest:
    """Return the manifest at `root`, whatever it is of.

    Raises:
        RequestError: when there is none.
    """
    where = storage.join(root, MANIFEST_NAME)
    try:
        data = storage.read_bytes(where, lambda data: manifest_problem(data, where))
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"{root} {_why_none(root)}") from None
    return _parsed(data, where)


def _parsed(data: bytes, where: str) -> Manifest | ExportManifest:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise WorkError(f"{where} is damaged: it is not text any more") from None
    return parse_manifest(text, where)


def _why_none(root: str) -> str:
    """Return what is wrong with a path at which there is no artifact, and what may have been meant."""
    local = storage.local_path(root)
    if not storage.exists(root):
        folder, name = os.path.split(local.rstrip("/"))
        near = "" if storage.is_url(root) else did_you_mean(name, subfolders(folder or "."))
        return f"does not exist{near}"
    below = [] if storage.is_url(root) else list(itertools.islice(artifacts_below(local), 4))
    if below:
        more = ", ..." if below[3:] else ""
        return f"is a folder of artifacts, not one itself: name one of them ({', '.join(below[:3])}{more})"
    return "has no manifest.json: it is no artifact (or an unfinished one)"


def artifacts_below(folder: str, depth: int = 3) -> Iterator[str]:
    """Iterate the paths of artifacts in the local `folder` and folders below it, to a depth, in order; hidden folders
    and what lies inside an artifact are left out."""
    for name in subfolders(folder):
        path = os.path.join(folder, name)
        if os.path.isfile(os.path.join(path, MANIFEST_NAME)) and is_artifact(path):
            yield path
        elif depth > 1:
            yield from artifacts_below(path, depth - 1)


def subfolders(folder: str) -> list[str]:
    """Return the names of the folders in a local folder that are not hidden, in order; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def manifest_problem(data: bytes, where: str) -> str | None:
    """Return what is wrong with the manifest that a store sent, if anything."""
    try:
        _parsed(data, where)
    except EpochalError as error:
        return str(error)
    return None


def is_artifact(root: str) -> bool:
    """Return whether a manifest of ours lies at `root`, or one so damaged that nothing can be told; files of other
    programs have that name too."""
    where = storage.join(root, MANIFEST_NAME)
    if not storage.exists(where):
        return False
    try:
        data = storage.read_bytes(where)
    except FileNotFoundError:
        raise WorkError(f"{where} is listed where it lies, but not sent: restore it") from None
    try:
        body = parse_json(data, where)
    except WorkError:
        return True
    return isinstance(body, dict) and body.get("format") == "epochal"


def open_artifact(root: str) -> Artifact:
    """Return the artifact at `root`, manifest and index checked against each other; no shard is opened.

    A shard's file must be named `shard.NNNNN.mds` and lie in the artifact's own folder or in that of its parent pool,
    whose manifest must be there and have the fingerprint that the subset names.

    Raises:
        RequestError: for a wrong request.
        WorkError: when the work failed.
    """
    root = storage.absolute(root)
    manifest = read_manifest(root)
    if manifest.layout != "mds":
        raise RequestError(f"{root} holds WebDataset files, not MDS shards: carve it again without --format wds")
    entries, whole = _read_index(root, manifest)
    shards = tuple(_locate(root, manifest, entry) for entry in entries)
    if not manifest.materialized:
        _check_parent(root, manifest)
    if len(shards) != manifest.shards or sum(s.samples for s in shards) != manifest.samples:
        raise WorkError(
            f"{root}: index.json and manifest.json disagree about shards or samples; restore or carve again"
        )
    if not whole:
        raise WorkError(f"{storage.join(root, INDEX_NAME)} is damaged: its hash is not the manifest's; restore it")
    return Artifact(root, manifest, shards)


def _read_index(root: str, manifest: Manifest) -> tuple[list[dict[str, Any]], bool]:
    """Return the entries of index.json, and whether it is what the manifest says."""
    where = storage.join(root, INDEX_NAME)
    expected, listed = shard_config(manifest.seq_len, manifest.dtype), manifest.files.get(INDEX_NAME)

    def other(data: bytes) -> str | None:
        return None if listed in (None, FileInfo.of(data)) else "its hash is not the manifest's"

    try:
        data = storage.read_bytes(where, other)
        entries = parse_json(data, where, VALUES_OF_A_SHARD * (manifest.shards + 1))["shards"]
        if any({k: entry[k] for k in expected} != expected for entry in entries):
            raise WorkError(f"{where} is damaged: its shards are not {manifest.seq_len} x {manifest.dtype} samples")
    except FileNotFoundError:
        raise WorkError(f"{where} is missing: restore it or build again") from None
    except (KeyError, TypeError):
        raise WorkError(f"{where} is damaged: restore it or build again") from None
    return entries, other(data) is None


def _locate(root: str, manifest: Manifest, entry: dict[str, Any]) -> Shard:
    try:
        raw = entry["raw_data"]
        basename, size, file_hash = str(raw["basename"]), int(raw["bytes"]), str(raw["hashes"]["xxh64"])
        samples = int(entry["samples"])
    except (KeyError, TypeError, ValueError):
        raise WorkError(f"{root}/index.json is damaged: restore it or build again") from None
    folder, _, name = basename.rpartition("/")
    known = {""} | ({manifest.parent.path} if manifest.parent and not manifest.materialized else set())
    if not SHARD_NAME.fullmatch(name) or folder not in known or samples < 1:
        raise RequestError(f"{root}/index.json names '{basename}', which is no shard of this artifact: refused")
    return Shard(basename, storage.join(root, basename), samples, size, file_hash)


def may_ask(place: str, root: str) -> bool:
    """Return whether the artifact at `place` may be read because the one at `root` names it: in local folders, in
    object stores, and where `root` itself lies. A manifest of others must not send requests to any server."""
    if not storage.is_url(place):
        return True
    protocol = place.partition("://")[0]
    return protocol in storage.PACKAGES or place.split("/")[:3] == root.split("/")[:3]


def _check_parent(root: str, manifest: Manifest) -> None:
    """Raise RequestError when the pool that a view's shards lie in is gone or is another one."""
    parent = manifest.parent
    assert parent is not None, "only views of a pool are not materialized"
    pool = storage.join(root, parent.path)
    if not may_ask(pool, root):
        raise RequestError(f"{root} says that its pool lies at {pool}: refused, no server is asked on a file's word")
    try:
        found = read_manifest(pool).fingerprint
    except RequestError as error:
        raise RequestError(
            f"{root} refers to its pool '{parent.name}', and {error}: move the pool back there, or carve again from "
            "where it is (with --materialize a subset needs no pool)"
        ) from None
    if found != parent.fingerprint:
        raise RequestError(
            f"{pool} is not the pool that {root} was carved from (fingerprint {found}, not {parent.fingerprint}): "
            "rebuild that pool or carve again"
        )
