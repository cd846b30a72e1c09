"""Every format of sources by name: how the files are listed, and which reader reads them."""

import hashlib
import itertools
import os
import sysconfig
from collections.abc import Sequence
from dataclasses import replace

from ...common.errors import RequestError
from ..config import Source, TokenizerChoice
from .auto import AutoReader, choose
from .base import Intake, Reader
from .listing import OTHER_FORMAT, InputFile, Listing, list_files
from .parquet import ParquetReader
from .text import HubReader, JsonlReader, TextReader
from .tokens import TokenizedReader, list_tokenized

_MEND = {OTHER_FORMAT: " (write it as JSON lines or Parquet, or name its format)"}


def list_source(number: int, source: Source) -> list[Listing]:
    """Return the listings of a source.

    Raises:
        RequestError: when it has no file.
    """
    if source.tokenized is not None:
        listings = [list_tokenized(number, source)]
    elif source.format == "hub":
        listings = [Listing(number, str(source.path), [InputFile(str(source.path), str(source.path), 0)])]
    elif source.format == "python":
        listings = [_python_listing(number, label, root) for label, root in _python_roots()]
    else:
        listed = list_files(number, source)
        listings = [choose(listed, source) if source.format == "auto" else listed]
    chosen = [replace(item, files=[f for f in item.files if _chosen(f, source)]) for item in listings]
    if not any(item.files for item in chosen):
        refused = (f": {name} {why}" for item in chosen for name, why in item.refused)
        unread = sorted((why != OTHER_FORMAT, name, why) for item in chosen for name, why in item.left_out)
        left_out = (f": {name}, for one, is {why}{_MEND.get(why, '')}" for _, name, why in unread)
        first = next(itertools.chain(refused, left_out), "")
        raise RequestError(f"source '{source.name}': no file to read at {source.path or 'this Python'}{first}")
    return chosen


def _chosen(file: InputFile, source: Source) -> bool:
    if source.max_bytes is not None and file.size > source.max_bytes:
        return False
    draw = int.from_bytes(hashlib.blake2b(file.name.encode(), digest_size=8).digest(), "big")
    return draw < source.fraction * 2**64


def _python_roots() -> list[tuple[str, str]]:
    paths = sysconfig.get_paths()
    return [("stdlib", paths["stdlib"]), ("site-packages", paths["purelib"])]


def _python_listing(number: int, label: str, root: str) -> Listing:
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [d for d in folders if d not in ("__pycache__", "site-packages") and not d.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".py") and not os.path.islink(path):
                relative = os.path.relpath(path, root).replace(os.sep, "/")
                files.append(InputFile(relative, f"{label}/{relative}", os.path.getsize(path)))
    return Listing(number, f"file://{root}", sorted(files, key=lambda f: f.name))


def make_reader(
    listing: Listing,
    source: Source,
    intake: Intake,
    all_columns: bool,
    tokenizer: TokenizerChoice,
    skip_damaged: bool = False,
    keep: Sequence[str] = (),
) -> Reader:
    """Return the pipeline step that reads `listing`.

    Args:
        all_columns: of Parquet, not only those of text and id.
        skip_damaged: leave damaged files of text out, whole, instead of stopping at one.
        keep: names of fields whose values are handed on with each document.
    """
    if source.tokenized is not None:
        return TokenizedReader(listing, source, intake, tokenizer)
    if source.format == "hub":
        return HubReader(listing, source, intake, keep=keep)
    kind = {"jsonl": JsonlReader, "parquet": ParquetReader, "auto": AutoReader}.get(source.format, TextReader)
    return kind(listing, source, intake, skip_damaged, keep, all_columns)
