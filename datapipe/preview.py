"""What a build would read, judged by a sample of each source: `epochal build --dry-run`."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sized
from typing import Any

from ..common import storage
from ..common.cli import output_columns
from ..common.errors import printable
from ..common.html import count
from ..common.rows.fields import field_of
from ..common.units import format_bytes, round_count
from ..common.unpack import ENDINGS as COMPRESSED
from ..tokenize.tokenizer import Tokenizer
from .build import checked, with_tokenizer
from .config import Build, Source
from .sources.auto import named_format
from .sources.base import Intake
from .sources.listing import InputFile, Listing
from .sources.registry import make_reader
from .target import targets_of
from .text.excerpts import excerpt

SAMPLE_ROWS, SAMPLE_CHARACTERS = 1000, 1 << 20
"""Of one file of each kind in a source, by the end of its name: at most so much is read, with rows that are no use."""

NAMES_SHOWN = 5

SHOWN_CHARS, LEAST_CHARS = 100, 32
"""Of the first text of each kind of file."""


def preview(config: Build) -> dict[str, Any]:
    """Return what `config` would read and where it would go: JSON values only, see `describe`.

    Raises:
        RequestError: for a wrong request.
        WorkError: when a file of the sample is damaged.
    """
    notes: list[str] = []
    targets = targets_of(config)
    config, tokenizer = with_tokenizer(config, notes.append)
    listings = checked(config, tokenizer, notes.append)
    sources = [_source(config, config.sources[item.source], item, tokenizer) for item in listings]
    return {
        "pool": targets[0],
        "already_there": storage.exists(targets[0]),
        "tokenizer": tokenizer.info.name,
        "notes": notes,
        "sources": sources,
    }


def _source(config: Build, source: Source, listing: Listing, tokenizer: Tokenizer) -> dict[str, Any]:
    size = sum(file.size for file in listing.files)
    kinds = [source.format if source.format != "auto" else named_format(file.name) or "auto" for file in listing.files]
    found: dict[str, Any] = {
        "name": source.name,
        "path": source.path,
        "files": len(listing.files),
        "bytes": size,
        "formats": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "not_read": [[name, why] for name, why in [*listing.refused, *listing.left_out]],
    }
    if source.format == "hub" or not size:
        return found | {"samples": []}
    ends: dict[str, list[InputFile]] = {}
    for file in sorted(listing.files, key=lambda file: (file.size, file.name)):
        ends.setdefault(_end(file.name), []).append(file)
    return found | {"samples": [_sample(config, source, listing, ends[end], tokenizer) for end in sorted(ends)]}


def _end(name: str) -> str:
    """Return the end of a file's name that says its kind: `.jsonl`, `.jsonl.gz`."""
    stem, end = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] + end if end in COMPRESSED else end


def _sample(
    config: Build, source: Source, listing: Listing, files: list[InputFile], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Return what the beginning of one of some files holds, and what that makes of all of them together."""
    file = files[len(files) // 2]  # in the order of their sizes: it is like most
    size = sum(other.size for other in files)
    intake = Intake(written=config.written)
    reader = make_reader(listing, source, intake, False, config.tokenizer)
    with contextlib.closing(reader._rows(file)) as rows_of_file:  # which counts the bytes of what was taken
        some = _first_rows(rows_of_file, source.text_key)
        texts = [document.text for document in reader._documents([(file, some)])]
    rows = sum(intake.rows.values())
    read = intake.bytes_read or file.size
    tokens = sum(len(ids) + 1 for ids in tokenizer.encode(texts))
    return {
        "file": file.name,
        "rows": rows,
        "without_a_document": {why: [n, intake.first[why][3]] for why, n in intake.rejected.items()},
        "left_out_by_where": sum(judged.false + judged.null for judged in intake.judged.values()),
        "documents": round(len(texts) * size / read),
        "tokens": round(tokens * size / read),
        "first_text": excerpt(texts[0]) if texts else None,
    }


def _first_rows(rows: Iterator[tuple[int, Any]], text_key: str) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a sample."""
    characters = 0
    for row, content in itertools.islice(rows, SAMPLE_ROWS):
        text = field_of(content, text_key) if isinstance(content, dict) else content  # which is ids, or a reason
        characters += len(text) if isinstance(text, Sized) else 0
        yield row, content
        if characters >= SAMPLE_CHARACTERS:
            return


def describe(found: dict[str, Any]) -> str:
    """Return the lines that `epochal build --dry-run` prints."""
    said = tuple(f"source {s['name']}: {count(s['files'], 'file')} by their names" for s in found["sources"])
    lines = [note for note in found["notes"] if not note.startswith(said)]
    for source in found["sources"]:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in source["formats"].items())
        lines.append(
            f"source {source['name']}: {count(source['files'], 'file')} ({kinds}), {format_bytes(source['bytes'])}"
        )
        not_read = source["not_read"]
        lines += [f"  not read: {name} ({why})" for name, why in not_read[:NAMES_SHOWN]]
        if not_read[NAMES_SHOWN:]:
            lines.append(f"  and {len(not_read) - NAMES_SHOWN:,} more are not read")
        lines += _said_of_samples(source["samples"])
    where = "is there already" if found["already_there"] else "would be made"
    lines.append(f"{found['pool']} {where}; tokenizer {found['tokenizer']}; nothing was written")
    return "\n".join(lines)


def _said_of_samples(samples: list[dict[str, Any]]) -> list[str]:
    if not samples:
        return ["  nothing of it was looked at: its size is not known before it is read"]
    documents, tokens = (sum(sample[key] for sample in samples) for key in ("documents", "tokens"))
    lines = [
        f"  about {round_count(documents)} documents and {round_count(tokens)} tokens before filters and "
        "deduplication, judged by"
    ]
    for sample in samples:
        said = f"    {sample['file']}, {count(sample['rows'], 'row')}"
        text = _beginning(sample["first_text"] or "", output_columns() - len(said) - 2)
        lines.append(said + (f": {text}" if text else ""))
        if left_out := sample["left_out_by_where"]:
            lines.append(f"    {count(left_out, 'row')} left out by where")
        lines += [
            f"    {count(n, 'row')} without a document: {why}"
            + (f" (the fields are {', '.join(fields)})" if fields else "")
            for why, (n, fields) in sample["without_a_document"].items()
        ]
    return lines


def _beginning(text: str, room: int) -> str:
    line, shown = printable(" ".join(text.split())), max(LEAST_CHARS, min(SHOWN_CHARS, room))
    return line if len(line) <= shown else f"{line[: shown - 1]}…"
