"""What the service answers about opt-out lists, as types: JSON data with these keys."""

from typing import Any, Literal, TypedDict


class OptOutList(TypedDict):
    """A version of a list of documents that are to be fed no more.

    Attributes:
        lines: how many documents it names.
        added: seconds since 1970.
    """

    name: str
    version: int
    fingerprint: str
    lines: int
    added: float


class OptOutListFound(OptOutList):
    """A version of a list, and what of it lies in the pools that the service can read.

    Attributes:
        documents: of those pools that its lines name.
        unmatched: lines that name none.
        pools: how many were looked at.
        unread: fingerprints of those that cannot be.
    """

    documents: int
    unmatched: int
    pools: int
    unread: list[str]


class OptOutListInFull(OptOutListFound):
    """A list with all its versions, the newest first."""

    versions: list[OptOutList]


class OptedOut(OptOutListFound):
    """A list that was entered; `new` unless it was in force already.

    Attributes:
        live: the first of the runs that hold documents of it and go on, of `live_runs`.
    """

    new: bool
    live_runs: int
    live: list[dict[str, Any]]


class OptOutPage(TypedDict):
    """A page of lists, the last version of each; `next` is the cursor of the next one."""

    optouts: list[OptOutList]
    next: str | None


class HolderPage(TypedDict):
    """A page of what holds documents of a list; the rows are those of docs/service.md."""

    kind: Literal["pool", "subset", "plan", "run"]
    holders: list[dict[str, Any]]
    next: str | None
