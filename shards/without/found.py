"""Which documents of a pool lists and a condition name, and the table of them, without.parquet."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ...common import storage
from ...common.errors import RequestError, WorkError
from ...common.publish import FileInfo
from ...common.rows.where import Condition, ConditionError
from .. import arrow
from ..artifact import Artifact
from ..description.subject import kept_of
from ..documents import SCHEMA, open_documents, readable
from ..manifest import LeftOut, Manifest, Without
from .cut import Removed
from .lists import NameList, read_list

WITHOUT_NAME = "without.parquet"
TABLE = pa.schema([*(SCHEMA.field(name) for name in ("key", "id", "source", "start", "tokens")), ("by", pa.string())])
"""Of without.parquet: the documents' rows in the pool's table, and the name of the list or condition that took each
out, the first where there are several."""

OWN_FIELDS = ("id", "source", "tokens")
"""Columns of documents.parquet that a condition may look at besides those that the build kept."""

_AT_ONCE = 4096


@dataclass(frozen=True)
class TakenOut:
    """Documents that are taken out of a pool.

    Attributes:
        table: of without.parquet, in the order of the pool.
        by: what named them.
    """

    table: pa.Table
    by: tuple[LeftOut, ...]

    @property
    def removed(self) -> Removed:
        """Their ranges of the pool's stream."""
        starts = arrow.integers(self.table["start"])
        return Removed(starts, starts + arrow.integers(self.table["tokens"]))

    @cached_property
    def digest(self) -> str:
        """BLAKE2b-128 of their keys in ascending order."""
        return keys_digest(self.table)

    def said(self, left_over: int, stop: int) -> Without:
        """Return what a manifest says of them; the numbers as there."""
        return Without(
            documents=len(self.table),
            tokens=int(arrow.integers(self.table["tokens"]).sum()),
            digest=self.digest,
            left_over=left_over,
            stop=stop,
            by=list(self.by),
        )

    def parquet(self) -> bytes:
        """Return the bytes of without.parquet."""
        file = io.BytesIO()
        pq.write_table(self.table, file, compression="zstd")
        return file.getvalue()


def keys_digest(table: pa.Table) -> str:
    """Return BLAKE2b-128 of the keys of documents in ascending order, 32 hexadecimal digits."""
    return hashlib.blake2b(b"".join(sorted(table["key"].to_pylist())), digest_size=16).hexdigest()


def find(pool: Artifact, lists: Sequence[str | NameList], condition: str | None) -> TakenOut:
    """Return the documents of a pool that are to be taken out.

    Args:
        pool: see above.
        lists: files or URLs, see lists.py; or what was read from some.
        condition: in the language of a source's `where`, on the columns of documents.parquet that the build kept, and
            those of OWN_FIELDS.

    Raises:
        RequestError: for a list or a condition that cannot be used.
        WorkError: for a damaged table.
    """
    read = (read_list(one) if isinstance(one, str) else one for one in lists)
    tests: list[_InList | _Holds] = [_InList(one) for one in read]
    tests += [_Holds(condition, pool.manifest)] if condition is not None else []
    columns = list(dict.fromkeys(["key", "id", "source", "start", "tokens", *(c for t in tests for c in t.columns)]))
    chosen = []
    for table in groups(pool.root, columns):
        first = np.full(len(table), len(tests))
        for number, test in reversed(list(enumerate(tests))):
            first[test.hits(table)] = number
        rows = np.flatnonzero(first < len(tests))
        if len(rows):
            taken = table.select(TABLE.names[:-1]).take(arrow.numbers(rows))
            chosen.append(taken.append_column("by", arrow.strings([tests[n].name for n in first[rows].tolist()])))
    whole = pa.concat_tables([TABLE.empty_table(), *(part.cast(TABLE) for part in chosen)])
    return TakenOut(whole.unify_dictionaries().combine_chunks(), tuple(test.said() for test in tests))


def groups(root: str, columns: list[str]) -> Iterator[pa.Table]:
    """Yield the table of documents of an artifact, a row group at a time; keys as they are today."""
    with open_documents(root) as f:
        for table in f.groups(columns):
            with readable(root):
                at = table.schema.get_field_index("key")
                yield table.set_column(at, SCHEMA.field("key"), table["key"].cast(pa.binary()))


class _InList:
    """Whether a document is in a list; counts what was found."""

    columns: Sequence[str] = ()

    def __init__(self, entries: NameList) -> None:
        self._entries = entries
        self.name = entries.name
        self._keys = arrow.column(entries.values("key", "text"), pa.binary())
        self._ids = arrow.strings(entries.values("id"))
        self._found: tuple[set[bytes], set[str]] = (set(), set())
        self._documents = 0

    def hits(self, table: pa.Table) -> NDArray[np.int64]:
        """Return which rows it holds for."""
        import pyarrow.compute as pc

        by_key, by_id = pc.is_in(table["key"], self._keys), pc.is_in(table["id"], self._ids)
        self._found[0].update(table["key"].filter(by_key).to_pylist())
        self._found[1].update(table["id"].filter(by_id).to_pylist())
        hit = arrow.array(pc.indices_nonzero(pc.or_(by_key, by_id))).astype(np.int64)
        self._documents += len(hit)
        return hit

    def said(self) -> LeftOut:
        """Return what it found."""
        lines = self._entries.found(*self._found)
        return LeftOut(
            name=self.name,
            kind="list",
            documents=self._documents,
            lines=len(self._entries.lines),
            keys=lines["key"],
            ids=lines["id"],
            texts=lines["text"],
            unmatched=lines[None],
        )


class _Holds:
    """Whether a condition holds for a document; counts those for which it is true, and for which it is null."""

    def __init__(self, text: str, pool: Manifest) -> None:
        known = [*kept_of(pool), *OWN_FIELDS]
        try:
            self._condition = Condition(text)
        except ConditionError as error:
            raise RequestError(f"--without-matching: {error}") from None
        self.name = text
        self.columns = self._condition.columns
        missing = [name for name in self.columns if name not in known]
        if missing:
            raise RequestError(
                f"--without-matching: the documents of pool '{pool.name}' have no field '{missing[0]}': there are "
                f"{', '.join(known)} (a build keeps more with keep: [{missing[0]}])"
            )
        self._true = self._null = 0

    def hits(self, table: pa.Table) -> NDArray[np.int64]:
        """Return which rows it holds for."""
        answers: list[bool | None] = []
        for start in range(0, len(table), _AT_ONCE):
            rows = table.slice(start, _AT_ONCE).select(self.columns).to_pylist()
            try:
                answers += self._condition.judge(rows)
            except ConditionError as error:
                document = table["id"][start + (error.row or 0)].as_py()
                raise RequestError(f"--without-matching cannot be used on document '{document}': {error}") from None
        self._null += sum(answer is None for answer in answers)
        hit = np.flatnonzero([answer is True for answer in answers])
        self._true += len(hit)
        return hit

    def said(self) -> LeftOut:
        """Return what it found."""
        return LeftOut(name=self.name, kind="condition", documents=self._true, unknown=self._null)


def read_table(root: str, files: Mapping[str, FileInfo]) -> pa.Table:
    """Return without.parquet of the subset at `root`.

    Args:
        root: folder or URL.
        files: of its manifest.

    Raises:
        WorkError: when it is missing or damaged.
    """
    where = storage.join(root, WITHOUT_NAME)
    listed = files.get(WITHOUT_NAME)

    def other(data: bytes) -> str | None:
        return None if listed == FileInfo.of(data) else "its hash is not the manifest's"

    try:
        data = storage.read_bytes(where, other)
        if other(data):
            raise WorkError(f"{where} is damaged: its hash is not the manifest's; restore it")
        table = pq.read_table(io.BytesIO(data))
        return table.cast(TABLE)
    except FileNotFoundError:
        raise WorkError(f"{where} is missing: restore it") from None
    except (pa.ArrowException, ValueError, KeyError, TypeError, OSError):
        raise WorkError(f"{where} is damaged: it is not the table that it was; restore it") from None


def lines_of(by: Sequence[LeftOut]) -> Iterator[str]:
    """Yield what is said of each list and condition, a line each."""
    for one in by:
        if one.kind == "condition":
            null = f"; {one.unknown:,} of which it is neither true nor false stay" if one.unknown else ""
            yield f"{one.name}: {_count(one.documents, 'document')}{null}"
            continue
        kinds = [_count(n, kind) for n, kind in ((one.keys, "key"), (one.ids, "id"), (one.texts, "text")) if n]
        missed = f"; {one.unmatched:,} matched nothing" if one.unmatched else ""
        found = ", ".join(kinds) or "none"
        yield f"{one.name}: {_count(one.lines, 'line')}, found {found} ({_count(one.documents, 'document')}){missed}"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
