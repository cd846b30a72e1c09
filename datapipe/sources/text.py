"""Readers of text: JSON lines, text files, Python source, data sets of a hub."""

import codecs
import itertools
import json
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import orjson

from ...common.unpack import MOST_BYTES, DamagedError, lines, marked_encoding, unpacked
from .base import Reader
from .listing import InputFile


class JsonlReader(Reader):
    """Reads JSON lines, plain or compressed."""

    name = "JSONL"

    def _rows(self, file: InputFile) -> Generator[tuple[int, dict[str, Any] | str], None, None]:
        before, row, id_key = self.intake.bytes_read, 0, self.id_key
        with self._opened(file) as raw:
            unfolded = lines(unpacked(raw, file.path))
            try:
                for line in unfolded:
                    if row % 64 == 0:  # asking takes as long as reading a short line
                        self.intake.bytes_read = before + raw.tell()
                        if row == 0:
                            line = line.removeprefix(codecs.BOM_UTF8)
                    if not line.isspace():
                        fields = _parse(line, id_key)
                        if isinstance(fields, str):
                            _check_file(line, row, fields)
                        del line  # it may be long
                        yield row, fields
                        del fields
                    row += 1
            finally:  # also where only the first rows are asked for; at its end the file is closed
                self.intake.bytes_read = before + (file.size if raw.closed else raw.tell())
        self.intake.bytes_read = before + file.size


def _parse(line: bytes, id_key: str) -> dict[str, Any] | str:
    """Return the object in a line, or the reason why there is none."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _parse_slowly(line, str(error))
    if not isinstance(value, dict):
        return "not a JSON object"
    if isinstance(value.get(id_key), float):  # an id is kept as it is written, however many digits it has
        value[id_key] = json.loads(line, parse_float=str)[id_key]
    return value


def _parse_slowly(line: bytes, problem: str) -> dict[str, Any] | str:
    """Return the object in a line that is not JSON but what some programs write for it: NaN and Infinity, which become
    null, a comma behind the object, and a mark before it. Otherwise the reason why there is none."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    try:
        value = json.loads(text.lstrip(_BEFORE).rstrip().removesuffix(","), parse_constant=lambda _: None)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "lone surrogate"
    except (ValueError, RecursionError):
        return "lone surrogate" if "surrogate" in problem else _SEVERAL if _several(text) else "bad JSON"
    return value if isinstance(value, dict) else "not a JSON object"


_BEFORE = "\ufeff\x1e"
"""What may stand before a line: the byte order mark of a file that was joined to another, the mark of RFC 7464."""

_SEVERAL = "several JSON objects on a line"


def _check_file(line: bytes, row: int, problem: str) -> None:
    """Raise DamagedError when a line that is no row shows that the whole file is not what it should be."""
    if len(line) >= MOST_BYTES:
        raise DamagedError(f"has a line of more than {MOST_BYTES >> 20:,} MiB")
    text = line.strip()
    if row == 0 and text.startswith(b"["):
        raise DamagedError("is a JSON array, not a JSON object a line: write it as JSON lines (jq -c '.[]')")
    if row == 0 and text == b"{":
        raise DamagedError("is JSON over several lines, not a JSON object a line: write it as JSON lines (jq -c .)")
    if not line.endswith(b"\n") and problem == _SEVERAL:
        raise DamagedError(f"has {_SEVERAL}: write it as JSON lines (jq -c .)")
    if not line.endswith(b"\n") and (problem == "bad JSON" or (problem == "not UTF-8" and not text.endswith(b"}"))):
        raise DamagedError("ends early, in the middle of a line")


def _several(text: str) -> bool:
    """Return whether a line holds one JSON object after another, as files with other ends of lines, or none, do."""
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return text[:1] == "{" and text[end:].lstrip()[:1] == "{"


class TextReader(Reader):
    """Reads each file as one document whose id is its name."""

    name = "text files"

    def _rows(self, file: InputFile) -> Generator[tuple[int, dict[str, Any] | str], None, None]:
        with self._opened(file) as raw:
            data = unpacked(raw, file.path, markup=False).read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise DamagedError(f"is a text of more than {MOST_BYTES >> 20:,} MiB")
        encoding = marked_encoding(data) or "utf-8"
        try:
            yield 0, {self.text_key: data.removeprefix(codecs.BOM_UTF8).decode(encoding), self.id_key: file.name}
        except UnicodeDecodeError as error:
            if self._source.format == "python":  # a file that says its encoding in a comment is not damaged
                yield 0, "not UTF-8"
            else:
                what = "ends early" if error.end == len(data) else "is damaged, or in another encoding"
                raise DamagedError(f"{what}: it is not {encoding.upper()} from byte {error.start} on") from None
        self.intake.bytes_read += file.size


class HubReader(Reader):
    """Reads a data set by its name, through datatrove's reader."""

    name = "hub"

    def _share(self, rank: int, world_size: int) -> Iterable[tuple[InputFile, Iterable[tuple[int, Any]]]]:
        """Return the one file that stands for the data set, with every world_size-th row of it."""
        return [(self._listing.files[0], self._every_nth_row(rank, world_size))]

    def _every_nth_row(self, rank: int, world_size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        from datatrove.pipeline.readers import HuggingFaceDatasetReader

        batch: list[dict[str, Any]] = []

        def keep(reader: Any, fields: dict[str, Any], path: str, number: str) -> dict[str, Any]:
            """Set a row aside as it came. The answer has a text because datatrove counts and skips what has none."""
            batch.append(fields)
            return {"text": "a row", "id": ""}

        source, numbers = self._source, itertools.count(rank, world_size)
        options = {"split": source.split} | ({"name": source.subset} if source.subset else {})
        reader = HuggingFaceDatasetReader(str(source.path), options, adapter=keep)
        for _ in reader.run(rank=rank, world_size=world_size):
            for fields, number in zip(batch, numbers, strict=False):  # in this order no number is lost between batches
                yield number, fields
            batch.clear()
