"""What a build is: the typed form of its YAML."""

import os
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ..shards.errors import RequestError
from ..shards.units import parse_count


def _count(value: object) -> object:
    try:
        return parse_count(value) if isinstance(value, str) else value
    except RequestError as error:
        raise ValueError(str(error)) from None


Count = Annotated[int, BeforeValidator(_count)]
"""An integer, also written as 500k, 1M, 1.5B."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Model):
    """Where documents come from.

    format: jsonl (plain, gz, zst), parquet, text (each file is a document), python (the .py files of this Python's
    standard library and installed packages; needs no path). path: a file, a folder or a glob, local or any fsspec URL.
    limit: only the first so many rows, in order of path and row; one task then reads the source alone.
    fraction: only files whose path (relative to its root) hashes below it. max_bytes: only files up to this size.
    """

    name: str = ""
    format: Literal["jsonl", "parquet", "text", "python"] = "jsonl"
    path: str | None = None
    text_key: str = "text"
    id_key: str = "id"
    limit: Count | None = Field(default=None, ge=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    max_bytes: Count | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _path_where_needed(self) -> "Source":
        if self.format != "python" and not self.path:
            raise ValueError(f"a source of format {self.format} needs a path")
        return self


class Filter(BaseModel):
    """One of datatrove's filters by its class name; every other key is a parameter of it."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def parameters(self) -> dict[str, object]:
        """The filter's own parameters."""
        return dict(self.model_extra or {})


class NearDuplicates(_Model):
    """MinHash-LSH: documents that agree in all `hashes` of one of the `buckets` are near-duplicates."""

    ngram: int = Field(default=5, ge=1, le=64)
    buckets: int = Field(default=14, ge=1, le=256)
    hashes: int = Field(default=8, ge=1, le=64)
    seed: int = Field(default=1, ge=0, lt=2**63)


class Deduplicate(_Model):
    """Exact duplicates always go; near ones unless `near` is null."""

    near: NearDuplicates | None = NearDuplicates()


class Decontaminate(_Model):
    """Drop documents that share `ngram` words in a row with a row of the JSONL `files` (paths, globs or URLs)."""

    files: list[str] = Field(min_length=1)
    ngram: int = Field(default=13, ge=2, le=128)


class TokenizerChoice(_Model):
    """`gpt2`, the path of a tokenizer.json, or a name on the hub; special tokens where they are not the usual ones."""

    name: str = "gpt2"
    eod: str | None = None
    pad: str | None = None
    mask: str | None = None


class Build(_Model):
    """A build: sources to one pool and its validation pool, at `<out>/pools/<name>` and `<out>/pools/<name>-val`.

    tasks, workers: into how many tasks the work is cut and how many run at a time; neither changes a byte.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    out: str = "artifacts"
    seed: int = Field(default=0, ge=0, lt=2**63)
    seq_len: int = Field(default=2048, ge=2, le=2**20)
    samples_per_shard: int | Literal["auto"] = "auto"
    validation_tokens: Count = Field(default=0, ge=0)
    max_reject_fraction: float = Field(default=0.01, ge=0, le=1)
    sources: list[Source] = Field(min_length=1)
    filters: list[Filter] = []
    deduplicate: Deduplicate = Deduplicate()
    decontaminate: Decontaminate | None = None
    tokenizer: TokenizerChoice = TokenizerChoice()
    tasks: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=100_000)
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)

    @field_validator("sources")
    @classmethod
    def _distinct_names(cls, sources: list[Source]) -> list[Source]:
        named = [s if s.name else s.model_copy(update={"name": f"source{i}"}) for i, s in enumerate(sources)]
        names = [s.name for s in named]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise ValueError(f"two sources are named '{twice}': give each a name of its own")
        return named

    def identity(self) -> dict[str, object]:
        """Return what decides the pool's bytes: everything but where it goes and how the work is divided."""
        return self.model_dump(mode="json", exclude={"out", "tasks", "workers"})
