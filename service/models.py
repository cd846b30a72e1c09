"""The tables of the service. A change here needs a migration: a test holds the two against each other.

Times are seconds since 1970 by the database's clock. Fingerprints are 32 hexadecimal digits. Positions count samples.
"""

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

INT = 2**63 - 1
"""The largest number that a column takes."""

Fingerprint = String(32)
Name = String(500)
Identity = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself there


class Base(DeclarativeBase):
    """Base of all tables."""


class Artifact(Base):
    """A pool or subset, by fingerprint.

    Attributes:
        pool: fingerprint of the pool whose stream it is cut from (its own for one).
    """

    __tablename__ = "artifacts"
    fingerprint: Mapped[str] = mapped_column(Fingerprint, primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    pool: Mapped[str] = mapped_column(Fingerprint, index=True)
    tokens: Mapped[int] = mapped_column(BigInteger)
    samples: Mapped[int] = mapped_column(BigInteger)
    documents: Mapped[int] = mapped_column(BigInteger)
    seq_len: Mapped[int] = mapped_column(BigInteger)
    tokenizer: Mapped[str] = mapped_column(Name)
    tokenizer_fingerprint: Mapped[str] = mapped_column(Name)
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)
    added: Mapped[float] = mapped_column(Float)


class Location(Base):
    """A folder or URL where an artifact lies, or lay (`gone`: when it was first missed)."""

    __tablename__ = "locations"
    path: Mapped[str] = mapped_column(String(4000), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(ForeignKey("artifacts.fingerprint"), index=True)
    layout: Mapped[str] = mapped_column(String(10))
    manifest_xxh64: Mapped[str] = mapped_column(String(16))
    added: Mapped[float] = mapped_column(Float)
    gone: Mapped[float | None] = mapped_column(Float)


class NameEntry(Base):
    """From `since` on, `name` meant `fingerprint`: the last row of a (kind, name) is what it means now."""

    __tablename__ = "names"
    id: Mapped[int] = mapped_column(Identity, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(10))
    name: Mapped[str] = mapped_column(Name)
    fingerprint: Mapped[str] = mapped_column(Fingerprint, index=True)
    since: Mapped[float] = mapped_column(Float)
    __table_args__ = (Index("names_by_name", "kind", "name", "id"),)


class PlanRow(Base):
    """A plan or mixture: its numbers as `to_dict` gives them."""

    __tablename__ = "plans"
    fingerprint: Mapped[str] = mapped_column(Fingerprint, primary_key=True)
    plan: Mapped[dict[str, Any]] = mapped_column(JSON)
    added: Mapped[float] = mapped_column(Float)


class PlanSubset(Base):
    """A subset (or pool) that a plan trains on: one, or the sources of a mixture."""

    __tablename__ = "plan_subsets"
    plan: Mapped[str] = mapped_column(ForeignKey("plans.fingerprint"), primary_key=True)
    subset: Mapped[str] = mapped_column(Fingerprint, primary_key=True, index=True)


class RunRow(Base):
    """A run of a plan.

    Attributes:
        parent: the run whose model it continues, and where it took over.
        parent_position: the run whose model it continues, and where it took over.
        details: what the run says of itself (model, objective, identity).
        state: open, or how it was closed (finished, failed, stopped).
        position: of the furthest report of the newest lease (token) that reported: a run that goes on from an earlier
            checkpoint goes back there.
        tokens: see `position`.
        loss: see `position`.
        kind: see `position`.
        digest: see `position`.
        reported: see `position`.
        receipt: what it handed in at its end.
        receipt_problem: why it is not valid (empty: it is; null: not checked yet).
        thinned: how many of its reports were taken out because they were old, see operations/thinning.py.
    """

    __tablename__ = "runs"
    fingerprint: Mapped[str] = mapped_column(Fingerprint, primary_key=True)
    name: Mapped[str] = mapped_column(Name, index=True)
    plan: Mapped[str] = mapped_column(ForeignKey("plans.fingerprint"), index=True)
    batch_samples: Mapped[int] = mapped_column(BigInteger)
    parent: Mapped[str | None] = mapped_column(ForeignKey("runs.fingerprint"), index=True)
    parent_position: Mapped[int] = mapped_column(BigInteger)
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(10))
    token: Mapped[int] = mapped_column(BigInteger)
    position: Mapped[int] = mapped_column(BigInteger)
    tokens: Mapped[int] = mapped_column(BigInteger)
    loss: Mapped[float | None] = mapped_column(Float)
    kind: Mapped[str | None] = mapped_column(String(20))
    digest: Mapped[str | None] = mapped_column(Fingerprint)
    reported: Mapped[float | None] = mapped_column(Float)
    receipt: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    receipt_problem: Mapped[str | None] = mapped_column(String(1000))
    added: Mapped[float] = mapped_column(Float)
    thinned: Mapped[int] = mapped_column(BigInteger, server_default="0")


class Lease(Base):
    """Who may report for a run name: one row a name, so that a lock on it decides. token rises with every holder.

    Attributes:
        holder: who it is (a folder of a run keeps its own).
        session: the process; asking again gives it the same lease.
        seconds: how long it lasts after each report.
        calls: how many calls the session has made under it, as it counts them: a session that counts more was
            acknowledged what this database has lost.
    """

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(Name, primary_key=True)
    run: Mapped[str] = mapped_column(ForeignKey("runs.fingerprint"))
    token: Mapped[int] = mapped_column(BigInteger)
    holder: Mapped[str] = mapped_column(String(128))
    session: Mapped[str] = mapped_column(String(128))
    seconds: Mapped[float] = mapped_column(Float)
    calls: Mapped[int] = mapped_column(BigInteger, server_default="0")
    until: Mapped[float] = mapped_column(Float)


class Report(Base):
    """What a run said at a position, under a lease.

    Attributes:
        split: train or validation.
        kind: what the loss is, as nll.
    """

    __tablename__ = "reports"
    run: Mapped[str] = mapped_column(ForeignKey("runs.fingerprint"), primary_key=True)
    token: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    split: Mapped[str] = mapped_column(String(10), primary_key=True)
    tokens: Mapped[int] = mapped_column(BigInteger)
    loss: Mapped[float | None] = mapped_column(Float)
    kind: Mapped[str | None] = mapped_column(String(20))
    digest: Mapped[str | None] = mapped_column(Fingerprint)
    at: Mapped[float] = mapped_column(Float)


class Checkpoint(Base):
    """A checkpoint that a run wrote."""

    __tablename__ = "checkpoints"
    run: Mapped[str] = mapped_column(ForeignKey("runs.fingerprint"), primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(400), primary_key=True)
    digest: Mapped[str | None] = mapped_column(Fingerprint)
    at: Mapped[float] = mapped_column(Float)


class Limit(Base):
    """A cap that runs are held against when they start.

    Attributes:
        kind: exposures (of a document, over a run's ancestry), subset_exposures (over those parts of it that train on
            the run's own subset), tokens (over its ancestry).
        subset: holds only for runs that train on it; null: for all.
    """

    __tablename__ = "limits"
    id: Mapped[int] = mapped_column(Identity, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(20))
    cap: Mapped[int] = mapped_column(BigInteger)
    subset: Mapped[str | None] = mapped_column(Fingerprint)
    added: Mapped[float] = mapped_column(Float)


class OptOut(Base):
    """A version of a list of documents that are to be fed no more. The last version of a name is in force.

    Attributes:
        fingerprint: of name, version and documents.
        version: from 1.
        documents: what each line names: [kind, value] with the kinds key and id, or null for a line that does not say.
        lines: how many they are.
        digest: of the documents, in any order.
    """

    __tablename__ = "optouts"
    fingerprint: Mapped[str] = mapped_column(Fingerprint, primary_key=True)
    name: Mapped[str] = mapped_column(Name)
    version: Mapped[int] = mapped_column(BigInteger)
    documents: Mapped[list[Any]] = mapped_column(JSON)
    lines: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(Fingerprint)
    added: Mapped[float] = mapped_column(Float)
    __table_args__ = (Index("optouts_by_name", "name", "version", unique=True),)


class AuditEntry(Base):
    """A change that somebody made, entered together with it.

    Attributes:
        who: the name of the request's token, or the user of a command; empty where the service asks for no tokens.
        client: address that the request came from.
        request: its id.
        action: what was done, as `limit set`.
        what: to what, in words.
    """

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(Identity, primary_key=True, autoincrement=True)
    at: Mapped[float] = mapped_column(Float)
    who: Mapped[str] = mapped_column(String(200))
    client: Mapped[str] = mapped_column(String(100))
    request: Mapped[str] = mapped_column(String(128))
    action: Mapped[str] = mapped_column(String(30))
    what: Mapped[str] = mapped_column(String(1000))


class Answer(Base):
    """What a request that acts once was answered: sent again with its key, it is answered so again. Kept for a day.

    Attributes:
        key: digest of the request's `Idempotency-Key` and of who sent it.
        request: digest of what it asked for.
    """

    __tablename__ = "answers"
    key: Mapped[str] = mapped_column(Fingerprint, primary_key=True)
    request: Mapped[str] = mapped_column(Fingerprint)
    answer: Mapped[Any] = mapped_column(JSON)
    at: Mapped[float] = mapped_column(Float, index=True)
