"""What the service does, apart from HTTP: the database and the folder of artifacts brought together.

How often documents and samples were fed is answered in exposures.py.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from ..common import storage
from ..common.errors import EpochalError, RequestError
from ..shards import carve
from ..shards.artifact import open_artifact
from ..shards.documents import DocumentStarts
from ..shards.manifest import Manifest
from ..shards.order.base import Order, Repetition
from ..shards.order.mixing import Ingredient, check_together
from ..shards.order.mixture_config import MixtureSettings, mix
from ..shards.order.packing import Packing
from ..shards.order.plan import Plan
from ..shards.order.receipt import Receipt
from ..shards.order.stored import order_from_dict
from ..shards.without.cut import NOTHING
from ..shards.without.found import find
from ..shards.without.lists import NameList
from . import catalogue, database, limits, runs
from .bounds import check_budget, check_shares, most_tokens
from .database import Database, Place, open_database
from .document_index import DocumentIndex, read_spans
from .errors import ConflictError, NotFoundError
from .ledger import Segment
from .models import Artifact, PlanRow, PlanSubset
from .operations.audit import audited
from .operations.once import Once, acting_once
from .optouts import holders
from .optouts.places import Places
from .runs import Ancestor, RunClaim

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
"""What may become a folder's name, or a run's."""

RESCAN_SECONDS = 2.0
MOST_PACKINGS = 4
"""Plans of the policy `repack` whose documents' places are kept: 8 bytes a document each, and their tables."""

STATE_FOLDER = ".service"


def default_database(root: str) -> sa.URL:
    """Return the database of the service that has no other: SQLite under the root, whatever `?` would mean in a URL."""
    return sa.URL.create("sqlite", database=os.path.join(os.path.abspath(root), STATE_FOLDER, "epochal.db"))


class Service:
    """The service over `root`, the folder with `pools/` and `subsets/`. Safe to share among threads.

    Attributes:
        found: the artifacts under the root, as of the last look.
        optouts: where the documents of opt-out lists lie.
        segments: of stretches of histories that were asked about.
    """

    def __init__(self, root: str, database: str | None = None) -> None:
        self.root = os.path.realpath(storage.local_path(root))
        self.db: Database = open_database(database or default_database(self.root))
        self._scanner = catalogue.Scanner(self.root)
        self._scanning = threading.Lock()
        self._scanned = 0.0
        self.found: list[catalogue.FoundArtifact] = []
        self._plans: dict[str, Order] = {}
        self._pools: dict[str, str] = {}
        self._indexes: dict[str, DocumentIndex] = {}
        self._tables: dict[str, DocumentStarts] = {}
        self._packings: dict[str, Packing] = {}
        self._indexing = threading.Lock()
        self.segments: dict[Ancestor, list[Segment]] = {}
        self.optouts = Places(self)

    def close(self) -> None:
        """Commit what is waiting and let go of the database."""
        self.db.close()

    def read(self, question: Callable[..., T], *args: Any) -> T:
        """Return `question(connection, *args)`."""
        with self.db.reader() as connection:
            return question(connection, *args)

    def write(self, job: Callable[..., T], *args: Any, once: Once | None = None) -> T:
        """Return `job(connection, *args)` once it is committed; the audit log has it where it is of its table.

        Args:
            once: the request that it is of, where that is done once however often it is sent.
        """
        done = acting_once(audited(job), once)
        return self.db.write(lambda connection: done(connection, *args)).result()

    # -- catalogue --------------------------------------------------------------------------------------------------

    def refresh(self, at_once: bool = False) -> None:
        """Look for new, changed and lost artifacts under the root, at most every two seconds.

        While one request looks, others go on with what the last look found, so that a slow disk keeps no thread.
        """
        if not self._scanning.acquire(blocking=at_once or not self._scanned):
            return
        try:
            if not at_once and self._scanned and time.monotonic() - self._scanned < RESCAN_SECONDS:
                return
            self.found = found = self._scanner.scan()
            if self.read(catalogue.changed, found, self.root):
                self.write(catalogue.update, found, self.root)
            self._scanned = time.monotonic()
        finally:
            self._scanning.release()

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
        """Return the manifest of the `kind` called `text` (name or fingerprint).

        Raises:
            NotFoundError: when nothing of that name is known.
        """
        self.refresh()
        with self.db.reader() as connection:
            fingerprint = catalogue.resolve(connection, kind, text)
            data = connection.execute(sa.select(Artifact.manifest).where(Artifact.fingerprint == fingerprint)).scalar()
        return Manifest.model_validate_json(json.dumps(data))

    def plan(self, text: str) -> Order:
        """Return the plan or mixture called `text` (name or fingerprint).

        Raises:
            NotFoundError: when nothing of that name is known.
        """
        if text not in self._plans:
            with self.db.reader() as connection:
                fingerprint = catalogue.resolve(connection, "plan", text)
                data = runs.plan_of(connection, fingerprint)
            if fingerprint != text:
                return self.plan(fingerprint)
            self._plans[fingerprint] = order_from_dict(data)
        return self._plans[text]

    def plans(self, subset: str | None, after: Place | None, limit: int) -> list[dict[str, Any]]:
        """Return plans, newest first, of one subset (name or fingerprint) or of all."""
        with self.db.reader() as connection:
            t, of = PlanRow.__table__, PlanSubset.__table__
            rows = sa.select(t).order_by(t.c.added.desc(), t.c.fingerprint).limit(limit)
            if after:
                rows = rows.where(database.after(t.c.added, t.c.fingerprint, after))
            if subset is not None:
                wanted = catalogue.resolve(connection, "artifact", subset)
                rows = rows.where(t.c.fingerprint.in_(sa.select(of.c.plan).where(of.c.subset == wanted)))
            found = [(row, catalogue.subsets_of(row.plan)) for row in connection.execute(rows)]
            named = [one for row, subsets in found for one in (row.fingerprint, *subsets)]
            names = catalogue.names_of_all(connection, named)
        return [
            {
                "fingerprint": row.fingerprint,
                "names": names[row.fingerprint],
                "subset_names": [next(iter(names[one]), one) for one in subsets],
                "plan": row.plan,
                "added": row.added,
            }
            for row, subsets in found
        ]

    def carve(
        self, pool: str, tokens: int, replicate: int, name: str | None, without: Sequence[NameList] = ()
    ) -> tuple[str, bool]:
        """Carve a subset into `<root>/subsets/`, without the documents of lists; return its fingerprint and whether it
        is new.

        Raises:
            NotFoundError: when that folder holds something else.
            ConflictError: when that folder holds something else.
            RequestError: as carving does.
        """
        manifest = self.manifest("pool", pool)
        where = self.read(catalogue.locate, manifest.fingerprint)
        if where is None:
            raise ConflictError(f"pool '{manifest.name}' is known, but lies nowhere this service can read it")
        source = open_artifact(where)
        taken_out = find(source, without, None) if without else None
        if taken_out is not None and not len(taken_out.table):
            taken_out = None
        if name is None:
            if storage.is_url(where):
                raise RequestError("name: a subset of a remote pool needs a name")
            name = os.path.basename(carve.default_out(source, tokens, replicate, taken_out=taken_out))
        if not NAME.fullmatch(name):
            raise RequestError(f"name: '{name}' is no name for a folder")
        out = os.path.realpath(os.path.join(self.root, "subsets", name))
        if not catalogue.inside(out, self.root):
            raise RequestError(f"name: '{name}' leads out of the folder of subsets")
        removed = taken_out.removed if taken_out else NOTHING
        carve.locate_window(source, tokens, replicate, removed)  # a wrong request is reported before a taken name
        try:
            _, new = carve.carve_from(source, tokens, replicate, out, taken_out=taken_out)
        except RequestError as error:
            if os.path.exists(out):
                raise ConflictError(f"subset '{name}' exists and holds something else: give another name") from None
            raise error
        found = catalogue.read_artifact(out)
        if self.read(catalogue.changed, [found], out):  # carved before, it is nothing new to the audit log either
            self.write(catalogue.update, [found], None)
        return found.manifest.fingerprint, new

    def mixture(self, settings: MixtureSettings, seed: int, budget: Callable[[int], int] | None) -> Order:
        """Return the mixture of settings whose paths are names or fingerprints of artifacts; see `open_mixture`.

        Raises:
            NotFoundError: also when it is out of bounds.
            RequestError: also when it is out of bounds.
        """
        manifests = [self.manifest("artifact", source.path) for source in settings.sources.values()]
        if settings.has_length:
            staged = sum(stage.tokens or 0 for stage in settings.stages)
            most = [most_tokens(s, staged, m) for s, m in zip(settings.sources.values(), manifests, strict=True)]
        else:
            most = [budget(sum(m.tokens for m in manifests)) if budget else 0] * len(manifests)
        for source, manifest, tokens in zip(settings.sources.values(), manifests, most, strict=True):
            check_budget(source.policy, tokens, manifest.tokens)
        return mix(settings, manifests, seed, budget, "total_tokens and epochs")

    def enter_plan(self, plan: Order, name: str | None, once: Once | None = None) -> bool:
        """Enter a plan; return whether it is new. See `write`.

        Raises:
            RequestError: when it is out of bounds.
            ConflictError: when it contradicts what is there.
        """
        self.check_plan(plan)
        if not self.read(holders.is_entered, plan.fingerprint):
            holders.check(self, plan)
        return self.write(catalogue.enter_plan, plan, name, once=once)

    def check_plan(self, order: Order) -> None:
        """Raise RequestError for a plan too large to answer for, or for subsets that do not go together in a mixture,
        ConflictError when a subset has other numbers."""
        check_budget("", order.total_tokens, order.unique_tokens)
        check_shares(order)
        known = [
            Ingredient(name, manifest)
            for name, manifest in ((name, self._check_subset(plan)) for name, plan in order.components().items())
            if manifest is not None
        ]
        if len(known) > 1:
            check_together(known)

    def _check_subset(self, plan: Repetition) -> Manifest | None:
        """Return the manifest of a plan's subset where it is known. Raises like `check_plan`."""
        check_budget(plan.policy, plan.total_tokens, plan.unique_tokens)
        with self.db.reader() as connection:
            table = Artifact.__table__
            row = connection.execute(sa.select(table).where(table.c.fingerprint == plan.subset)).one_or_none()
        if row is None:
            return None
        m = Manifest.model_validate_json(json.dumps(row.manifest))
        own = plan.without_skips()
        other = own.difference(Plan.for_artifact(m, plan.total_tokens, plan.seed, plan.policy))
        if other:
            raise ConflictError(f"the plan contradicts its subset '{m.name}': {other}")
        return m

    # -- runs -------------------------------------------------------------------------------------------------------

    def claim(self, claim: RunClaim) -> dict[str, Any]:
        """Register a run and lease its name.

        Raises:
            NotFoundError: (live run, limit, opt-out list).
            RequestError: (live run, limit, opt-out list).
            ConflictError: (live run, limit, opt-out list).
        """
        self.refresh()
        self.check_plan(claim.plan)
        with self.db.reader() as connection:
            run = runs.identify(connection, claim)
            alive = runs.is_live(connection, claim, run["fingerprint"])
            known = limits.listed(connection)
            history: Sequence[Ancestor] = ()
            if run["parent"]:
                first, *rest = runs.ancestry(connection, run["parent"])
                history = [Ancestor(first.run, first.name, first.plan, run["parent_position"], 1), *rest]
        if known:
            before = [(self.plan(a.plan), a.stop) for a in history]
            limits.check(known, claim.plan, before, lambda s: self.pool_of(s) or s, self.read_documents)
        if not alive:
            holders.check(self, claim.plan)
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

    # -- pools and their documents ------------------------------------------------------------------------------------

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
        """Yield the spans of a pool's documents; see `documents.read_spans`.

        Raises:
            NotFoundError: when nothing of that name is known.
        """
        return read_spans(self._pool_path(pool))

    def document_table(self, pool: str) -> DocumentStarts:
        """Return a pool's table of documents, opened; one at a URL is copied for it, once.

        Raises:
            NotFoundError: when nothing of that name is known.
        """
        path = self._pool_path(pool)
        if not storage.is_url(path):
            return DocumentStarts(path)
        with self._indexing:
            if pool not in self._tables:
                self._tables[pool] = DocumentStarts(path)
            return self._tables[pool]

    def packed(self, segment: Segment) -> Segment:
        """Return a segment, whose pool can be read, with the packing of its documents where its plan has one.

        Raises:
            NotFoundError: when nothing of that name is known.
        """
        if segment.plan.policy != "repack":
            return segment
        plan = segment.plan.without_skips()
        assert isinstance(plan, Repetition), "a plan without its skips is one"
        return segment._replace(packing=self._packing(plan, segment.pool))

    def _packing(self, plan: Repetition, pool: str) -> Packing:
        """Return how a plan of the policy `repack` packs the documents of its subset, which is cut from `pool`."""
        table = self.document_table(pool)
        with self._indexing:
            if plan.fingerprint not in self._packings:
                while len(self._packings) >= MOST_PACKINGS:
                    del self._packings[next(iter(self._packings))]
                self._packings[plan.fingerprint] = Packing.of(plan, table, plan.start_sample * plan.seq_len)
            return self._packings[plan.fingerprint]

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
