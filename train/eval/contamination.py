"""Whether a pool is known to be free of a benchmark's items.

A pool's manifest lists the files it was decontaminated against: statistics["evaluation"] = {"ngram", "too_short",
"files": [{"name", "items", "digest"}]}. An evaluation is called clean only when the digest of its own file is among
them, byte for byte the same items; the name of a file proves nothing.
"""

from dataclasses import dataclass
from typing import Any

from ...shards.manifest import Manifest


@dataclass(frozen=True)
class LeakStatus:
    """clean: the pool was decontaminated against exactly these items. reason: one line for people."""

    clean: bool
    reason: str


def leak_status(digest: str | None, manifest: Manifest | None) -> LeakStatus:
    """Return what is known about items with `digest` in the pool of `manifest` (None: no pool was named)."""
    if manifest is None:
        return LeakStatus(False, "not known to be clean: no training data was named (--trained-on)")
    if digest is None:
        return LeakStatus(False, "not known to be clean: items from the hub have no digest to look up")
    evaluation: dict[str, Any] = manifest.statistics.get("evaluation") or {}
    for file in evaluation.get("files", []):
        if file.get("digest") == digest:
            n, short = evaluation.get("ngram"), evaluation.get("too_short", 0)
            return LeakStatus(
                True,
                f"clean: pool {manifest.name} was decontaminated against these {file.get('items')} items "
                f"({n}-grams; {short} items of all its files are too short to be recognised)",
            )
    return LeakStatus(False, f"not known to be clean: pool {manifest.name} was not decontaminated against these items")
