"""What a run leaves in its folder, by name; reading it needs neither Composer nor torch."""

import json
import math
from pathlib import Path

RUN_NAME, RESULT_NAME = "run.json", "result.json"
RECEIPT_NAME, METRICS_NAME = "receipt.json", "metrics.jsonl"


def step_of(line: str) -> float:
    """Return the step that a line of the metrics is of; infinity for one that was cut off by a crash."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def read_metrics(folder: str) -> list[dict[str, float]]:
    """Return the metrics of the run in `folder`, one mapping per step, rows of the same step joined.

    A last line that is still being written is left out.
    """
    rows: dict[int, dict[str, float]] = {}
    for line in (Path(folder) / METRICS_NAME).read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            row = json.loads(line)
            rows.setdefault(row["step"], {}).update(row)
    return [rows[step] for step in sorted(rows)]
