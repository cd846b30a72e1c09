"""The configuration of a build: the typed form of its YAML."""

import datetime
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ..common.config import Configuration, Count, Section, file_or_shipped, load_yaml, shipped, validate
from ..common.errors import RequestError
from ..common.hashing import canonical_json
from ..common.problems import NAME_PATTERN
from ..common.storage import local_path
from ..common.units import parse_count
from ..shards.buckets.split import OWN_COLUMNS as OTHERS_TO_SPLIT_BY
from ..shards.buckets.split import Split
from ..shards.facts import FACTS, without_facts
from .settings.executors import Executor, LocalExecutor

YAMLS = Path(__file__).parent / "yamls"
"""The builds that come with this package."""

OWN_COLUMNS = ("key", "id", "source", "start", "tokens")
"""Of documents.parquet."""

ID_FORMATS = ("mds", "wds", "megatron", "bin", "hf")
"""Formats of sources that hold token ids, never text."""


class Tokenized(Section):
    """Says that a source holds token ids instead of text, and how to read them.

    Attributes:
        tokenizer: the one that made them, a name as `tokenizer.name` takes it, or a fingerprint; it must be the
            build's. Artifacts and exports say it themselves.
        documents: where documents end: `eod`, at every EOD, whatever rows and files they cross; or `rows`, also at the
            end of every row (of each of Megatron's documents, where this is the default).
        column: of Parquet, Arrow and MDS, or the extension in WebDataset.
        dtype: of the ids in a flat file without a manifest, or in an MDS column of bytes.
    """

    tokenizer: str | None = None
    documents: Literal["eod", "rows"] | None = None
    column: str | None = None
    dtype: Literal["uint16", "uint32", "int32", "int64"] | None = None


def _fact(value: Any) -> Any:
    """Take what YAML makes of an unquoted year or day for the text that it was."""
    if isinstance(value, bool):
        raise ValueError(f"must be text: write it in quotes, '{'yes' if value else 'no'}'")
    return str(value) if isinstance(value, int | float | datetime.date) else value


def _languages(value: Any) -> str | list[str] | None:
    entries = [_fact(entry) for entry in (value if isinstance(value, list) else [value])]
    if value is not None and (not entries or not all(isinstance(entry, str) and entry for entry in entries)):
        raise ValueError("must be text, or a list of it, as in [en, de]")
    return entries if isinstance(value, list) else entries[0]


Fact = Annotated[str, BeforeValidator(_fact), Field(min_length=1)]


class Source(Section):
    """Where documents come from.

    Attributes:
        format: jsonl (plain or compressed), parquet, text (each file is a document), auto (any of these, as the end of
            each file's name says), python (the .py files of this Python's standard library and installed packages;
            needs no path), hub (a data set that `datasets.load_dataset` finds, its name as path); or, with `tokenized`,
            token ids: mds, wds (WebDataset), megatron (.bin/.idx), bin (flat), hf (Arrow files of `save_to_disk`),
            parquet.
        path: a file, a folder or a glob, local or any fsspec URL.
        text_key: of the text in a row; with dots (`doc.text`) a field inside another, unless one has this very name.
        split: of a hub data set.
        subset: of a hub data set.
        limit: how many rows to read, the first ones in order of path and row; one task then reads the source alone.
        fraction: only files whose path (relative to its root) hashes below it.
        max_bytes: only files up to this size.
        where: a condition in SQL on a row's fields, such as `quality >= 0.6 AND lang = 'en'`; other rows are left out.
        license: under which the texts may be used, an SPDX name where there is one.
        citation: what who uses them should cite.
        url: where they come from.
        collected: when.
        language: of the texts, one or a list of BCP 47 codes.
        pii: what is known of personal data in them.
    """

    name: str = ""
    format: Literal["jsonl", "parquet", "text", "auto", "python", "hub", "mds", "wds", "megatron", "bin", "hf"] = (
        "jsonl"
    )
    path: str | None = None
    tokenized: Tokenized | None = None
    split: str = "train"
    subset: str | None = None
    text_key: str = "text"
    id_key: str = "id"
    limit: Count | None = Field(default=None, ge=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    max_bytes: Count | None = Field(default=None, ge=1)
    where: str | None = Field(default=None, min_length=1, max_length=2000)
    license: Fact | None = None
    citation: Fact | None = None
    url: Fact | None = None
    collected: Fact | None = None
    language: Annotated[str | list[str] | None, PlainValidator(_languages)] = None
    pii: Fact | None = None

    @model_validator(mode="before")
    @classmethod
    def _tokenized_where_ids(cls, data: Any) -> Any:
        """Need no `tokenized` where the format says that it holds ids."""
        if isinstance(data, dict) and data.get("format") in ID_FORMATS and data.get("tokenized") is None:
            return data | {"tokenized": {}}
        return data

    @model_validator(mode="after")
    def _path_where_needed(self) -> "Source":
        if self.format != "python" and not self.path:
            raise ValueError(f"a source of format {self.format} needs a path")
        if self.tokenized is not None and self.format in ("jsonl", "text", "auto", "python", "hub"):
            raise ValueError(f"a source of format {self.format} holds text: leave tokenized out")
        if self.tokenized is not None and (self.fraction < 1 or self.max_bytes is not None):
            raise ValueError("fraction and max_bytes choose files, but token ids may run on from one file to the next")
        if self.tokenized is not None and self.where is not None:
            raise ValueError("where looks at the fields of rows, and token ids have none: leave it out")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out the keys of other kinds of sources, so that a pool's configuration stays the same when kinds are
        added."""
        unused = {"tokenized"} if self.tokenized is None else set()
        unused |= {"split", "subset"} if self.format != "hub" else set()
        unused |= {key for key in ("where", *FACTS) if getattr(self, key) is None}
        return {key: value for key, value in handler(self).items() if key not in unused}


class Kept(Section):
    """A field of a row that `documents.parquet` keeps, dotted where it is inside another, and the type that its values
    get; null: the one that they all have."""

    name: str = Field(min_length=1, max_length=200)
    type: Literal["text", "int", "float", "bool", "date", "timestamp"] | None = None


def _kept(value: Any) -> Any:
    """Read `[url, quality]` and `{url: null, quality: float}`."""
    if isinstance(value, dict):
        return [{"name": name, "type": kind} for name, kind in value.items()]
    if isinstance(value, list):
        return [{"name": entry} if isinstance(entry, str) else entry for entry in value]
    raise ValueError("must be a list of fields, as in [url, date], or of their types, as in {url: text, date: date}")


class Filter(BaseModel):
    """One of datatrove's filters by its class name; every other key is a parameter of it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def parameters(self) -> dict[str, object]:
        """The filter's own parameters."""
        return dict(self.model_extra or {})


class NearDuplicates(Section):
    """MinHash-LSH: documents that agree in all `hashes` of one of the `buckets` are near-duplicates."""

    ngram: int = Field(default=5, ge=1, le=64)
    buckets: int = Field(default=14, ge=1, le=256)
    hashes: int = Field(default=8, ge=1, le=64)
    seed: int = Field(default=1, ge=0, lt=2**63)


class Deduplicate(Section):
    """Exact duplicates are always removed, near-duplicates unless `near` is null."""

    near: NearDuplicates | None = NearDuplicates()


class Decontaminate(Section):
    """Drop documents that share `ngram` words in a row with a row of the JSONL `files` (paths, globs or URLs)."""

    files: list[str] = Field(min_length=1)
    ngram: int = Field(default=13, ge=2, le=128)


class TokenizerChoice(Section):
    """`gpt2`, the path of a tokenizer.json, the folder of an artifact or model that carries one, or a name on the hub;
    special tokens where they are not the usual ones. By default that of the first source of token ids that carries one.
    """

    name: str = "gpt2"
    eod: str | None = None
    pad: str | None = None
    mask: str | None = None


def _share(value: Any) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    try:
        return parse_count(value)
    except RequestError as error:
        raise ValueError(f"{error} (or auto, for a share of them; 0 for none)") from None


LONGEST_NAME = 200
"""Of a pool: the names of the files and folders beside it are longer, and none may have more than 255 bytes."""


class Build(Configuration):
    """A build: sources to one pool and its validation pool, at `<out>/pools/<name>` and `<out>/pools/<name>-val`.

    The last four change no byte of the result.

    Attributes:
        validation_tokens: how many the validation pool holds, in whole documents; 0: there is none; auto: 1 % of what
            deduplication leaves, at most 1M, and none if that would be more than half, because documents are few.
        keep: fields of the rows that documents.parquet keeps, [url, date] or with types, {quality: float}: text, int,
            float, bool, date or timestamp.
        exclude: files with keys, ids or texts of documents that are in no pool, one a line or JSON lines; see
            docs/artifacts.md.
        split: the pool is also divided into buckets by one of these fields, each a pool of its own.
        on_damaged: whether a file of text that cannot be read to its end stops the build (`error`), or is left out
            whole and listed in left_out.parquet (`skip`).
        work: where intermediate files are during the build, a path or URL that all tasks reach; by default beside the
            pool.
        executor: where tasks run.
        tasks: into how many the work is divided.
        workers: how many run at a time.
    """

    MEANT: ClassVar[dict[str, str]] = {
        "path": "sources.0.path=DIR",
        "input": "sources.0.path=DIR",
        "text_key": "sources.0.text_key=FIELD",
        "output": "out=DIR",
        "output_dir": "out=DIR",
        "sequence_length": "seq_len=2048",
        "max_seq_len": "seq_len=2048",
    }
    """Keys that other tools have, and what they are here."""

    name: str = Field(pattern=NAME_PATTERN, max_length=LONGEST_NAME)
    out: str = "artifacts"
    work: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    seq_len: int = Field(default=2048, ge=2, le=2**20)
    samples_per_shard: int | Literal["auto"] = "auto"
    validation_tokens: Annotated[int | Literal["auto"], PlainValidator(_share)] = "auto"
    max_reject_fraction: float = Field(default=0.01, ge=0, le=1)
    on_damaged: Literal["error", "skip"] = "error"
    sources: list[Source] = Field(min_length=1)
    keep: Annotated[list[Kept], BeforeValidator(_kept)] = []
    exclude: list[str] = []
    split: Split | None = None
    filters: list[Filter] = []
    deduplicate: Deduplicate = Deduplicate()
    decontaminate: Decontaminate | None = None
    tokenizer: TokenizerChoice = TokenizerChoice()
    executor: Executor = LocalExecutor()
    tasks: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=100_000)
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)

    @field_validator("samples_per_shard")
    @classmethod
    def _fits_a_shard(cls, samples: int | str, info: ValidationInfo) -> int | str:
        most = (2**30 - 64) // (info.data.get("seq_len", 2) + 1)  # of 32-bit ids; a shard's offsets are 32 bits wide
        if isinstance(samples, int) and not 1 <= samples <= most:
            raise ValueError(f"must be 1 to {most:,}, of which a shard holds 4 GB, or auto")
        return samples

    @field_validator("sources")
    @classmethod
    def _distinct_names(cls, sources: list[Source]) -> list[Source]:
        named = [s if s.name else s.model_copy(update={"name": f"source{i}"}) for i, s in enumerate(sources)]
        names = [s.name for s in named]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise ValueError(f"two sources are named '{twice}': give each its own name")
        return named

    @field_validator("keep")
    @classmethod
    def _free_names(cls, keep: list[Kept], info: ValidationInfo) -> list[Kept]:
        names = [kept.name for kept in keep]
        texts = {source.text_key for source in info.data.get("sources", ()) if source.tokenized is None}
        for name in names:
            if name in OWN_COLUMNS:
                raise ValueError(f"documents.parquet has a column '{name}' of its own: leave it out")
            if name in texts:
                raise ValueError(f"'{name}' is the text itself, which the pool holds as tokens: leave it out")
            if names.count(name) > 1:
                raise ValueError(f"'{name}' stands there twice")
        return keep

    @field_validator("split")
    @classmethod
    def _kept_column(cls, split: Split | None, info: ValidationInfo) -> Split | None:
        known = [*(kept.name for kept in info.data.get("keep", ())), *OTHERS_TO_SPLIT_BY]
        if split is not None and split.by not in known:
            raise ValueError(
                f"by {split.by}, which documents.parquet does not have: add it to keep, as in [{split.by}]"
            )
        return split

    def identity(self) -> dict[str, object]:
        """Return what decides the pool's bytes: everything but where it goes, how the work is divided and what sources
        say of themselves, and the way with damaged files unless they are left out."""
        return without_facts(self._said())

    def _said(self) -> dict[str, Any]:
        """Return what a manifest holds, secrets included."""
        usual = {"on_damaged"} if self.on_damaged == "error" else set()
        usual |= {key for key in ("keep", "exclude") if not getattr(self, key)}
        return self.model_dump(mode="json", exclude={"out", "work", "split", "executor", "tasks", "workers"} | usual)

    def record(self) -> dict[str, object]:
        """Return the configuration as a manifest holds it: without secrets. Where `identity` had some, `sha256` is a
        digest of all that it says, so that another value shows."""
        identity = self.identity()
        shown: dict[str, object] = self.public(self._said())
        if without_facts(shown) == identity:
            return shown
        return shown | {"sha256": hashlib.sha256(canonical_json(identity).encode()).hexdigest()}

    def same(self, recorded: dict[str, Any]) -> bool:
        """Return whether a manifest's configuration makes the same bytes; version 0.1.0 wrote it with its secrets."""
        return without_facts(recorded) in (without_facts(self.record()), self.identity())


def load_build(config: str, overrides: Sequence[str] = ()) -> Build:
    """Return the build that a YAML file, or a shipped configuration's name, describes.

    Raises:
        RequestError: for a wrong request.
    """
    if os.path.isdir(local_path(config)) and shipped(YAMLS, config) is None:
        raise RequestError(f"{config} is a folder: build what lies in it with `folder sources.0.path={config}`")
    path = file_or_shipped(YAMLS, config)
    return validate(Build, load_yaml(path, overrides, Build, config), config)
