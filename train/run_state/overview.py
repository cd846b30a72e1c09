"""`epochal list`: the artifacts and runs below a folder, a line each."""

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ...common import storage
from ...common.cli import Runner, add_examples, print_json, text_table
from ...common.errors import EpochalError, RequestError, printable
from ...common.html import count
from ...common.json_text import parse_json
from ...common.units import format_count
from ...shards.artifact import artifacts_below, read_any_manifest, subfolders
from ...shards.manifest import ExportManifest
from ..exact.writing_order import EXACT, EXACT_GIVEN_LENGTHS, WritingOrder, of_key
from ..run_folder import METRICS_NAME, RESULT_NAME, RUN_NAME, losses_in_words, read_metrics

GIVEN = ", given lengths"
LOGGED = {f"metrics/{EXACT}": "", f"metrics/{EXACT_GIVEN_LENGTHS}": GIVEN}

DEPTH = 4
"""Folders below the one that is asked for in which to look."""

GRID_RUN = re.compile(r"-r\d+-s\d+-[0-9a-f]{8}$")
"""How the name of a run ends that a grid has made (`train/crossover/grid.py`)."""


def list(parser: argparse.ArgumentParser) -> Runner:
    """Add the arguments of `epochal list`; return what runs it."""
    add_examples(parser, "list", "list /data/experiments --json")
    parser.add_argument(
        "folder", nargs="?", default=".", metavar="FOLDER", help=f"look here and {DEPTH} folders down (default .)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return _list


def _list(args: argparse.Namespace) -> int:
    folder = storage.local_path(args.folder)
    if not os.path.isdir(folder):
        raise RequestError(f"{args.folder} is no folder on this machine: `epochal show URL` tells of one artifact")
    artifacts = [_artifact(folder, path) for path in artifacts_below(folder, DEPTH)]
    runs = [_run(folder, path) for path in _runs_below(folder, DEPTH)]
    if args.json:
        print_json({"artifacts": artifacts, "runs": runs})
        return 0
    if not artifacts and not runs:
        print(f"no artifacts and no runs in {args.folder} and {DEPTH} folders below it")
    if artifacts:
        rows = [[a["path"], a["kind"], _count(a["tokens"]), _count(a["documents"]), a["from"]] for a in artifacts]
        print(text_table(["artifact", "kind", "tokens", "documents", "made from"], rows))
    for i, (grid, members) in enumerate(_by_grid(runs).items()):
        if artifacts or i:
            print()
        if grid:
            print(f"{count(len(members), 'run')} of a grid, in {printable(grid)}:")
        rows = [
            [os.path.relpath(r["path"], grid or "."), r["objective"], r["state"], _count(r["tokens"]), r["validation"]]
            for r in members
        ]
        print(text_table(["run", "type", "state", "tokens", "validation loss"], rows))
    return 0


def _by_grid(runs: Sequence[dict[str, Any]]) -> dict[str, Sequence[dict[str, Any]]]:
    """Return the runs by the folder of the grid that they are of, those of none first, under an empty name."""
    grids = [folder if GRID_RUN.search(name) else "" for folder, name in (os.path.split(run["path"]) for run in runs)]
    return {grid: [run for run, of in zip(runs, grids, strict=True) if of == grid] for grid in sorted({*grids})}


def _count(n: int | None) -> str:
    return "" if n is None else format_count(n)


def _artifact(folder: str, path: str) -> dict[str, Any]:
    said: dict[str, Any] = {"path": os.path.relpath(path, folder), "tokens": None, "documents": None, "from": ""}
    try:
        m = read_any_manifest(path)
    except EpochalError as error:
        return said | {"kind": "damaged", "from": str(error)}
    kind = f"{m.kind} ({m.layout})" if isinstance(m, ExportManifest) else m.kind
    return said | {
        "kind": kind,
        "tokens": m.tokens,
        "documents": m.documents,
        "from": m.parent.name if m.parent else "",
        "fingerprint": m.fingerprint,
    }


def _runs_below(folder: str, depth: int) -> Iterator[str]:
    if os.path.isfile(os.path.join(folder, RUN_NAME)):
        yield folder
    elif depth:
        for name in subfolders(folder):
            yield from _runs_below(os.path.join(folder, name), depth - 1)


def _run(folder: str, path: str) -> dict[str, Any]:
    """Return what a run's folder says of it: `state` is when it finished, or the step that it has reached."""
    said: dict[str, Any] = {"path": os.path.relpath(path, folder), "objective": "", "tokens": None, "validation": ""}
    try:
        begun = parse_json(storage.read_bytes(os.path.join(path, RUN_NAME)), RUN_NAME)
        said["objective"] = str(begun["objective"]["name"])
        if os.path.isfile(os.path.join(path, RESULT_NAME)):
            ended = parse_json(storage.read_bytes(os.path.join(path, RESULT_NAME)), RESULT_NAME)
            result = ended["result"]
            said |= {"state": f"finished {str(ended.get('finished', ''))[:10]}".strip(), "tokens": result["tokens"]}
            return said | {"validation": _losses(result["validation"], _exact_of(result))}
        rows = read_metrics(path) if os.path.isfile(os.path.join(path, METRICS_NAME)) else []
        if not rows:
            return said | {"state": "no step yet"}
        measured = {key.removeprefix("metrics/validation/"): value for row in rows for key, value in row.items()}
        exact = {words: value for key, value in measured.items() if (words := _order_in_words(key))}
        tokens = int(rows[-1]["run/tokens"]) if "run/tokens" in rows[-1] else None
        return said | {
            "state": f"step {rows[-1]['step']:,.0f}",
            "tokens": tokens,
            "validation": _losses(measured, exact),
        }
    except (EpochalError, OSError, KeyError, TypeError, ValueError) as error:
        return said | {"state": f"damaged: {error}"}


def _order_in_words(metric: str) -> str:
    """Return the order of writing that a logged metric is the exact likelihood under; nothing for others."""
    for prefix, given in LOGGED.items():
        if metric.startswith(prefix):
            return of_key(metric.removeprefix(prefix)).words + given
    return ""


def _exact_of(result: dict[str, Any]) -> dict[str, float]:
    """Return what a finished run has under an order of writing, by the order's words."""
    exact = result.get("exact")
    if not exact:
        return {}
    given = GIVEN if "given" in exact else ""
    return {WritingOrder(exact["order"], exact["tokens_per_step"]).words + given: exact["loss"]}


def _losses(measured: dict[str, float], exact: dict[str, float]) -> str:
    """Return the validation losses in words, each with its kind, and masked diffusion's exact one with its order."""
    under = (f"NLL {value:.4f} ({words})" for words, value in exact.items())
    return ", ".join(filter(None, [losses_in_words(measured), *under]))
