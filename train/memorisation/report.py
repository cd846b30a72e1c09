"""What `epochal memorisation` prints and leaves: a table for each type, memorisation.json and two plots."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ...common.cli import text_table
from ...common.html import count
from ...common.storage import local_path, naming, write_atomic
from ..crossover.report.charts import line_plot
from ..eval.likelihood import KIND_NAMES
from ..run_folder import MEMORISATION_NAME

LOSS_PLOT, SHARE_PLOT = "memorisation-loss.svg", "memorisation-reproduced.svg"

LEFT_OUT = {
    "cut": "cut by the edge of the data",
    "repeated": "in the data more than once",
    "short": "shorter than {least} tokens in one sample",
}
"""Why a document is not measured."""


def write(body: Mapping[str, Any], out: str) -> list[str]:
    """Write memorisation.json and the plots to the folder `out`; return their paths.

    Raises:
        WorkError: when they cannot be written.
    """
    folder = local_path(out)
    with naming(folder):
        os.makedirs(folder, exist_ok=True)
    texts = {MEMORISATION_NAME: json.dumps(body, indent=2) + "\n"} | plots(body)
    for name, text in texts.items():
        write_atomic(os.path.join(folder, name), text.encode())
    return [os.path.join(out, name) for name in texts]


def plots(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the SVGs by name: what a token costs, and the share that was reproduced, over exposures."""
    losses = {f"{m['type'].upper()}, {KIND_NAMES[m['kind']]}": _curve(m, "per_token") for m in body["models"]}
    shares = {m["type"].upper(): [(x, 100 * y) for x, y in _curve(m, "share")] for m in body["models"]}
    x_label, title = "times that the run was fed a document (0: validation)", body["run"]
    return {
        LOSS_PLOT: line_plot(losses, f"{title}: loss over exposures", x_label, "nats per token"),
        SHARE_PLOT: line_plot(
            shares, f"{title}: {body['k']}-token continuations", x_label, "reproduced greedily, per cent"
        ),
    }


def _curve(model: Mapping[str, Any], figure: str) -> list[tuple[float, float]]:
    """Return a figure over exposures; documents of training that were never fed are no part of the curve."""
    rows = [row for row in model["groups"] if row["held_out"] or row["exposures"]]
    return [(float(row["exposures"]), row[figure]) for row in rows or model["groups"]]


def describe(body: Mapping[str, Any], files: Sequence[str]) -> str:
    """Return what is printed: a table for each type, what was left out, where the figures lie."""
    parts = []
    for model in body["models"]:
        noise = f", {count(model['noise_samples'], 'noise sample')} a document" if model["noise_samples"] else ""
        parts.append(f"{model['name']}: {KIND_NAMES[model['kind']]}{noise}\n{_table(model, body['k'])}")
    return "\n\n".join([*parts, "\n".join(_notes(body, files))])


def _table(model: Mapping[str, Any], k: int) -> str:
    head = ["fed", "documents", f"{model['kind'].upper()} per token", f"{k} tokens reproduced", "95 % interval"]
    rows = []
    for row in model["groups"]:
        error = "" if row["per_token_se"] is None else f" ± {row['per_token_se']:.4f}"
        rows.append(
            [
                _times(row),
                f"{row['documents']:,} of {row['in_all']:,}",
                f"{row['per_token']:.4f}{error}",
                f"{row['reproduced']:,} ({100 * row['share']:.1f} %)",
                f"{100 * row['share_low']:.1f} to {100 * row['share_high']:.1f} %",
            ]
        )
    return text_table(head, rows)


def _times(row: Mapping[str, Any]) -> str:
    n = row["exposures"]
    if row["held_out"]:
        return "never (validation)"
    return "never (training)" if not n else "once" if n == 1 else f"{n:,} times"


def _notes(body: Mapping[str, Any], files: Sequence[str]) -> list[str]:
    notes = []
    if not body["validated"]:
        notes.append("no documents that were held out: the run has no validation pool (--validation PATH gives one)")
    if body["init_from"]:
        notes.append(f"what {body['init_from']} was trained on, with which the run started, is not counted")
    for why, words in LEFT_OUT.items():
        if n := body["left_out"][why]:
            notes.append(f"left out: {count(n, 'document')} {words.format(least=body['k'] + 1)}")
    return [*notes, f"written: {', '.join(files)}"]
