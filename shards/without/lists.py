"""Lists of documents to leave out, as people write them: keys, ids or texts, one a line, or JSON lines.

A plain line is looked for as a key, as an id and as a text; which of them it was is counted. A JSON line says it:
`{"key": ...}`, `{"id": ...}` or `{"text": ...}`; where it has several, the first of these counts.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ...common import storage
from ...common.errors import RequestError, printable, without_secrets
from ...common.json_text import strict_json
from ...common.text import content_key, normalise

Kind = Literal["key", "id", "text"]
KINDS: tuple[Kind, ...] = ("key", "id", "text")
"""What a line may be, in the order in which the fields of a JSON line count."""

_HEX_KEY = re.compile("[0-9a-fA-F]{32}")


Candidate = tuple[Kind, bytes | str]
"""What a line may name: the 16 bytes of a key, also of that of a text, or an id."""


@dataclass(frozen=True)
class NameList:
    """A list of documents.

    Attributes:
        name: of its file.
        lines: what each line that is not empty may name.
    """

    name: str
    lines: tuple[tuple[Candidate, ...], ...]

    def values(self, *kinds: Kind) -> list[Any]:
        """Return the distinct values that its lines may name as one of some kinds, in order."""
        return list(dict.fromkeys(value for line in self.lines for kind, value in line if kind in kinds))

    def found(self, keys: Container[bytes], ids: Container[str]) -> Counter[Kind | None]:
        """Return how many lines name a document as which kind, given the keys and ids that documents have; those that
        name none are counted as None."""
        return Counter(
            next((kind for kind, value in line if value in (ids if kind == "id" else keys)), None)
            for line in self.lines
        )


def read_list(path: str) -> NameList:
    """Return what the list at `path` (file or URL) names.

    Raises:
        RequestError: where there is none, or a line cannot be read.
    """
    name = without_secrets(path, {}).rstrip("/").rpartition("/")[2]
    return list_of(printable(name), read_entries(path))


Entry = tuple[Kind | None, str]
"""A line of a list: as what it is to be taken (None: it does not say), and what it says."""


def list_of(name: str, entries: Iterable[Entry]) -> NameList:
    """Return the list of `entries`, whose keys have 32 hexadecimal digits."""
    return NameList(name, tuple(_candidates(kind, value) for kind, value in entries))


def _candidates(said: Kind | None, value: str) -> tuple[Candidate, ...]:
    found: list[Candidate] = []
    if said in (None, "key") and _HEX_KEY.fullmatch(value):
        found.append(("key", bytes.fromhex(value)))
    if said in (None, "id"):
        found.append(("id", value))
    if said in (None, "text"):
        found.append(("text", content_key(normalise(value))))
    return tuple(found)


def read_entries(path: str) -> Iterator[Entry]:
    """Yield what each line of the list at `path` (file or URL) says.

    Raises:
        RequestError: as `read_list`.
    """
    lines = _lines(path)
    json_lines = next((line for line in lines if line.strip()), "").lstrip().startswith("{")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _field(path, number, line) if json_lines else (None, line.strip())


def _lines(path: str) -> list[str]:
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise RequestError(f"{path} is no file: name one with keys, ids or texts of documents, one a line") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not UTF-8 text: write keys, ids or texts of documents, one a line") from None
    lines = text.replace("\r\n", "\n").split("\n")
    if not any(line.strip() for line in lines):
        raise RequestError(f"{path} is empty: write keys, ids or texts of documents in it, one a line")
    return lines


def _field(path: str, number: int, line: str) -> tuple[Kind, str]:
    try:
        entry: Any = strict_json(line)
    except ValueError as error:
        raise RequestError(f"{path}, line {number}: {error}") from None
    for kind in KINDS:
        value = entry.get(kind) if isinstance(entry, dict) else None
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RequestError(f"{path}, line {number}: its {kind} is neither text nor a whole number")
        if kind == "key" and not _HEX_KEY.fullmatch(str(value)):
            raise RequestError(f"{path}, line {number}: a key has 32 hexadecimal digits")
        return kind, str(value)
    raise RequestError(f"{path}, line {number}: it names no document: give it a field key, id or text")
