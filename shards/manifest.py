"""The manifest: what an artifact is, in one JSON file that vouches for every other file beside it.

The fingerprint names the content: equal fingerprints, equal tokens in equal order. It is BLAKE2b-128 over the
canonical JSON of the identity (see `pool_fingerprint` and `subset_fingerprint`), hashes of shard files included.
`files` holds size and xxh64 of every other file in the folder, and `checksum` guards the manifest itself, so that
`verify` notices any single changed byte.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ..common.config import Record
from ..common.errors import RequestError, WorkError, printable
from ..common.hashing import digest
from ..common.json_text import parse_json
from ..common.problems import problem_text
from ..common.publish import FileInfo
from .tables.names import is_one_of_several

FORMAT_VERSION = 1
"""Raised when a reader of the old version would misread what the new one writes."""

MOST_FILES, MOST_TABLE_FILES = 1000, 10_000
"""Beside MDS shards: tables, index, report, tokenizer; a dozen in fact. And files of tables of more than one, 2^24 rows
each. Each is looked for by `verify`."""


def _plain_name(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or len(name) > 255 or printable(name) != name:
        raise ValueError(f"'{printable(name[:80])}' is no name: it may not hold `/` or control characters")
    return name


def _inner_name(name: str) -> str:
    for part in name.split("/"):
        if not part or part in (".", "..") or printable(part) != part:
            raise ValueError(f"'{printable(name[:80])}' is no file below the artifact's folder")
        if part.startswith(".") or part.lower().endswith(_PROGRAMS):
            raise ValueError(f"'{printable(name[:80])}' is hidden or a program: an artifact holds data alone")
    return name


_PROGRAMS = (".py", ".pyc", ".pyw", ".pyd", ".so", ".dll", ".dylib", ".pth")
"""What Python would import in an artifact's folder, where people work: somebody's `numpy.py` would run."""

Name = Annotated[str, AfterValidator(_plain_name)]
"""What may become a folder's name."""

InnerName = Annotated[str, AfterValidator(_inner_name)]
"""Of a file in an artifact's folder or below, `/` between folders."""

Number = Annotated[int, Field(ge=0, lt=2**63)]


class TokenizerInfo(Record):
    """Which tokenizer made the ids. `vocab_size` counts every id in use, appended PAD and MASK included."""

    name: str
    fingerprint: str
    vocab_size: Number = Field(gt=0)
    eod: Number
    pad: Number
    mask: Number


class Parent(Record):
    """The pool a subset is a window of. `path` is relative to the subset's folder, or a URL."""

    name: Name
    fingerprint: str
    path: str
    replicate: Number
    start_sample: Number


class Content(Record):
    """`samples` leading samples of the shard whose file has this xxh64."""

    xxh64: str
    samples: Number = Field(gt=0)


class Bucket(Record):
    """Which part of another pool a pool is: the documents with some values of a column.

    Attributes:
        pool: that was divided, and its `fingerprint`.
        by: the column.
        name: of the bucket, as mixtures call it.
        number: of the bucket, from 0, in ascending order of its values, and how many there are.
        lower: the least value, None where there is none, and for text.
        upper: the value below which all are; the same.
        value: the one value that its documents have, of text; None for numbers, and for documents without a value.
    """

    pool: Name
    fingerprint: str
    by: str
    name: str
    number: Number
    buckets: Number
    lower: float | None = None
    upper: float | None = None
    value: str | None = None


class LeftOut(Record):
    """What a list of documents, or a condition on them, took out of a pool.

    Attributes:
        name: of the list's file; the condition itself.
        kind: which of the two.
        documents: of the pool that it names, or that it holds for.
        lines: of a list, those that are not empty; `keys`, `ids` and `texts` of them named a document as such.
        unmatched: lines that named no document of the pool.
        unknown: documents of which a condition is neither true nor false: they stay.
    """

    name: str
    kind: Literal["list", "condition"]
    documents: Number
    lines: Number = 0
    keys: Number = 0
    ids: Number = 0
    texts: Number = 0
    unmatched: Number = 0
    unknown: Number = 0


class Without(Record):
    """What a subset was carved without; without.parquet lists the documents.

    Attributes:
        documents: that are taken out of the pool, and their `tokens` there.
        digest: BLAKE2b-128 of their keys in ascending order.
        left_over: tokens of other documents that are left out too, within the subset's window: they fill no sample
            beside a shard that stays whole.
        stop: the position of the pool's stream at which the window ends.
        by: what named them.
    """

    documents: Number = Field(gt=0)
    tokens: Number = Field(gt=0)
    digest: str
    left_over: Number
    stop: Number
    by: list[LeftOut]


class Manifest(Record):
    """What an artifact is.

    Attributes:
        documents: documents with at least one token in the artifact.
        tokens: unique tokens, EOD included, PAD never; samples = ceil(tokens / seq_len): only the last may hold PAD.
        content: the pool's shards, or the parts of them that a subset is made of, in order.
        tail: xxh64 of the subset's own last, padded sample (null when tokens is a multiple of seq_len, and for pools).
        without: what a subset was carved without; its shards are then the pool's, or of its own where that took
            something out.
        bucket: of a pool that is a part of another one.
        layout: what the files are: MDS shards with an index.json, or WebDataset tar files (see formats/webdataset.py).
    """

    format: Literal["epochal"] = "epochal"
    format_version: int = FORMAT_VERSION
    kind: Literal["pool", "subset"]
    name: Name
    fingerprint: str
    documents: Number
    tokens: Number = Field(gt=0)
    samples: Number = Field(gt=0)
    shards: Number = Field(gt=0)
    seq_len: Number = Field(gt=0)
    dtype: Literal["uint16", "uint32"]
    seed: Number
    tokenizer: TokenizerInfo
    parent: Parent | None = None
    content: list[Content]
    tail: str | None = None
    without: Without | None = None
    bucket: Bucket | None = None
    materialized: bool = True
    layout: Literal["mds", "wds"] = "mds"
    config: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    versions: dict[str, str] = {}
    files: dict[InnerName, FileInfo] = {}

    @property
    def stream(self) -> tuple[str, int]:
        """The stream that documents.parquet tells of: the fingerprint of whose it is, and the sample at which this
        artifact begins in it. A window is of its pool's; what was carved without documents has one of its own."""
        if self.parent is None or self.without is not None:
            return self.fingerprint, 0
        return self.parent.fingerprint, self.parent.start_sample

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what most artifacts have not, so that their manifests stay as they were."""
        new = ("without", "bucket")
        return {key: value for key, value in handler(self).items() if key not in new or value is not None}

    @model_validator(mode="after")
    def _numbers_agree(self) -> "Manifest":
        if self.samples != -(-self.tokens // self.seq_len):
            raise ValueError(f"{self.tokens} tokens do not make {self.samples} samples of {self.seq_len}")
        if self.layout == "mds" and not len(self.content) <= self.shards <= len(self.content) + 1:
            raise ValueError(f"it has {self.shards} shards and lists {len(self.content)}")
        beside = len(self.files) - self.shards if self.layout == "mds" else 0
        if beside > MOST_FILES:
            of_tables = sum(map(is_one_of_several, self.files))
            if of_tables > MOST_TABLE_FILES or beside - of_tables > MOST_FILES:
                raise ValueError(f"it lists {beside:,} files beside its shards: {MOST_FILES:,} are the most")
        return self


ExportLayout = Literal["wds", "parquet", "megatron", "bin", "hf"]
"""The formats of exports; see formats/registry.py."""


class ExportParent(Record):
    """The pool or subset that an export holds. `path` is relative to the export's folder, or a URL."""

    name: Name
    fingerprint: str
    path: str


class ExportManifest(Record):
    """What an export is: the tokens of a subset in another format.

    Attributes:
        layout: the format.
        documents: of the subset.
        tokens: those in the files: of `plan`, `unique_tokens` times its passes less what it skips. No PAD.
        samples: rows, each of seq_len tokens, shorter where the subset's last sample is.
        plan: the order of the rows, null for the canonical one.
        token_digest: see `rows.TokenDigest`; its words are of `dtype`.
    """

    format: Literal["epochal"] = "epochal"
    format_version: int = FORMAT_VERSION
    kind: Literal["export"] = "export"
    name: Name
    fingerprint: str
    layout: ExportLayout
    documents: Number
    tokens: Number = Field(gt=0)
    unique_tokens: Number = Field(gt=0)
    samples: Number = Field(gt=0)
    seq_len: Number = Field(gt=0)
    dtype: Literal["uint16", "uint32"]
    tokenizer: TokenizerInfo
    parent: ExportParent
    plan: dict[str, Any] | None = None
    token_digest: str
    versions: dict[str, str] = {}
    files: dict[InnerName, FileInfo] = {}


def _identity(m: Manifest) -> dict[str, Any]:
    special = m.tokenizer.model_dump(exclude={"name"})
    return {
        "format_version": m.format_version,
        "kind": m.kind,
        "seq_len": m.seq_len,
        "dtype": m.dtype,
        "tokenizer": special,
        "tokens": m.tokens,
        "content": [[c.xxh64, c.samples] for c in m.content],
    }


def fingerprint(m: Manifest) -> str:
    """Return the fingerprint that `m`'s content demands (not the one it states).

    A pool's identity is its tokens: (format version, kind, seq_len, dtype, tokenizer, tokens, content). A subset's
    adds its parent's fingerprint, its window's first sample and its tail, so a copy and a view have the same one, and
    where it was carved without some documents, the digest of their keys.
    """
    identity = _identity(m)
    if m.parent is not None:
        identity |= {"parent": m.parent.fingerprint, "start_sample": m.parent.start_sample, "tail": m.tail}
    if m.without is not None:
        identity |= {"without": m.without.digest}
    return digest(identity)


def export_fingerprint(m: ExportManifest) -> str:
    """Return the fingerprint that an export's content demands: of what is in it, of whom, in which order and format."""
    plan = m.plan["fingerprint"] if m.plan else None
    names = ("format_version", "kind", "layout", "tokens", "token_digest", "dtype")
    return digest({name: getattr(m, name) for name in names} | {"parent": m.parent.fingerprint, "plan": plan})


def dump_manifest(m: Manifest | ExportManifest) -> str:
    """Return the text of manifest.json, its checksum included."""
    body = m.model_dump(mode="json")
    return _text(body | {"checksum": digest(body)})


def _text(body: dict[str, Any]) -> str:
    return json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def parse_manifest(text: str, where: str) -> Manifest | ExportManifest:
    """Return the manifest written in `text`; `where` names the file in errors.

    Raises:
        RequestError: for something that is no manifest of ours or a newer version.
        WorkError: for a damaged one.
    """
    body = parse_json(text, where)
    if not isinstance(body, dict) or body.get("format") != "epochal":
        raise RequestError(f"{where} is not a manifest of epochal")
    version = body.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise RequestError(
            f"{where} was written by a newer epochal (format {version}; this one reads up to {FORMAT_VERSION}): upgrade"
        )
    stated = body.pop("checksum", None)
    if stated != digest(body) or _text(body | {"checksum": stated}) != text:
        raise WorkError(f"{where} is damaged: its checksum does not match; restore it or build again")
    model = ExportManifest if body.get("kind") == "export" else Manifest
    try:
        return model.model_validate_json(json.dumps(body))
    except ValidationError as error:
        raise WorkError(f"{where} is damaged: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """Return the first problem as `key: what is wrong`."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"]) or "document"
    return f"{key}: {problem_text(problem)}"
