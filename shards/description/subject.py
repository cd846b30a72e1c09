"""What a description is of: a manifest, the files beside it, and what is known of where its text came from.

A pool's manifest says what its sources are. Subsets and exports are made where that manifest is at hand; a subset keeps
these facts in its own, because it may be taken away from its pool, and exports may be made of it there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...common.publish import FileInfo
from ..documents import DOCUMENTS_NAME, has_documents
from ..facts import facts_of
from ..manifest import ExportManifest, Manifest

Form = Literal["pool", "view", "copy", "wds", "parquet", "megatron", "bin", "hf"]
"""How an artifact or export lies in its folder: what it is, or the format."""


@dataclass(frozen=True)
class Subject:
    """What is described.

    Attributes:
        manifest: all of it but the list of files.
        files: every file that lies in the folder so far, by name.
        sha256: of the same files.
        sources: the facts of each source, with its name; see `facts.facts_of`.
        kept: types of the columns that documents.parquet has of each document's metadata, by name.
        window: of a view, where in the pool's stream its first document begins, and where the subset ends.
        of_pool: of a view, the file of its pool's table of documents, or a pattern of its files.
    """

    manifest: Manifest | ExportManifest
    files: Mapping[str, FileInfo]
    sha256: Mapping[str, str]
    sources: Sequence[Mapping[str, Any]] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    window: tuple[int, int] | None = None
    of_pool: str = DOCUMENTS_NAME

    @property
    def form(self) -> Form:
        """How it lies in its folder."""
        m = self.manifest
        if isinstance(m, ExportManifest):
            return m.layout
        if m.layout == "wds":
            return "wds"
        return "pool" if m.kind == "pool" else "copy" if m.materialized else "view"

    @property
    def rows(self) -> Literal["samples", "documents"] | None:
        """What `datasets` reads in the folder, a row each; None where that is nothing."""
        if self.form in ("wds", "parquet", "hf"):
            return "samples"
        known = self.window is not None or has_documents(self.files)
        return "documents" if known else None


def kept_of(m: Manifest) -> dict[str, str]:
    """Return the types of the columns of documents.parquet that hold metadata, by name."""
    kept = m.statistics.get("kept")
    return {name: kind for name, kind in kept.items() if isinstance(kind, str)} if isinstance(kept, dict) else {}


def carried(pool: Manifest) -> dict[str, Any]:
    """Return the fields of a subset's manifest that keep what its pool says of its sources, empty where that is no more
    than their names: so a subset's manifest has nothing new unless there is something to say."""
    facts = facts_of(pool.config)
    kept = kept_of(pool)
    return {
        "config": {"sources": facts} if any(len(source) > 1 for source in facts) else {},
        "statistics": {"kept": kept} if kept else {},
    }
