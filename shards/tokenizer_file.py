"""The tokenizer.json that an artifact or a model carries, so that its ids can be read wherever it is taken.

What is carried came from others and is checked before use: it must be the tokenizer whose fingerprint the folder
states. A view of a pool carries none, because it cannot be read without its pool, which does.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import orjson

from ..common import storage
from ..common.errors import EpochalError, WorkError
from ..common.hashing import canonical_json
from ..common.json_text import strict_json
from ..common.publish import FileInfo, Sink
from .artifact import may_ask, read_any_manifest
from .manifest import ExportManifest, Manifest

TOKENIZER_NAME = "tokenizer.json"


def tokenizer_fingerprint(spec: dict[str, Any]) -> str:
    """Return BLAKE2b-128 over what decides ids, as canonical JSON: model, normaliser, pre-tokenizer, added
    tokens."""
    parts = {key: spec.get(key) for key in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    return hashlib.blake2b(_canonical(parts), digest_size=16).hexdigest()


def _canonical(value: Any) -> bytes:
    """Return `canonical_json` of a value: the same bytes, sooner where there are large tables of texts or numbers."""
    if isinstance(value, dict) and len(value) < _LARGE and all(type(key) is str for key in value):
        inner = (canonical_json(key).encode() + b":" + _canonical(value[key]) for key in sorted(value))
        return b"{" + b",".join(inner) + b"}"
    if isinstance(value, dict | list) and len(value) >= _LARGE and _is_plain(value):
        with contextlib.suppress(TypeError):  # a lone surrogate, a number of more than 64 bits
            return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    return canonical_json(value).encode()


def _is_plain(table: dict[Any, Any] | list[Any]) -> bool:
    """Return whether a vocabulary or list of merges has no values but whole numbers, texts, and pairs of texts: of
    others, such as fractions, there are several ways to write them."""
    values: Iterable[Any] = table.values() if isinstance(table, dict) else table
    kinds = set(map(type, values))
    if kinds == {list}:
        kinds = set(map(type, itertools.chain.from_iterable(values)))
    return kinds <= {int, str}


_LARGE = 1000


def dump_tokenizer(spec: dict[str, Any]) -> bytes:
    """Return the bytes of the file: the canonical JSON of `spec`, and a line end."""
    return orjson.dumps(spec, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def read_tokenizer(folder: str, fingerprint: str, listed: FileInfo | None = None) -> bytes | None:
    """Return the tokenizer.json in `folder` (local or URL), or None when there is none.

    Args:
        fingerprint: of the tokenizer that the folder states.
        listed: what the file must be, where the folder's manifest says so.

    Raises:
        WorkError: when it is damaged, or another tokenizer.
    """
    where = storage.join(folder, TOKENIZER_NAME)

    def wrong(data: bytes) -> str | None:
        if listed is not None and FileInfo.of(data) != listed:
            return "is damaged: its hash is not the manifest's; restore it"
        if _fingerprint_of(data) != fingerprint:
            return f"is not the tokenizer that made the ids ({fingerprint}): restore it, or remove it"
        return None

    try:
        data = storage.read_bytes(where, wrong, may_lack=listed is None)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if problem := wrong(data):
        raise WorkError(f"{where} {problem}")
    return data


@lru_cache(maxsize=4)
def _fingerprint_of(data: bytes) -> str | None:
    """Return the fingerprint of a tokenizer.json's content, None when it is none."""
    try:
        return tokenizer_fingerprint(strict_json(data))
    except (ValueError, AttributeError, RecursionError):
        return None


def artifact_tokenizer(root: str, m: Manifest | ExportManifest) -> bytes | None:
    """Return the tokenizer.json of the artifact or export at `root`; a view's is its pool's. None for one of version
    0.1.0, which carries none.

    Raises:
        WorkError: when it is damaged, or another tokenizer.
    """
    own = read_tokenizer(root, m.tokenizer.fingerprint, m.files.get(TOKENIZER_NAME))
    if own is not None or m.parent is None or isinstance(m, ExportManifest) or m.materialized:
        return own
    pool = storage.join(root, m.parent.path)
    try:
        listed = read_any_manifest(pool).files.get(TOKENIZER_NAME) if may_ask(pool, root) else None
    except EpochalError:
        return None  # whoever reads the view's tokens says that its pool is gone
    if listed is None:
        return None
    return read_tokenizer(pool, m.tokenizer.fingerprint, listed)


def carry_tokenizer(sink: Sink, root: str, m: Manifest) -> None:
    """Write the tokenizer.json of the artifact at `root` to `sink`, if it has one.

    Raises:
        WorkError: when it is damaged.
    """
    data = artifact_tokenizer(root, m)
    if data is not None:
        sink.write(TOKENIZER_NAME, data)
