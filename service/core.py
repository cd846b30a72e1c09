"""What the service does, apart from HTTP: the database, the folder of artifacts and the ledger brought together."""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa

from ..shards import carve, storage
from ..shards.artifact import open_artifact
from ..shards.errors import EpochalError, RequestError
from ..shards.manifest import Manifest
from ..shards.plan import Plan
from ..shards.receipt import Receipt
from . import catalogue, ledger, limits, runs
from .database import Database, open_database
from .documents import Document, DocumentIndex, read_spans
from .errors import ConflictError, NotFoundError
from .ledger import Segment
from .models import Artifact, PlanRow
from .runs import Ancestor, Claim

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
"""What may become a folder's name, or a run's."""

MOST_TOKENS = 10**18
MOST_COPIES = 10**6
MOST_COUNTED = 1 << 28
"""Samples x passes that are looked at for one answer of the policy `global`."""

MOST_CURVE = 1 << 22
MOST_CURVE_COPIES = 1000
RESCAN_SECONDS = 2.0
STATE_FOLDER = ".service"


_POOLS = sa.select(Artifact.fingerprint).where(Artifact.kind == "pool")


def default_database(root: str) -> str:
    """Return the URL of the database of the service that has no other: SQLite under the root."""
    return f"sqlite:///{os.path.join(os.path.abspath(root), STATE_FOLDER, 'epochal.db')}"


class Service:
    """The service over `root`, the folder with `pools/` and `subsets/`. Safe to share among threads."""

    def __init__(self, root: str, database: str | None = None) -> None:
        self.root = os.path.realpath(root)
        self.db: Database = open_database(database or default_database(self.root))
        self._scanner = catalogue.Scanner(self.root)
        self._scanning = threading.Lock()
        self._scanned = 0.0
        self._carving = threading.Semaphore(2)
        self._plans: dict[str, Plan] = {}
        self._pools: dict[str, str] = {}
        self._indexes: dict[str, DocumentIndex] = {}
        self._indexing = threading.Lock()

    def close(self) -> None:
        """Commit what is waiting and let go of the database."""
        self.db.close()

    def read(self, question: Callable[..., T], *args: Any) -> T:
        """Return `question(connection, *args)`."""
        with self.db.reader() as connection:
            return question(connection, *args)

    def write(self, job: Callable[..., T], *args: Any) -> T:
        """Return `job(connection, *args)` once it is committed."""
        return self.db.write(lambda connection: job(connection, *args)).result()

    # -- catalogue --------------------------------------------------------------------------------------------------

    def refresh(self, at_once: bool = False) -> None:
        """Look for new, changed and lost artifacts under the root, at most every two seconds."""
        with self._scanning:
            if not at_once and time.monotonic() - self._scanned < RESCAN_SECONDS:
                return
            found = self._scanner.scan()
            if self.read(catalogue.changed, found, self.root):
                self.write(catalogue.update, found, self.root)
            self._scanned = time.monotonic()

    @property
    def problems(self) -> dict[str, str]:
        """What lies under the root and cannot be read, by folder, as of the last look."""
        return dict(self._scanner.problems)

    def register(self, path: str) -> catalogue.Found:
        """Enter the artifact at `path` (folder or URL) wherever it is: for the command line, never for a request."""
        found = catalogue.read_found(path)
        self.write(catalogue.update, [found], None)
        return found

    def manifest(self, kind: str, text: str) -> Manifest:
        """Return the manifest of the `kind` called `text` (name or fingerprint). Raises NotFoundError."""
        self.refresh()
        with self.db.reader() as connection:
            fingerprint = catalogue.resolve(connection, kind, text)
            data = connection.execute(sa.select(Artifact.manifest).where(Artifact.fingerprint == fingerprint)).scalar()
        return Manifest.model_validate_json(json.dumps(data))

    def plan(self, text: str) -> Plan:
        """Return the plan called `text` (name or fingerprint). Raises NotFoundError."""
        if text not in self._plans:
            with self.db.reader() as connection:
                fingerprint = catalogue.resolve(connection, "plan", text)
                data = runs.plan_of(connection, fingerprint)
            if fingerprint != text:
                return self.plan(fingerprint)
            self._plans[fingerprint] = Plan.from_dict(data)
        return self._plans[text]

    def carve(self, pool: str, tokens: int, replicate: int, name: str | None) -> tuple[str, bool]:
        """Carve a subset into `<root>/subsets/`; return its fingerprint and whether it is new.

        Raises NotFoundError, ConflictError when that folder holds something else, RequestError as carving does.
        """
        manifest = self.manifest("pool", pool)
        where = self.read(catalogue.locate, manifest.fingerprint)
        if where is None:
            raise ConflictError(f"pool '{manifest.name}' is known, but lies nowhere this service can read it")
        source = open_artifact(where)
        if name is None:
            if storage.is_url(where):
                raise RequestError("name: a subset of a remote pool needs a name")
            name = os.path.basename(carve.default_out(source, tokens, replicate))
        if not NAME.fullmatch(name):
            raise RequestError(f"name: '{name}' is no name for a folder")
        out = os.path.realpath(os.path.join(self.root, "subsets", name))
        if not catalogue.inside(out, self.root):
            raise RequestError(f"name: '{name}' leads out of the folder of subsets")
        carve.locate_window(source, tokens, replicate)  # a wrong request is told before a taken name
        with self._carving:
            try:
                _, new = carve.carve(where, tokens, replicate, out)
            except RequestError as error:
                if os.path.exists(out):
                    raise ConflictError(f"subset '{name}' exists and holds something else: give another name") from None
                raise error
        found = catalogue.read_found(out)
        self.write(catalogue.update, [found], None)
        return found.manifest.fingerprint, new

    def enter_plan(self, plan: Plan, name: str | None) -> bool:
        """Enter a plan; return whether it is new. Raises RequestError when it is out of bounds, ConflictError."""
        self.check_plan(plan)
        return self.write(catalogue.enter_plan, plan, name)

    def check_plan(self, plan: Plan) -> None:
        """Raise RequestError for a plan too large to answer for, ConflictError when its subset has other numbers."""
        bounded(plan.policy, plan.total_tokens, plan.unique_tokens)
        with self.db.reader() as connection:
            table = Artifact.__table__
            row = connection.execute(sa.select(table).where(table.c.fingerprint == plan.subset)).one_or_none()
        if row is not None:
            m = Manifest.model_validate_json(json.dumps(row.manifest))
            other = plan.difference(Plan.for_artifact(m, plan.total_tokens, plan.seed, plan.policy))
            if other:
                raise ConflictError(f"the plan contradicts its subset '{m.name}': {other}")

    # -- runs -------------------------------------------------------------------------------------------------------

    def claim(self, claim: Claim) -> dict[str, Any]:
        """Register a run and lease its name. Raises NotFoundError, RequestError, ConflictError (live run, limit)."""
        self.refresh()
        self.check_plan(claim.plan)
        with self.db.reader() as connection:
            run = runs.identify(connection, claim)
            known = limits.listed(connection)
            history: Sequence[Ancestor] = ()
            if run["parent"]:
                first, *rest = runs.ancestries(connection)[run["parent"]]
                history = [Ancestor(first.run, first.name, first.plan, run["parent_position"], 1), *rest]
        if known:
            before = [(self.plan(a.plan), a.stop) for a in history]
            limits.check(known, claim.plan, before, lambda s: self.pool_of(s) or s, self.read_documents)
        return self.write(runs.claim_lease, claim, run)

    def check_receipts(self) -> None:
        """Hold receipts that were handed in against their plans: 0.1 s for a million positions each."""
        for fingerprint, data in self.read(runs.unchecked):
            try:
                receipt = Receipt.from_dict(data)
                problem = receipt.check() or ""
                if receipt.plan.fingerprint != self.read(runs.get, fingerprint).plan:
                    problem = f"it is of another plan, {receipt.plan.fingerprint}"
            except EpochalError as error:
                problem = str(error)
            self.write(runs.checked, fingerprint, data, problem)

    # -- ledger -----------------------------------------------------------------------------------------------------

    def pool_of(self, subset: str) -> str | None:
        """Return the fingerprint of the pool that a subset (or pool) is cut from, if it is known."""
        if subset not in self._pools:
            with self.db.reader() as connection:
                wanted = sa.select(Artifact.pool).where(Artifact.fingerprint == subset)
                pool = connection.execute(wanted).scalar()
            if pool is None:
                return None
            self._pools[subset] = pool
        return self._pools[subset]

    def read_documents(self, pool: str) -> Iterator[dict[str, Any]]:
        """Yield the spans of a pool's documents; see `documents.read_spans`. Raises NotFoundError."""
        return read_spans(self._pool_path(pool))

    def _pool_path(self, pool: str) -> str:
        path = self.read(catalogue.locate, pool)
        if path is None:
            raise NotFoundError(f"pool {pool} lies nowhere this service can read it: register it")
        return path

    def index(self, pool: str) -> DocumentIndex | None:
        """Return the index of a pool's documents, built when it is first asked for; None where it cannot be read."""
        if pool not in self._indexes:
            with self._indexing:
                try:
                    folder = os.path.join(self.root, STATE_FOLDER, "documents")
                    self._indexes[pool] = DocumentIndex(self._pool_path(pool), pool, folder)
                except RequestError:
                    return None
        return self._indexes[pool]

    def seen(
        self, key: bytes | None = None, id_: str | None = None, run: str | None = None, position: int | None = None
    ) -> dict[str, Any]:
        """Return which runs were fed the document with this key (or the documents with this id), how often and when.

        run: only this one (name or fingerprint), sample by sample, also when it saw nothing. position: as of there,
        not as of its last report. Raises NotFoundError, RequestError.
        """
        with self.db.reader() as connection:
            wanted = catalogue.resolve(connection, "run", run) if run is not None else None
            histories = runs.ancestries(connection)
            pools = connection.execute(_POOLS).scalars().all()
        if wanted is not None:
            histories = {wanted: self._until(histories[wanted], position)}
        elif position is not None:
            raise RequestError("position needs a run")
        if wanted is not None:
            pools = [p for p in dict.fromkeys(self.pool_of(self.plan(a.plan).subset) for a in histories[wanted]) if p]
        found, unread = self._find(pools, key, id_)
        if not found:
            hint = f" ({len(unread)} pools could not be looked at: register them)" if unread else ""
            what = f"key {key.hex()}" if key is not None else f"id {(id_ or '')[:200]!r}"
            raise NotFoundError(f"no document with {what} is in the pools{' of that run' if run else ''}{hint}")
        return {"documents": [self._document(of, histories, set(unread), wanted is not None) for of in found]}

    def _until(self, history: Sequence[Ancestor], position: int | None) -> list[Ancestor]:
        """Return a history up to `position` of its run. Raises RequestError."""
        first, *rest = history
        if position is None:
            return [first, *rest]
        positions = self.plan(first.plan).positions
        if not 0 <= position <= positions:
            raise RequestError(
                f"position {position} is not in the plan of run '{first.name}', which ends at {positions}"
            )
        return [Ancestor(first.run, first.name, first.plan, position, first.batch_samples), *rest]

    def _find(
        self, pools: Sequence[str], key: bytes | None, id_: str | None
    ) -> tuple[list[dict[str, Document]], list[str]]:
        """Return documents, each by the pools it lies in, and the pools that cannot be looked at."""
        by_key: dict[str, dict[str, Document]] = {}
        indexes = {pool: self.index(pool) for pool in pools}
        keys = {key} if key is not None else set()
        for index in indexes.values():
            if index is not None and id_ is not None:
                keys |= {bytes.fromhex(document.key) for document in index.by_id(id_)}
        for pool, index in indexes.items():
            for wanted in keys if index is not None else ():
                for document in index.by_key(wanted):  # type: ignore[union-attr]
                    by_key.setdefault(document.key, {})[pool] = document
        return [by_key[k] for k in sorted(by_key)], [pool for pool, index in indexes.items() if index is None]

    def _document(
        self, places: dict[str, Document], histories: dict[str, list[Ancestor]], unread: set[str], in_full: bool
    ) -> dict[str, Any]:
        """Return what every run has seen of the document that lies at `places`; in full, also sample by sample."""
        document = next(iter(places.values()))
        parts, unknown = self._parts(places, histories, unread)
        shown = []
        for history in histories.values():
            row = _run_shown(document.tokens, history, parts, unknown)
            if in_full:
                row["segments"] = _segments_shown(history, parts)
            if in_full or row["exposures"]["most"] or row["unknown"]:
                shown.append(row)
        return {
            "key": document.key,
            "id": document.id,
            "source": document.source,
            "tokens": document.tokens,
            "pools": [{"pool": pool, "start": d.start} for pool, d in places.items()],
            "runs": shown,
            "runs_looked_at": len(histories),
        }

    def _parts(
        self, places: dict[str, Document], histories: dict[str, list[Ancestor]], unread: set[str]
    ) -> tuple[dict[Ancestor, list[ledger.Part]], set[str]]:
        """Return the parts of a document in every stretch of every history, and the plans whose pool is unknown."""
        segments: dict[Ancestor, Segment] = {}
        unknown: set[str] = set()
        for ancestor in {a: None for history in histories.values() for a in history}:
            plan = self.plan(ancestor.plan)
            pool = self.pool_of(plan.subset)
            if pool is None or pool in unread:
                unknown.add(ancestor.plan)
            elif pool in places:
                segments[ancestor] = Segment(ancestor.run, plan, ancestor.stop, ancestor.batch_samples, pool)
        spans = [(places[s.pool].start, places[s.pool].tokens) for s in segments.values()]
        return dict(zip(segments, ledger.parts(list(segments.values()), spans), strict=True)), unknown

    def histogram(self, run: str, position: int | None = None) -> dict[str, Any]:
        """Return how many documents a run saw how often, over its ancestry. Raises NotFoundError, RequestError."""
        with self.db.reader() as connection:
            fingerprint = catalogue.resolve(connection, "run", run)
            history = runs.ancestries(connection)[fingerprint]
        history = self._until(history, position)
        segments = [self._segment(a) for a in history]
        counted = ledger.histogram(segments, self.read_documents)
        return {
            "run": history[0].name,
            "fingerprint": fingerprint,
            "position": segments[0].stop,
            "ancestry": [{"run": a.name, "plan": a.plan, "position": a.stop} for a in history],
        } | {name: {str(k): v for k, v in rows.items()} for name, rows in counted.items()}

    def _segment(self, ancestor: Ancestor) -> Segment:
        plan = self.plan(ancestor.plan)
        pool = self.pool_of(plan.subset)
        if pool is None:
            raise NotFoundError(f"subset {plan.subset} of run '{ancestor.name}' is not in the catalogue: register it")
        if plan.policy == "global" and plan.samples * plan.copies > MOST_COUNTED:
            raise RequestError(
                f"run '{ancestor.name}' shuffles {plan.samples * plan.copies:,} samples together: too many"
            )
        return Segment(ancestor.run, plan, ancestor.stop, ancestor.batch_samples, pool)

    def plans(self, subset: str | None, limit: int) -> list[dict[str, Any]]:
        """Return plans, newest first, of one subset (name or fingerprint) or of all."""
        with self.db.reader() as connection:
            t = PlanRow.__table__
            rows = sa.select(t).order_by(t.c.added.desc()).limit(limit)
            if subset is not None:
                rows = rows.where(t.c.subset == catalogue.resolve(connection, "artifact", subset))
            return [
                {
                    "fingerprint": row.fingerprint,
                    "names": catalogue.names_of(connection, row.fingerprint),
                    "subset_names": catalogue.names_of(connection, row.subset),
                    "plan": row.plan,
                    "added": row.added,
                }
                for row in connection.execute(rows)
            ]


def _run_shown(
    tokens: int, history: Sequence[Ancestor], parts: dict[Ancestor, list[ledger.Part]], unknown: set[str]
) -> dict[str, Any]:
    """Return what one run has seen of a document of `tokens` tokens."""
    rows = [parts.get(a, []) for a in history]
    level = ledger.intervals(tokens, rows)
    fed = sum((stop - start) * times for start, stop, times in level)
    events = [
        (depth, a, part)
        for depth, (a, row) in enumerate(zip(history, rows, strict=True))
        for part in row
        if part.exposures
    ]
    first = min(events, key=lambda e: (-e[0], e[2].first), default=None)
    last = min(events, key=lambda e: (e[0], -(e[2].last or 0)), default=None)
    return {
        "run": history[0].name,
        "fingerprint": history[0].run,
        "exposures": {
            "least": min(times for _, _, times in level),
            "most": max(times for _, _, times in level),
            "mean": fed / tokens,
        },
        "tokens_fed": fed,
        "first": _event(first, "first"),
        "last": _event(last, "last"),
        "intervals": [{"start": a, "stop": b, "exposures": times} for a, b, times in level],
        "unknown": [a.name for a in history if a.plan in unknown],
    }


def _segments_shown(history: Sequence[Ancestor], parts: dict[Ancestor, list[ledger.Part]]) -> list[dict[str, Any]]:
    """Return the parts of a document in each stretch of a history."""
    found = [(a, parts.get(a, [])) for a in history]
    return [
        {"run": a.name, "plan": a.plan, "stop": a.stop, "parts": [part._asdict() for part in row]}
        for a, row in found
        if row
    ]


def _event(event: tuple[int, Ancestor, ledger.Part] | None, which: str) -> dict[str, Any] | None:
    if event is None:
        return None
    _, ancestor, part = event
    position = getattr(part, which)
    return {"run": ancestor.name, "position": position, "step": position // ancestor.batch_samples}


def bounded(policy: str, total_tokens: int, unique_tokens: int) -> None:
    """Raise RequestError for a plan too large to answer for. Called before one is made: its length is counted then."""
    if total_tokens > MOST_TOKENS:
        raise RequestError(f"total_tokens is at most {MOST_TOKENS:,}")
    if policy == "global" and total_tokens > MOST_COPIES * unique_tokens:
        raise RequestError(f"at most {MOST_COPIES:,} passes can be shuffled together: use the policy reshuffle")


def exposure_curve(plan: Plan, points: int = 65) -> dict[str, Any]:
    """Return, at evenly spaced positions, the share of samples not seen yet and the least and most exposures.

    For `global` with more than 2**22 slots or 1000 passes the share is its expectation, taken as (1 - p / nc)**c, and
    `kind` says so; least and most are then null.
    """
    n, end = plan.samples, plan.positions
    at = sorted({round(end * i / (points - 1)) for i in range(points)})
    if plan.policy != "global":
        rows = [(p, 0.0 if p >= n else 1 - p / n, p // n, -(-p // n)) for p in at]
        return _curve("exact", plan, rows)
    slots = n * plan.copies
    if slots > MOST_CURVE or plan.copies > MOST_CURVE_COPIES:
        rows_ = [(p, (1 - p / slots) ** plan.copies, None, None) for p in at]
        return _curve("expected", plan, rows_)
    where = np.stack([plan.position_of(np.arange(n), copy) for copy in range(plan.copies)])
    exact = []
    for p in at:
        seen = (where < p).sum(axis=0)
        exact.append((p, float((seen == 0).mean()), int(seen.min()), int(seen.max())))
    return _curve("exact", plan, exact)


def _curve(kind: str, plan: Plan, rows: Sequence[tuple[int, float, int | None, int | None]]) -> dict[str, Any]:
    names = ("position", "unseen", "least", "most")
    return {"kind": kind, "samples": plan.samples, "points": [dict(zip(names, row, strict=True)) for row in rows]}
