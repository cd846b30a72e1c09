"""The evaluation items that a build is decontaminated against: which there are, and the texts of each.

An item is a row of a JSONL file. Its texts are every string in the row; each string followed by each element of a list
of strings (a question and each of its choices); and neighbouring strings joined (a context and its continuation).
"""

import codecs
import itertools
from collections.abc import Iterator, Sequence

import fsspec
import orjson

from ...common import storage
from ...common.errors import RequestError, WorkError
from ...common.unpack import DamagedError, lines, unpacked
from ..sources.listing import matching


def read_items(files: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
    """Yield (file name, row from 0, JSON) of each item in the JSONL `files` (paths, globs, URLs), plain or compressed.

    Raises:
        RequestError: for a file that does not exist or holds no item, or a row that is not JSON.
        WorkError: for a file that ends early or is damaged.
    """
    for path in item_files(files):
        name = path.rstrip("/").rpartition("/")[2]
        row = -1
        for row, line in _rows(path):
            yield name, row, line
        if row < 0:
            raise RequestError(f"decontaminate.files: {path} holds no item: correct it or leave it out")


def item_texts(line: bytes) -> list[str]:
    """Return the texts of an item, given its JSON, as the head of this file defines them."""
    strings: list[str] = []
    lists: list[list[str]] = []
    _collect(orjson.loads(line), strings, lists)
    texts = list(strings)
    texts += [f"{a} {b}" for a, b in itertools.pairwise(strings)]
    texts += [f"{s} {choice}" for s in strings for choices in lists for choice in choices]
    texts += [choice for choices in lists for choice in choices]
    return texts


def _collect(value: object, strings: list[str], lists: list[list[str]]) -> None:
    if isinstance(value, str):
        strings.append(value)
    elif isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        lists.append(value)
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _collect(inner, strings, lists)


def item_files(files: Sequence[str]) -> Iterator[str]:
    """Yield the path or URL of each of the `files` (paths, globs, URLs).

    Raises:
        RequestError: for one that does not exist, or is a folder.
    """
    for pattern in files:
        local = not storage.is_url(pattern)  # then as it is written, whatever `::` would mean in a URL
        path = storage.local_path(pattern)
        fs, path = (fsspec.filesystem("file"), path) if local else fsspec.core.url_to_fs(path)
        matches = [path] if fs.exists(path) else matching(fs, path)
        if not matches:
            raise RequestError(f"decontaminate.files: {pattern} does not exist")
        if fs.isdir(path):
            folder = pattern.rstrip("/")
            raise RequestError(f"decontaminate.files: {pattern} is a folder: name its files, as in {folder}/*.jsonl")
        yield from (fs.unstrip_protocol(match) if "://" in pattern else match for match in matches)


def _rows(path: str) -> Iterator[tuple[int, bytes]]:
    row = -1
    try:
        with storage.open_read(path) as f:
            for row, line in enumerate(lines(unpacked(f, path))):
                if row == 0:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    orjson.loads(line)
                    yield row, line
    except orjson.JSONDecodeError as error:
        raise RequestError(
            f"decontaminate.files: {path} row {row + 1} is not JSON: write one item a line ({error})"
        ) from None
    except DamagedError as error:
        until = f" (after row {row + 1})" if row >= 0 else ""
        raise WorkError(f"decontaminate.files: {path} {error}{until}: fetch it again, as JSON lines") from None
