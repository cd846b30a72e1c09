"""Documents that a build is told to leave out: lists of keys, ids or texts, as `carve --without` reads them.

They are left out of the pool and of its validation pool, before deduplication: the copy of one is another row with the
same key and left out too; a near-duplicate is another document, which stays unless a list names it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from ...common.errors import RequestError
from ...shards.manifest import LeftOut
from ...shards.without.lists import NameList, read_list

STEP = "exclude"
"""What the waterfall and filtered.parquet call it."""


@dataclass
class Exclusion:
    """Decides which documents are left out, and counts them; in the form of a filter.

    Attributes:
        lists: see above.
        seen: documents that were looked at.
        changed: none.
        reasons: documents by the name of the list that they are in, the first where there are several.
        samples: none: what somebody wants out of a pool is not shown in its report.
        keys: of documents that were found, of those that the lists hold.
        ids: the same.
    """

    lists: Sequence[NameList]
    label: str = STEP
    seen: int = 0
    changed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[Any, ...]] = field(default_factory=list)
    keys: set[bytes] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        numbered = list(reversed(list(enumerate(self.lists))))
        self._by_key = {key: n for n, one in numbered for key in one.values("key", "text")}
        self._by_id = {id_: n for n, one in numbered for id_ in one.values("id")}

    def list_of(self, key: bytes, identifier: str) -> str | None:
        """Return the name of the list that a document is in, None where it is in none; count it."""
        self.seen += 1
        found = [n for n in (self._by_key.get(key), self._by_id.get(identifier)) if n is not None]
        if not found:
            return None
        if key in self._by_key:
            self.keys.add(key)
        if identifier in self._by_id:
            self.ids.add(identifier)
        name = self.lists[min(found)].name
        self.reasons[name] += 1
        return name

    def counts(self) -> dict[str, list[str]]:
        """Return what a part says of it."""
        return {"keys": sorted(key.hex() for key in self.keys), "ids": sorted(self.ids)}


def read_lists(paths: Sequence[str]) -> bytes:
    """Return the lists at `paths` as the tasks of a build read them.

    Raises:
        RequestError: for one that cannot be read.
    """
    lists = [read_list(path) for path in paths]
    twice = [name for name, n in Counter(one.name for one in lists).items() if n > 1]
    if twice:
        raise RequestError(f"exclude: two lists are named {twice[0]}: rename one, so that what it found can be told")
    lines = [[[(k, v.hex() if isinstance(v, bytes) else v) for k, v in line] for line in one.lines] for one in lists]
    return orjson.dumps([[one.name, of_one] for one, of_one in zip(lists, lines, strict=True)])


def load_lists(data: bytes) -> list[NameList]:
    """Return the lists that `read_lists` wrote."""
    return [
        NameList(name, tuple(tuple((k, v if k == "id" else bytes.fromhex(v)) for k, v in line) for line in lines))
        for name, lines in orjson.loads(data)
    ]


def said_of(lists: Sequence[NameList], found: Iterable[dict[str, list[str]]], reasons: dict[str, int]) -> list[LeftOut]:
    """Return what a build's lists found.

    Args:
        lists: see above.
        found: of each part, its `Exclusion.counts`.
        reasons: documents by name of list.
    """
    parts = list(found)
    keys = {bytes.fromhex(key) for part in parts for key in part["keys"]}
    ids = {id_ for part in parts for id_ in part["ids"]}
    said = []
    for one in lists:
        lines = one.found(keys, ids)
        counts = {"keys": lines["key"], "ids": lines["id"], "texts": lines["text"], "unmatched": lines[None]}
        documents = reasons.get(one.name, 0)
        said.append(LeftOut(name=one.name, kind="list", documents=documents, lines=len(one.lines), **counts))
    return said
