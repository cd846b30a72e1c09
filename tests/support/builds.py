"""Small builds, and what they wrote."""

import filecmp
import os
from pathlib import Path

import numpy as np

from epochal.common.config import validate
from epochal.datapipe.config import Build
from epochal.shards.artifact import open_artifact
from epochal.shards.mds import open_shard


def settings(tmp_path: Path, source: object, **more: object) -> Build:
    """Return a small build: one source, short samples, one task in this process unless told otherwise."""
    base: dict[str, object] = {"name": "p", "out": str(tmp_path / "out"), "seq_len": 64, "tasks": 1, "workers": 1}
    base["validation_tokens"] = 0
    base["sources"] = [source] if isinstance(source, dict) else [{"name": "s", "path": source}]
    return validate(Build, base | more, "test")


def stream(root: str) -> np.ndarray:
    """Return the tokens of an artifact, PAD left out."""
    artifact = open_artifact(root)
    m = artifact.manifest
    rows = [open_shard(s.path, m.seq_len, m.dtype)[: s.samples] for s in artifact.shards]
    return np.concatenate(rows).reshape(-1)[: m.tokens]


def same_files(a: str, b: str, but: set[str] = frozenset()) -> bool:  # type: ignore[assignment]
    names = sorted(os.listdir(a))
    assert names == sorted(os.listdir(b))
    return all(filecmp.cmp(f"{a}/{n}", f"{b}/{n}", shallow=False) for n in names if n not in but)
