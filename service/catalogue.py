"""The catalogue: artifacts under the root and registered ones, the names that point to them, and plans.

A name moves (every meaning it had is kept), a fingerprint never does.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy import Connection

from ..common import storage
from ..common.errors import EpochalError, RequestError, public, without_secrets
from ..common.hashing import canonical_json, xxh64
from ..common.publish import MANIFEST_NAME
from ..shards.artifact import manifest_problem
from ..shards.facts import facts_by_source
from ..shards.manifest import ExportManifest, Manifest, parse_manifest
from ..shards.order.base import Order
from .database import Place, after, insert, insert_all, now
from .errors import NotFoundError
from .models import Artifact, Lease, Location, NameEntry, PlanRow, PlanSubset, RunRow

FINGERPRINT = re.compile(r"[0-9a-f]{32}")
KINDS = ("pools", "subsets")
MOST_NAME = 500
MOST_PATH = 2000
"""Bytes of an artifact's path: PostgreSQL keeps no longer ones in an index."""

MOST_MANIFEST = 256 << 20
"""Bytes of a manifest: that of a million shards."""

UNKNOWN = ""
"""The pool of a subset that is not here."""


@dataclass(frozen=True)
class FoundArtifact:
    """An artifact as it lies at `path`.

    Attributes:
        xxh64: of its manifest file.
    """

    path: str
    manifest: Manifest
    xxh64: str


def read_artifact(path: str) -> FoundArtifact:
    """Return the artifact at `path` (folder or URL).

    Raises:
        RequestError: for a wrong request.
        WorkError: when the work failed.
    """
    path = path if storage.is_url(path) else os.path.realpath(storage.local_path(path))
    if without_secrets(path, {}) != path:
        raise RequestError(
            f"{path}: the catalogue shows where artifacts lie, so a URL with a password is not entered: leave it out, "
            "fsspec takes it from the service's environment"
        )
    where = storage.join(path, MANIFEST_NAME)
    if not _encodable(path) or len(path.encode()) > MOST_PATH:
        raise RequestError(f"{printable(path)}: a path of Unicode text and at most {MOST_PATH:,} bytes can be entered")
    if os.path.isfile(where) and os.path.getsize(where) > MOST_MANIFEST:
        raise RequestError(f"{where} is too large for a manifest: more than {MOST_MANIFEST >> 20} MB")
    try:
        if os.path.exists(where) and not os.path.isfile(where):  # a pipe would be waited for
            raise FileNotFoundError
        data = storage.read_bytes(where, lambda data: manifest_problem(data, where))
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(f"{path} holds no artifact: there is no {MANIFEST_NAME}") from None
    manifest = _checked(data, where)
    return FoundArtifact(path, manifest, xxh64(data))


def _checked(data: bytes, where: str) -> Manifest:
    """Return a manifest that can be entered and shown. Raises RequestError, WorkError."""
    try:
        manifest = parse_manifest(data.decode(errors="replace"), where)
        storable = is_storable(manifest.model_dump(mode="json"))
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError):  # no checksum can be made of it
        storable = False
    if not storable:
        raise RequestError(f"{where} is no manifest: it has numbers, text or nesting that no program of ours writes")
    if isinstance(manifest, ExportManifest):
        raise RequestError(f"{where} is of an export: register the subset that it was made from")
    for text in (manifest.name, manifest.tokenizer.name, manifest.tokenizer.fingerprint):
        if len(text) > MOST_NAME or "\0" in text:
            raise RequestError(f"{where}: a name of more than {MOST_NAME} characters cannot be entered")
    parent = manifest.parent.fingerprint if manifest.parent else manifest.fingerprint
    if not FINGERPRINT.fullmatch(manifest.fingerprint) or not FINGERPRINT.fullmatch(parent):
        raise RequestError(f"{where}: a fingerprint is 32 hexadecimal digits")
    return manifest


def is_storable(value: Any) -> bool:
    """Return whether every JSON reader and both databases take `value`: finite numbers, integers of 64 bits, Unicode
    text, no deep nesting."""
    try:
        orjson.dumps(value)
        canonical_json(value).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _encodable(text: str) -> bool:
    return text.isascii() or text.encode(errors="replace").decode() == text


def printable(text: str) -> str:
    """Return text that can be printed and sent: what cannot is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def folders(root: str, problems: dict[str, str]) -> Iterator[str]:
    """Yield the real paths of what may be artifacts under `root`; what a link leads out of it is left out.

    Args:
        problems: takes the folders that cannot be listed.
    """
    real = os.path.realpath(root)
    for kind in KINDS:
        parent = os.path.join(real, kind)
        try:
            names = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
        except OSError as error:
            problems[parent] = f"{parent} cannot be read: {error.strerror}"
            continue
        for name in names:
            path = os.path.realpath(os.path.join(parent, name))
            if not name.startswith(".") and inside(path, real) and os.path.isfile(os.path.join(path, MANIFEST_NAME)):
                yield path


def inside(path: str, root: str) -> bool:
    """Return whether the real path `path` lies in the real path `root`."""
    return os.path.commonpath([path, root]) == root


class Scanner:
    """Finds the artifacts under a root; a manifest is read again only when its file has changed."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.problems: dict[str, str] = {}
        self._known: dict[str, tuple[tuple[int, int], FoundArtifact]] = {}

    def scan(self) -> list[FoundArtifact]:
        """Return what is there now; folders that cannot be read are in `problems`, by path."""
        known: dict[str, tuple[tuple[int, int], FoundArtifact]] = {}
        problems: dict[str, str] = {}
        for path in folders(self.root, problems):
            try:
                status = os.stat(os.path.join(path, MANIFEST_NAME))
                stamp = status.st_mtime_ns, status.st_size
                before = self._known.get(path)
                known[path] = before if before and before[0] == stamp else (stamp, read_artifact(path))
            except (EpochalError, OSError) as error:
                problems[printable(path)] = printable(str(error))
        self._known, self.problems = known, problems
        return [found for _, found in known.values()]


def update(connection: Connection, found: list[FoundArtifact], root: str | None) -> None:
    """Enter what was found; with `root`, what was known under it and is no longer there is marked as gone."""
    at = now(connection)
    table = Location.__table__
    known = {row.path: row for row in connection.execute(sa.select(table))}
    for item in found:
        row = known.get(item.path)
        if row is None or row.manifest_xxh64 != item.xxh64 or row.gone is not None:
            _enter(connection, item, row is not None, at)
    if root is not None:
        real, there = os.path.realpath(root), {item.path for item in found}
        missing = [p for p, r in known.items() if r.gone is None and p not in there]
        lost = [p for p in missing if not storage.is_url(p) and inside(p, real) and not os.path.exists(p)]
        if lost:
            connection.execute(sa.update(Location).where(table.c.path.in_(lost)).values(gone=at))


def changed(connection: Connection, found: list[FoundArtifact], root: str) -> bool:
    """Return whether `update` would write anything: a look costs no transaction."""
    table = Location.__table__
    rows = connection.execute(sa.select(table.c.path, table.c.manifest_xxh64).where(table.c.gone.is_(None))).all()
    known, real = {row.path: row.manifest_xxh64 for row in rows}, os.path.realpath(root)
    gone = (p for p in known if not storage.is_url(p) and inside(p, real) and not os.path.exists(p))
    return any(known.get(item.path) != item.xxh64 for item in found) or any(gone)


def _enter(connection: Connection, item: FoundArtifact, known: bool, at: float) -> None:
    m = item.manifest
    insert(
        connection,
        Artifact,
        fingerprint=m.fingerprint,
        kind=m.kind,
        pool=m.stream[0],
        tokens=m.tokens,
        samples=m.samples,
        documents=m.documents,
        seq_len=m.seq_len,
        tokenizer=m.tokenizer.name,
        tokenizer_fingerprint=m.tokenizer.fingerprint,
        manifest=public(m.model_dump(mode="json"), {}),  # version 0.1.0 wrote passwords of URLs
        added=at,
    )
    values = {"fingerprint": m.fingerprint, "layout": m.layout, "manifest_xxh64": item.xxh64, "gone": None}
    if known:
        connection.execute(sa.update(Location).where(Location.path == item.path).values(**values))
    else:
        insert(connection, Location, path=item.path, added=at, **values)
    name_it(connection, m.kind, m.name, m.fingerprint)


def name_it(connection: Connection, kind: str, name: str, fingerprint: str) -> None:
    """Let `name` mean `fingerprint` from now on."""
    if meaning(connection, kind, name) != fingerprint:
        at = now(connection)
        connection.execute(sa.insert(NameEntry).values(kind=kind, name=name, fingerprint=fingerprint, since=at))


def meaning(connection: Connection, kind: str, name: str) -> str | None:
    """Return the fingerprint that `name` means now, if any."""
    t = NameEntry.__table__
    newest = sa.select(t.c.fingerprint).where(t.c.kind == kind, t.c.name == name).order_by(t.c.id.desc()).limit(1)
    return connection.execute(newest).scalar()


def resolve(connection: Connection, kind: str, text: str) -> str:
    """Return the fingerprint of the pool, subset, plan or run called `text` (a name or a fingerprint).

    The kind `artifact` takes a subset, or else a pool.

    Raises:
        NotFoundError: when nothing of that name is known.
    """
    if FINGERPRINT.fullmatch(text):
        table: Any = {"plan": PlanRow, "run": RunRow}.get(kind, Artifact).__table__
        wanted = sa.select(table.c.fingerprint).where(table.c.fingerprint == text)
        if kind in ("pool", "subset"):
            wanted = wanted.where(table.c.kind == kind)
        if connection.execute(wanted).scalar() is not None:
            return text
    if kind == "run":
        found = connection.execute(sa.select(Lease.run).where(Lease.name == text)).scalar()
    elif kind == "artifact":
        found = meaning(connection, "subset", text) or meaning(connection, "pool", text)
    else:
        found = meaning(connection, kind, text)
    if found is None:
        raise NotFoundError(f"there is no {kind} '{text}'")
    return found


_LIES = Location.layout == "mds", Location.gone.is_(None)


def locate(connection: Connection, fingerprint: str) -> str | None:
    """Return a path where the artifact lies as MDS shards, if any: the one known longest."""
    wanted = sa.select(Location.path).where(Location.fingerprint == fingerprint, *_LIES)
    return connection.execute(wanted.order_by(Location.added, Location.path).limit(1)).scalar()


# -- what is shown --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArtifactQuery:
    """What is looked for; None matches everything.

    Attributes:
        name: a part of it.
        fingerprint: its beginning.
        tokenizer: a part of it.
        after: only what comes after it in the list.
    """

    kind: str | None = None
    name: str | None = None
    fingerprint: str | None = None
    tokenizer: str | None = None
    least_tokens: int | None = None
    most_tokens: int | None = None
    limit: int = 100
    offset: int = 0
    after: Place | None = None


def search(connection: Connection, wanted: ArtifactQuery) -> list[dict[str, Any]]:
    """Return artifacts, newest first, without their manifests."""
    t, names = Artifact.__table__, NameEntry.__table__
    rows = sa.select(t)
    if wanted.kind:
        rows = rows.where(t.c.kind == wanted.kind)
    if wanted.fingerprint:
        rows = rows.where(t.c.fingerprint.startswith(wanted.fingerprint, autoescape=True))
    if wanted.tokenizer:
        like = t.c.tokenizer.contains(wanted.tokenizer, autoescape=True)
        rows = rows.where(like | t.c.tokenizer_fingerprint.startswith(wanted.tokenizer, autoescape=True))
    if wanted.least_tokens is not None:
        rows = rows.where(t.c.tokens >= wanted.least_tokens)
    if wanted.most_tokens is not None:
        rows = rows.where(t.c.tokens <= wanted.most_tokens)
    if wanted.name:
        named = sa.select(names.c.fingerprint).where(names.c.name.contains(wanted.name, autoescape=True))
        rows = rows.where(t.c.fingerprint.in_(named))
    if wanted.after:
        rows = rows.where(after(t.c.added, t.c.fingerprint, wanted.after))
    rows = rows.order_by(t.c.added.desc(), t.c.fingerprint).limit(wanted.limit).offset(wanted.offset)
    return _shown(connection, connection.execute(rows).all())


def describe(connection: Connection, fingerprint: str) -> dict[str, Any]:
    """Return one artifact with its manifest, its places, what the sources of its pool say of themselves, and
    every meaning its names had."""
    t, names, places = Artifact.__table__, NameEntry.__table__, Location.__table__
    row = connection.execute(sa.select(t).where(t.c.fingerprint == fingerprint)).one()
    (shown,) = _shown(connection, [row])
    history = sa.select(names).where(names.c.name.in_(shown["names"]), names.c.kind == row.kind).order_by(names.c.id)
    where = sa.select(places).where(places.c.fingerprint == fingerprint).order_by(places.c.path)
    pool = connection.execute(sa.select(t.c.manifest).where(t.c.fingerprint == row.pool)).scalar_one_or_none()
    return shown | {
        "manifest": row.manifest,
        "sources": facts_by_source((pool or row.manifest).get("config") or {}),
        "locations": [
            {"path": r.path, "layout": r.layout, "gone": r.gone is not None} for r in connection.execute(where)
        ],
        "history": [
            {"name": r.name, "fingerprint": r.fingerprint, "since": r.since} for r in connection.execute(history)
        ],
    }


def _shown(connection: Connection, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return rows of artifacts as they are shown; so many questions to the database whatever their number."""
    names = names_of_all(connection, [row.fingerprint for row in rows])
    t = NameEntry.__table__
    newest = sa.select(sa.func.max(t.c.id)).where(t.c.name.in_({name for of in names.values() for name in of}))
    meant = sa.select(t.c.kind, t.c.name, t.c.fingerprint).where(t.c.id.in_(newest.group_by(t.c.kind, t.c.name)))
    current = {tuple(row) for row in connection.execute(meant)}
    lies = sa.select(Location.fingerprint).where(*_LIES, Location.fingerprint.in_(names))
    there = set(connection.execute(lies).scalars())
    keys = ("fingerprint", "kind", "pool", "tokens", "samples", "documents", "seq_len", "tokenizer")
    return [
        {key: getattr(row, key) for key in keys}
        | {
            "name": next(iter(names[row.fingerprint]), row.fingerprint),
            "names": names[row.fingerprint],
            "current": any((row.kind, name, row.fingerprint) in current for name in names[row.fingerprint]),
            "tokenizer_fingerprint": row.tokenizer_fingerprint,
            "replicate": parent.get("replicate"),
            "start_sample": parent.get("start_sample", 0),
            "available": row.fingerprint in there,
            "added": row.added,
        }
        for row, parent in ((row, row.manifest.get("parent") or {}) for row in rows)
    ]


def names_of(connection: Connection, fingerprint: str) -> list[str]:
    """Return the names that ever meant `fingerprint`, the newest first."""
    return names_of_all(connection, [fingerprint])[fingerprint]


def names_of_all(connection: Connection, fingerprints: Iterable[str]) -> dict[str, list[str]]:
    """Return `names_of` each fingerprint."""
    t, found = NameEntry.__table__, {one: dict[str, None]() for one in fingerprints}
    rows = sa.select(t.c.fingerprint, t.c.name).where(t.c.fingerprint.in_(found)).order_by(t.c.id.desc())
    for fingerprint, name in connection.execute(rows):
        found[fingerprint][name] = None
    return {fingerprint: list(names) for fingerprint, names in found.items()}


def enter_plan(connection: Connection, plan: Order, name: str | None = None) -> bool:
    """Enter a plan, and let `name` mean it; return whether it is new."""
    values = {"plan": plan.to_dict(), "added": now(connection)}
    new = insert(connection, PlanRow, fingerprint=plan.fingerprint, **values)
    if new:
        subsets = [{"plan": plan.fingerprint, "subset": p.subset} for p in plan.components().values()]
        insert_all(connection, PlanSubset, subsets)
    if name:
        name_it(connection, "plan", name, plan.fingerprint)
    return new


def plans_in(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the plans of a plan or mixture that was entered, as JSON data."""
    return [source["plan"] for source in data["sources"]] if "sources" in data else [data]


def subsets_of(data: dict[str, Any]) -> list[str]:
    """Return the fingerprints of the subsets that a plan or mixture, as it was entered, trains on."""
    return [plan["subset"] for plan in plans_in(data)]
