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

from ..common import storage
from ..common.errors import EpochalError, RequestError
from ..shards import carve
from ..shards.artifact import open_artifact
from ..shards.manifest import Manifest
from ..shards.order.mixing import Ingredient, check_together
from ..shards.order.mixture import Mixture, plans_of
from ..shards.order.mixture_config import MixtureSettings, MixtureSource, mix
from ..shards.order.plan import Plan, tokens_for_epochs
from ..shards.order.receipt import Receipt
from ..shards.order.stored import order_from_dict
from . import catalogue, ledger, limits, runs
from .database import Database, open_database
from .document_index import Document, DocumentIndex, read_spans
from .errors import ConflictError, NotFoundError
from .ledger import Segment, plans_at, segments_of
from .models import Artifact, PlanRow, PlanSubset
from .runs import Ancestor, RunClaim

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
"""What may become a folder's name, or a run's."""

MOST_TOKENS = 10**18
MOST_COPIES = 10**6
MOST_COUNTED = 1 << 28
"""Samples x passes that are looked at for one answer of the policy `global`."""

MOST_PLACES = 1 << 26
"""Places in windows of a mixture that are worked out for one answer: some seconds."""

MOST_CURVE = 1 << 22
MOST_CURVE_COPIES = 1000
RESCAN_SECONDS = 2.0
STATE_FOLDER = ".service"
UNKNOWN = ""
"""The pool of a subset that the catalogue does not have."""


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
        self._plans: dict[str, Plan | Mixture] = {}
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

    def register(self, path: str) -> catalogue.FoundArtifact:
        """Enter the artifact at `path` (folder or URL) wherever it is: for the command line, never for a request."""
        found = catalogue.read_artifact(path)
        self.write(catalogue.update, [found], None)
        return found

    def manifest(self, kind: str, text: str) -> Manifest:
        """Return the manifest of the `kind` called `text` (name or fingerprint). Raises NotFoundError."""
        self.refresh()
        with self.db.reader() as connection:
            fingerprint = catalogue.resolve(connection, kind, text)
            data = connection.execute(sa.select(Artifact.manifest).where(Artifact.fingerprint == fingerprint)).scalar()
        return Manifest.model_validate_json(json.dumps(data))

    def plan(self, text: str) -> Plan | Mixture:
        """Return the plan or mixture called `text` (name or fingerprint). Raises NotFoundError."""
        if text not in self._plans:
            with self.db.reader() as connection:
                fingerprint = catalogue.resolve(connection, "plan", text)
                data = runs.plan_of(connection, fingerprint)
            if fingerprint != text:
                return self.plan(fingerprint)
            self._plans[fingerprint] = order_from_dict(data)
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
        found = catalogue.read_artifact(out)
        self.write(catalogue.update, [found], None)
        return found.manifest.fingerprint, new

    def mixture(self, settings: MixtureSettings, seed: int, budget: Callable[[int], int] | None) -> Mixture:
        """Return the mixture of settings whose paths are names or fingerprints of artifacts; see `open_mixture`.

        Raises NotFoundError, RequestError also when it is out of bounds.
        """
        manifests = [self.manifest("artifact", source.path) for source in settings.sources.values()]
        if settings.has_length:
            staged = sum(stage.tokens or 0 for stage in settings.stages)
            most = [_tokens_of(s, staged, m) for s, m in zip(settings.sources.values(), manifests, strict=True)]
        else:
            most = [budget(sum(m.tokens for m in manifests)) if budget else 0] * len(manifests)
        for source, manifest, tokens in zip(settings.sources.values(), manifests, most, strict=True):
            bounded(source.policy, tokens, manifest.tokens)
        return mix(settings, manifests, seed, budget, "total_tokens and epochs")

    def enter_plan(self, plan: Plan | Mixture, name: str | None) -> bool:
        """Enter a plan; return whether it is new. Raises RequestError when it is out of bounds, ConflictError."""
        self.check_plan(plan)
        return self.write(catalogue.enter_plan, plan, name)

    def check_plan(self, order: Plan | Mixture) -> None:
        """Raise RequestError for a plan too large to answer for, or for subsets that do not go together in a mixture,
        ConflictError when a subset has other numbers."""
        bounded("", order.total_tokens, order.unique_tokens)
        if isinstance(order, Mixture) and any(n >= 2**63 for stage in order.stages for n in stage.shares):
            raise RequestError("the mixture's shares have more than 63 bits: round the weights")
        plans = plans_of(order)
        known = [
            Ingredient(name, manifest)
            for name, manifest in ((name, self._check_subset(plan)) for name, plan in plans.items())
            if manifest is not None
        ]
        if len(known) > 1:
            check_together(known)

    def _check_subset(self, plan: Plan) -> Manifest | None:
        """Return the manifest of a plan's subset where it is known. Raises like `check_plan`."""
        bounded(plan.policy, plan.total_tokens, plan.unique_tokens)
        with self.db.reader() as connection:
            table = Artifact.__table__
            row = connection.execute(sa.select(table).where(table.c.fingerprint == plan.subset)).one_or_none()
        if row is None:
            return None
        m = Manifest.model_validate_json(json.dumps(row.manifest))
        other = plan.difference(Plan.for_artifact(m, plan.total_tokens, plan.seed, plan.policy))
        if other:
            raise ConflictError(f"the plan contradicts its subset '{m.name}': {other}")
        return m

    # -- runs -------------------------------------------------------------------------------------------------------

    def claim(self, claim: RunClaim) -> dict[str, Any]:
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
                plan = self.plan(self.read(runs.get, fingerprint).plan)
                named = data.get("plan")
                if not isinstance(named, dict) or named.get("fingerprint") != plan.fingerprint:
                    problem = "it is of another plan than the run's"
                else:  # the plan as the service knows it: one that is out of bounds is not worked with
                    problem = Receipt.from_dict(data | {"plan": plan.to_dict()}).check() or ""
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
            plans = [plan for a in histories[wanted] for plan in plans_of(self.plan(a.plan)).values()]
            pools = [p for p in dict.fromkeys(self.pool_of(plan.subset) for plan in plans) if p]
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
        found, unknown = self._parts(places, histories, unread)
        parts = {a: [part for _, row in rows for part in row] for a, rows in found.items()}
        shown = []
        for history in histories.values():
            row = _run_shown(document.tokens, history, parts, unknown)
            if in_full:
                row["segments"] = _segments_shown(history, found)
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
    ) -> tuple[dict[Ancestor, list[tuple[Segment, list[ledger.Part]]]], set[str]]:
        """Return the parts of a document in every stretch of every history, by segment, and the plans that train on a
        pool that is unknown."""
        asked: list[tuple[Ancestor, Segment]] = []
        unknown: set[str] = set()
        for ancestor in {a: None for history in histories.values() for a in history}:
            for segment in self._segments(ancestor):
                if segment.pool == UNKNOWN or segment.pool in unread:
                    unknown.add(ancestor.plan)
                elif segment.pool in places:
                    asked.append((ancestor, segment))
        spans = [(places[s.pool].start, places[s.pool].tokens) for _, s in asked]
        found: dict[Ancestor, list[tuple[Segment, list[ledger.Part]]]] = {}
        for (ancestor, segment), row in zip(asked, ledger.parts([s for _, s in asked], spans), strict=True):
            found.setdefault(ancestor, []).append((segment, row))
        return found, unknown

    def _segments(self, a: Ancestor) -> list[Segment]:
        """Return the segments of a stretch of a history; their pool is UNKNOWN where the catalogue lacks a subset."""
        return segments_of(a.run, self.plan(a.plan), a.stop, a.batch_samples, lambda s: self.pool_of(s) or UNKNOWN)

    def histogram(self, run: str, position: int | None = None) -> dict[str, Any]:
        """Return how many documents a run saw how often, over its ancestry. Raises NotFoundError, RequestError."""
        with self.db.reader() as connection:
            fingerprint = catalogue.resolve(connection, "run", run)
            history = runs.ancestries(connection)[fingerprint]
        history = self._until(history, position)
        segments = [segment for a in history for segment in self._countable(a)]
        counted = ledger.histogram(segments, self.read_documents)
        return {
            "run": history[0].name,
            "fingerprint": fingerprint,
            "position": history[0].stop,
            "ancestry": [{"run": a.name, "plan": a.plan, "position": a.stop} for a in history],
        } | {name: {str(k): v for k, v in rows.items()} for name, rows in counted.items()}

    def _countable(self, ancestor: Ancestor) -> list[Segment]:
        """Return the segments of a stretch whose documents are to be counted. Raises NotFoundError, RequestError."""
        segments = self._segments(ancestor)
        for plan, pool in ((s.plan, s.pool) for s in segments):
            if pool == UNKNOWN:
                raise NotFoundError(
                    f"subset {plan.subset} of run '{ancestor.name}' is not in the catalogue: register it"
                )
        slots = slots_counted(self.plan(ancestor.plan))
        if slots > MOST_COUNTED:
            raise RequestError(f"run '{ancestor.name}' shuffles {slots:,} samples together: too many")
        return segments

    def plans(self, subset: str | None, limit: int) -> list[dict[str, Any]]:
        """Return plans, newest first, of one subset (name or fingerprint) or of all."""
        with self.db.reader() as connection:
            t, of = PlanRow.__table__, PlanSubset.__table__
            rows = sa.select(t).order_by(t.c.added.desc()).limit(limit)
            if subset is not None:
                wanted = catalogue.resolve(connection, "artifact", subset)
                rows = rows.where(t.c.fingerprint.in_(sa.select(of.c.plan).where(of.c.subset == wanted)))
            return [
                {
                    "fingerprint": row.fingerprint,
                    "names": catalogue.names_of(connection, row.fingerprint),
                    "subset_names": [
                        next(iter(catalogue.names_of(connection, one)), one) for one in catalogue.subsets_of(row.plan)
                    ],
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
    seen = [(a, [part for part in row if part.exposures]) for a, row in zip(history, rows, strict=True)]
    seen = [(a, row) for a, row in seen if row]  # the youngest run first
    times_seen = [times for _, _, times in level]
    return {
        "run": history[0].name,
        "fingerprint": history[0].run,
        "exposures": {
            "least": min(times_seen),
            "most": max(times_seen),
            "mean": fed / tokens,
        },
        "tokens_fed": fed,
        "first": _event(seen[-1][0], min(part.first or 0 for part in seen[-1][1])) if seen else None,
        "last": _event(seen[0][0], max(part.last or 0 for part in seen[0][1])) if seen else None,
        "intervals": [{"start": a, "stop": b, "exposures": times} for a, b, times in level],
        "unknown": [a.name for a in history if a.plan in unknown],
    }


def _segments_shown(
    history: Sequence[Ancestor], found: dict[Ancestor, list[tuple[Segment, list[ledger.Part]]]]
) -> list[dict[str, Any]]:
    """Return the parts of a document in each stretch of a history. source: of a mixture, whose subset samples are of;
    stop: position of the run; source_stop: how many of them were the source's."""
    return [
        {
            "run": a.name,
            "plan": a.plan,
            "stop": a.stop,
            "source": segment.mixture.sources[segment.source].name if segment.mixture else None,
            "source_stop": segment.stop,
            "parts": [part._asdict() for part in row],
        }
        for a in history
        for segment, row in found.get(a, [])
        if row
    ]


def _event(ancestor: Ancestor, position: int) -> dict[str, Any]:
    return {"run": ancestor.name, "position": position, "step": position // ancestor.batch_samples}


def bounded(policy: str, total_tokens: int, unique_tokens: int) -> None:
    """Raise RequestError for a plan too large to answer for. Called before one is made: its length is counted then."""
    if total_tokens > MOST_TOKENS:
        raise RequestError(f"total_tokens is at most {MOST_TOKENS:,}")
    if policy == "global" and total_tokens > MOST_COPIES * unique_tokens:
        raise RequestError(f"at most {MOST_COPIES:,} passes can be shuffled together: use the policy reshuffle")


def _tokens_of(source: MixtureSource, staged: int, manifest: Manifest) -> int:
    """Return how many tokens of a source a mixture with a length of its own reads at most."""
    if source.tokens is not None:
        return source.tokens
    return staged if source.epochs is None else tokens_for_epochs(source.epochs, manifest.tokens)


def slots_counted(order: Plan | Mixture) -> int:
    """Return how many slots of the policy `global` are looked at to count the exposures of all samples."""
    return sum(p.samples * p.copies for p in plans_of(order).values() if p.policy == "global")


def windows_at_once(order: Plan | Mixture) -> int:
    """Return at how many positions of an order one request may look: each costs a window's work in a mixture."""
    return MOST_PLACES // (order.window if isinstance(order, Mixture) else 1)


def unique_tokens_seen(order: Plan | Mixture, position: int) -> int:
    """Return how many different tokens positions [0, position) hold; for `global` the expectation of that."""
    return sum(_unique(plan, count) for plan, count in plans_at(order, position))


def _unique(plan: Plan, position: int) -> int:
    if plan.policy == "global":
        return round(plan.unique_tokens * (1 - (1 - position / (plan.samples * plan.copies)) ** plan.copies))
    return plan.unique_tokens if position >= plan.samples else plan.tokens_before(position)


def exposure_curve(order: Plan | Mixture, points: int = 65) -> dict[str, Any]:
    """Return, at evenly spaced positions, the share of samples not seen yet and the least and most exposures.

    For `global` with more than 2**22 slots or 1000 passes the share is its expectation, taken as (1 - p / nc)**c, and
    `kind` says so; least and most are then null.
    """
    at = sorted({round(order.positions * i / (points - 1)) for i in range(points)})
    counts = [[count for _, count in plans_at(order, p)] for p in at]
    curves = [_curve(plan, stops) for plan, *stops in zip(plans_of(order).values(), *counts, strict=True)]
    rows = []
    for position, *found in zip(at, *(curve for _, curve in curves), strict=True):
        unseen, least, most = zip(*found, strict=True)
        known = None not in least
        rows.append(
            {
                "position": position,
                "unseen": sum(unseen) / order.samples,
                "least": min(least) if known else None,
                "most": max(most) if known else None,
            }
        )
    exact = all(kind == "exact" for kind, _ in curves)
    return {"kind": "exact" if exact else "expected", "samples": order.samples, "points": rows}


def _curve(plan: Plan, stops: Sequence[int]) -> tuple[str, list[tuple[float, int | None, int | None]]]:
    """Return whether it is exact or expected, and (samples not seen, least, most exposures) at positions of a plan."""
    n, slots = plan.samples, plan.samples * plan.copies
    if plan.policy != "global":
        return "exact", [(max(0, n - p), p // n, -(-p // n)) for p in stops]
    if slots > MOST_CURVE or plan.copies > MOST_CURVE_COPIES:
        return "expected", [(n * (1 - p / slots) ** plan.copies, None, None) for p in stops]
    where = plan.positions_of_copies(np.arange(n, dtype=np.uint64), range(plan.copies))
    counted = [(where < p).sum(axis=0) for p in stops]
    return "exact", [(int((seen == 0).sum()), int(seen.min()), int(seen.max())) for seen in counted]
