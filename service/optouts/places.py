"""Where the documents of an opt-out list lie in a pool, from the service's index of its documents."""

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...shards.order.base import Order
from ...shards.without.lists import NameList
from ..document_index import DocumentIndex
from ..ledger import Segment
from .lists import InForce, names

T = TypeVar("T")

MOST_REMEMBERED = 1000
"""Lists, and lists in a pool, of which it is remembered what they name: neither ever changes."""


class Spans(NamedTuple):
    """Documents of a pool, in its order: keys, ids, first positions and tokens (int64) in its stream."""

    keys: tuple[bytes, ...]
    ids: tuple[str, ...]
    starts: NDArray[np.int64]
    tokens: NDArray[np.int64]


class Known(Protocol):
    """What is asked of the service: see there."""

    optouts: "Places"

    def read(self, question: Callable[..., T], *args: Any) -> T: ...
    def plan(self, text: str) -> Order: ...
    def pool_of(self, subset: str) -> str | None: ...
    def packed(self, segment: Segment) -> Segment: ...
    def index(self, pool: str) -> DocumentIndex | None: ...


class Places:
    """Finds the documents of lists in pools, each once. Safe to share among threads."""

    def __init__(self, service: Known) -> None:
        self._service, self._lock = service, threading.Lock()
        self._lists: dict[str, _Wanted] = {}
        self._found: dict[tuple[str, str], Spans] = {}

    def names(self, of: InForce) -> NameList:
        """Return the documents that a version of a list names."""
        return self._wanted(of).names

    def at(self, of: InForce, pool: str) -> Spans | None:
        """Return where the documents of a list lie in the stream of `pool` (a fingerprint: of a pool, or of a subset
        that has a stream of its own); None where its documents cannot be looked at."""
        asked = (of.fingerprint, pool)
        if asked not in self._found:
            index = self._service.index(pool)
            if index is None:
                return None
            wanted = self._wanted(of)
            found = index.many(wanted.keys, wanted.ids)
            starts, tokens = (np.array([getattr(d, k) for d in found], np.int64) for k in ("start", "tokens"))
            keys = tuple(bytes.fromhex(d.key) for d in found)
            with self._lock:
                _make_room(self._found)
                self._found[asked] = Spans(keys, tuple(d.id for d in found), starts, tokens)
        return self._found[asked]

    def _wanted(self, of: InForce) -> "_Wanted":
        if of.fingerprint not in self._lists:
            wanted = _Wanted(self._service.read(names, of))
            with self._lock:
                _make_room(self._lists)
                self._lists[of.fingerprint] = wanted
        return self._lists[of.fingerprint]


class _Wanted:
    """What a list names, as sets."""

    def __init__(self, named: NameList) -> None:
        self.names = named

    @cached_property
    def keys(self) -> frozenset[bytes]:
        return frozenset(self.names.values("key", "text"))

    @cached_property
    def ids(self) -> frozenset[str]:
        return frozenset(self.names.values("id"))


def _make_room(remembered: dict) -> None:
    while len(remembered) >= MOST_REMEMBERED:
        del remembered[next(iter(remembered))]
