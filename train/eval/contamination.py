"""Whether a pool is known to be free of a benchmark's items.

A pool's manifest lists the files it was decontaminated against: statistics["evaluation"] = {"ngram", "too_short",
"files": [{"name", "items", "digest"}]}. An evaluation is called clean only when the digest of its own file is among
them, byte for byte the same items; the name of a file proves nothing.
"""

from dataclasses import dataclass
from typing import Any

from ...common.errors import RequestError
from ...common.storage import join
from ...shards.artifact import read_manifest
from ...shards.manifest import Manifest
from ..checkpoint import ModelCard


@dataclass(frozen=True)
class ContaminationStatus:
    """Attributes:
    clean: the pool was decontaminated against exactly these items.
    reason: one line for people.
    """

    clean: bool
    reason: str


def contamination_status(digest: str | None, manifest: Manifest | None) -> ContaminationStatus:
    """Return what is known about items with `digest` in the pool of `manifest` (None: no pool was named)."""
    if manifest is None:
        return ContaminationStatus(False, "not known to be clean: no training data was named (--trained-on)")
    if digest is None:
        return ContaminationStatus(False, "not known to be clean: items from the hub have no digest to look up")
    evaluation: dict[str, Any] = manifest.statistics.get("evaluation") or {}
    for file in evaluation.get("files", []):
        if file.get("digest") == digest:
            n, short = evaluation.get("ngram"), evaluation.get("too_short", 0)
            return ContaminationStatus(
                True,
                f"clean: pool {manifest.name} was decontaminated against these {file.get('items')} items "
                f"({n}-grams; {short} items of all its files are too short to be recognised)",
            )
    return ContaminationStatus(
        False, f"not known to be clean: pool {manifest.name} was not decontaminated against these items"
    )


def training_manifest(path: str, card: ModelCard) -> Manifest:
    """Return the manifest of the pool that a model was trained on, `path` being the pool or a subset of it.

    Raises:
        RequestError: when the model was trained on something else: its check would prove nothing.
    """
    manifest = read_manifest(path)
    plan = card.training.get("plan") or {}
    if "mixture_version" in plan:
        names = ", ".join(source["name"] for source in plan["sources"])
        raise RequestError(f"this model was trained on a mixture ({names}): a check of one of them would prove nothing")
    stated = plan.get("subset")
    if stated is not None and stated != manifest.fingerprint:
        raise RequestError(f"{path} is not what this model was trained on (fingerprint {stated}): name that subset")
    if manifest.parent is None:
        return manifest
    pool = read_manifest(join(path, manifest.parent.path))
    if pool.fingerprint != manifest.parent.fingerprint:
        raise RequestError(f"{manifest.parent.path} is not the pool that {path} was carved from")
    return pool
