"""The format `auto`: how each file of a source is read is decided by the end of its name, and by its first bytes where
no name says it. What is decided, and which files are not read, is said in the listing's notes."""

import codecs
import dataclasses
from collections import Counter
from collections.abc import Generator
from functools import cached_property
from typing import Any

from ...common.html import count
from ...common.unpack import unpacked, without_compression
from ..config import Source
from .base import Intake, Reader
from .listing import UNKNOWN, InputFile, Listing
from .parquet import ParquetReader
from .text import JsonlReader, TextReader

FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    ".txt": "text", ".text": "text", ".md": "text", ".markdown": "text", ".rst": "text",
}  # fmt: skip
"""By the end of a file's name, in whatever case, with or without that of a compression after it."""

NAMES_SHOWN = 3
_HEAD = 1 << 12


def named_format(name: str) -> str | None:
    """Return the format that a file's name says, None where it says none."""
    stem = without_compression(name.lower())
    return next((known for ending, known in FORMATS.items() if stem.endswith(ending)), None)


def choose(listing: Listing, source: Source) -> Listing:
    """Return `listing` with the files that can be read: those with a known ending; all where none has one."""
    formats = {file.name: named_format(file.name) for file in listing.files}
    if not any(formats.values()):
        return dataclasses.replace(listing, notes=(*listing.notes, _guesses(listing, source)))
    counts = Counter(known for known in formats.values() if known)
    read = ", ".join(f"{n:,} {known}" for known, n in sorted(counts.items()))
    notes = [*listing.notes, f"source {source.name}: {count(counts.total(), 'file')} by their names: {read}"]
    unknown = [name for name, known in formats.items() if known is None]
    files = [file for file in listing.files if formats[file.name]]
    left_out = [*listing.left_out, *((name, UNKNOWN) for name in unknown)]
    return dataclasses.replace(listing, files=files, notes=tuple(notes), left_out=left_out)


def _guesses(listing: Listing, source: Source) -> str:
    """Return a line that says how files are read whose names do not say it."""
    reader, some = AutoReader(listing, source, Intake()), listing.files[:NAMES_SHOWN]
    kinds = [f"{file.name} as {reader.format_of(file)}" for file in some]
    return f"source {source.name}: no name says its kind, so first bytes do: {_shown(kinds, len(listing.files))}"


def _shown(first: list[str], n: int) -> str:
    rest = n - len(first)
    return ", ".join(first) + (f" and {rest:,} more" if rest > 0 else "")


class AutoReader(Reader):
    """Reads each file as its name says, or as its first bytes do."""

    name = "auto"

    @cached_property
    def _readers(self) -> dict[str, Reader]:
        formats: dict[str, type[Reader]] = {"jsonl": JsonlReader, "parquet": ParquetReader, "text": TextReader}
        own = self._listing, self._source, self.intake
        return {name: kind(*own, keep=self._keep, all_columns=self._all_columns) for name, kind in formats.items()}

    def _rows(self, file: InputFile) -> Generator[tuple[int, Any], None, None]:
        """Yield the rows of a file as the reader of its format does."""
        yield from self._readers[self.format_of(file)]._rows(file)

    def format_of(self, file: InputFile) -> str:
        """Return the format of a file; jsonl where its first bytes cannot be read, as that one's reader says why."""
        named = named_format(file.name)
        if named is not None:
            return named
        try:
            with self._opened(file) as raw:
                if format_inside(raw.read(_HEAD)) == "parquet":
                    return "parquet"
                raw.seek(0)
                return format_inside(unpacked(raw, file.path, markup=False).read(_HEAD))
        except (OSError, ValueError):
            return "jsonl"


def format_inside(head: bytes) -> str:
    """Return the format of a file whose content begins with `head`: Parquet, JSON lines, else text."""
    if head.startswith(b"PAR1"):
        return "parquet"
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    return "jsonl" if start in (b"{", b"[") else "text"
