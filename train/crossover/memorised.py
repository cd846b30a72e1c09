"""What a grid's runs know of their documents by how often they were fed them, from the `memorisation.json` of each."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...common.json_text import parse_json
from ..run_folder import MEMORISATION_NAME
from .curves import MetricsRow, identity
from .grid import RunSpec

Group = tuple[int, str, str, int, int, bool]
"""Unique tokens, type, settings, k, exposures, and whether the documents were held out."""

SUMS = ("runs", "documents", "nats", "tokens", "reproduced")


def memorised(runs: Sequence[RunSpec], summaries: Sequence[MetricsRow]) -> dict[str, Any]:
    """Return what was measured of finished runs, {"groups": [...], "stale": [...], "missing": N}.

    Of each group: the key (`Group`), how many `runs` and `documents` it has, what a token of them costs (`per_token`,
    nats, `kind` says of which likelihood) and the `share` of documents whose last k tokens the model writes itself.
    stale: runs that have trained on other data than when they were measured.

    Args:
        summaries: of `curves.summary`, of the same runs.
    """
    groups: dict[Group, dict[str, Any]] = {}
    stale, missing = list[str](), 0
    for run, summary in zip(runs, summaries, strict=True):
        if summary["state"] != "finished" or run.decays_from:
            continue
        path = os.path.join(run.folder, MEMORISATION_NAME)
        if not os.path.isfile(path):
            missing += 1
            continue
        body: Any = parse_json(Path(path).read_bytes(), path)
        if body["receipt"]["digest"] != summary["receipt_digest"]:
            stale.append(run.name)
            continue
        for key, row in _rows(run, body):
            own = groups.setdefault(key, {"kind": row["kind"]} | dict.fromkeys(SUMS, 0))
            added = row | {"runs": 1, "nats": row["per_token"] * row["tokens"]}
            for figure in SUMS:
                own[figure] += added[figure]
    return {"groups": [_group(key, own) for key, own in sorted(groups.items())], "stale": stale, "missing": missing}


def _rows(run: RunSpec, body: dict[str, Any]) -> Iterator[tuple[Group, dict[str, Any]]]:
    row = identity(run)
    for model in body["models"]:
        for group in model["groups"]:
            kind_of = row["unique_tokens"], row["objective"], row["settings"]
            yield (*kind_of, body["k"], group["exposures"], group["held_out"]), group | {"kind": model["kind"]}


def _group(key: Group, own: dict[str, Any]) -> dict[str, Any]:
    names = ("unique_tokens", "objective", "settings", "k", "exposures", "held_out")
    figures = {"per_token": own["nats"] / own["tokens"], "share": own["reproduced"] / own["documents"]}
    return dict(zip(names, key, strict=True)) | {k: own[k] for k in ("kind", "runs", "documents")} | figures
