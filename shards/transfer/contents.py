"""What is sent: an artifact as it lies, or a view of a pool, made into a copy or into a view of that pool elsewhere.

Before a byte is sent the source is checked as far as its manifest and index go; the files are checked on their way.
"""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...common import storage
from ...common.errors import RequestError, WorkError, without_secrets
from ...common.hashing import digest
from ...common.json_text import parse_json
from ...common.publish import MANIFEST_NAME
from ..artifact import Artifact, manifest_problem, open_artifact, read_any_manifest, read_manifest
from ..carve import parent_path, relative_path
from ..loader.sample_reader import read_checked
from ..manifest import ExportManifest, Manifest, export_fingerprint, fingerprint, parse_manifest
from ..pieces import Piece
from ..verify import check_content


@dataclass(frozen=True)
class View:
    """A view of a pool.

    Attributes:
        pool: see above.
        pieces: the shards that it is made of, of the pool and of its own.
        tail: its own last shard, where its last sample is cut short.
        root: where it lies.
    """

    pool: Artifact
    pieces: tuple[Piece, ...]
    tail: bytes | None
    root: str


@dataclass(frozen=True)
class Contents:
    """What is to be at the target.

    Attributes:
        root: where it comes from, path or URL.
        manifest: as it will be; without its files for a view, whose files are made on the way.
        text: of manifest.json, as it lies at `root`; a view's is made.
        view: null for what is sent as it lies.
    """

    root: str
    manifest: Manifest | ExportManifest
    text: bytes
    view: View | None = None

    def request(self) -> str:
        """Return what tells an unfinished transfer of this from one of anything else."""
        return digest(list(form_of(self.manifest)))

    def bytes(self) -> int:
        """Return how many bytes are read at the source, manifest apart."""
        if self.view is None:
            return sum(info.bytes for info in self.manifest.files.values())
        m = self.manifest
        copied = isinstance(m, Manifest) and m.materialized
        return sum(piece.n_bytes for piece in self.view.pieces if copied or piece.shard is None)


def form_of(m: Manifest | ExportManifest) -> tuple[Any, ...]:
    """Return what two artifacts have in common that are the same one in the same form."""
    if isinstance(m, ExportManifest):
        return (m.kind, m.fingerprint, m.layout)
    refers = m.parent.path if m.parent and not m.materialized else None
    return (m.kind, m.fingerprint, m.layout, m.materialized, refers)


def contents_of(source: str, target: str, refer: str | None = None) -> Contents:
    """Return what is sent of the artifact at `source` (folder or URL) to `target`.

    Args:
        source: see above.
        target: where it will be; a view's manifest says from there where its pool is.
        refer: a view stays one, of the pool there; otherwise it gets the shards of its pool.

    Raises:
        RequestError: when there is no artifact, `refer` is no pool of it, or its manifest holds a secret.
        WorkError: when its manifest or index is damaged.
    """
    manifest, text = _read(source)
    if storage.is_url(target):
        _refuse_secrets(source, text)
    if isinstance(manifest, ExportManifest) or manifest.materialized:
        if refer is not None:
            raise RequestError(f"{source} is no view of a pool, so it refers to none: leave --refer away")
        _check(source, manifest)
        return Contents(source, manifest, text)
    return _of_view(source, manifest, target, refer)


def _read(source: str) -> tuple[Manifest | ExportManifest, bytes]:
    read_any_manifest(source)  # says in its own words what is wrong with a place that has none
    where = storage.join(source, MANIFEST_NAME)
    text = storage.read_bytes(where, lambda data: manifest_problem(data, where))
    return parse_manifest(text.decode(errors="replace"), where), text


def _check(source: str, m: Manifest | ExportManifest) -> None:
    """Raise WorkError when the manifest, and the index of MDS shards, contradict themselves."""
    expected = export_fingerprint(m) if isinstance(m, ExportManifest) else fingerprint(m)
    problems = [] if expected == m.fingerprint else ["its fingerprint is not that of the content it lists"]
    if isinstance(m, Manifest) and m.layout == "mds" and not problems:
        problems = list(check_content(open_artifact(source)))
    if problems:
        raise WorkError(f"{source} is damaged: {problems[0]}")


def _of_view(source: str, m: Manifest, target: str, refer: str | None) -> Contents:
    if m.parent is None:
        raise WorkError(f"{source} is damaged: its manifest names no pool for a view")
    artifact = open_artifact(source)
    problem = next(check_content(artifact), None)
    if problem or fingerprint(m) != m.fingerprint:
        raise WorkError(f"{source} is damaged: {problem or 'its fingerprint is not that of the content it lists'}")
    pool = open_artifact(storage.join(artifact.root, m.parent.path))
    path = parent_path(without_secrets(pool.root, {}), target) if refer is None else _referred(refer, m, target)
    parent = m.parent.model_copy(update={"path": path})
    manifest = m.model_copy(update={"materialized": refer is None, "parent": parent, "files": {}})
    return Contents(source, manifest, b"", _view(artifact, pool))


def _view(artifact: Artifact, pool: Artifact) -> View:
    """Return what the view `artifact` of a pool is made of."""
    shards, cut_short = list(artifact.shards), artifact.manifest.tail is not None
    tail = read_checked(shards.pop()) if cut_short else None
    pieces = tuple(Piece.of(shard, shard.samples, own="/" not in shard.basename) for shard in shards)
    return View(pool, pieces, tail, artifact.root)


def _referred(refer: str, m: Manifest, target: str) -> str:
    """Return how the view at `target` names the pool at `refer`, which must be its own."""
    assert m.parent is not None, "a view has a pool"
    if without_secrets(refer, {}) != refer:
        raise RequestError(
            f"a subset that refers to {refer} would hold its password: leave it out of the URL (fsspec takes it from "
            "the environment)"
        )
    if storage.is_url(target) and not storage.is_url(refer):
        raise RequestError(
            f"{target} cannot refer to a pool on this machine ({refer}): push the pool first, and name its URL"
        )
    there = read_manifest(refer)
    if there.fingerprint != m.parent.fingerprint:
        raise RequestError(
            f"{refer} is not the pool of this subset (fingerprint {there.fingerprint}, not {m.parent.fingerprint}): "
            f"name the one that '{m.parent.name}' was pushed to"
        )
    return refer.rstrip("/") if storage.is_url(refer) else relative_path(refer, target)


def _refuse_secrets(source: str, text: bytes) -> None:
    found = next(_secrets(parse_json(text, posixpath.join(source, MANIFEST_NAME)), ""), None)
    if found is not None:
        raise RequestError(
            f"the manifest of {source} holds a password or a signature in a URL ({found}), which would be published: "
            "make the artifact again, this version of epochal leaves such out"
        )


def _secrets(value: Any, key: str) -> Iterator[str]:
    """Yield the keys of texts that hold a secret, `a.b.0` for one that lies deeper."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in pairs:
            yield from _secrets(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str) and without_secrets(value, {}) != value:
        yield key
