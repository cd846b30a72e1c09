"""What an evaluation leaves: items scored so far, results.json and its tables as Parquet."""

import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ...common.errors import WorkError
from ...common.storage import local_path, naming, write_atomic


class ItemStore:
    """Scored items of one model on one benchmark, one JSON line each, in a file that only grows."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.records: dict[int, dict[str, Any]] = {}
        os.makedirs(os.path.dirname(path), exist_ok=True)
        whole = 0
        if os.path.exists(path):
            for line in Path(path).read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break  # the write that was cut off
                self.records |= self._record(line)
                whole += len(line)
            os.truncate(path, whole)

    def _record(self, line: bytes) -> dict[int, dict[str, Any]]:
        try:
            body = json.loads(line)
            return {int(body["id"]): body}
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            raise WorkError(f"{self.path} is damaged: remove it, and its items are scored again") from None

    def add(self, records: Sequence[dict[str, Any]]) -> None:
        """Append records and make them durable."""
        with naming(self.path), open(self.path, "a", encoding="utf-8") as f:
            f.writelines(json.dumps(r) + "\n" for r in records)
            f.flush()
            os.fsync(f.fileno())
        self.records |= {r["id"]: r for r in records}


def write_results(body: dict[str, list[dict[str, Any]]], out: str) -> None:
    """Write results.json, and as Parquet one row per model and task, per item, and per likelihood."""
    out = local_path(out)
    os.makedirs(out, exist_ok=True)
    write_atomic(os.path.join(out, "results.json"), (json.dumps(body, indent=2, default=_plain) + "\n").encode())
    flat = [{k: v for k, v in row.items() if not isinstance(v, dict)} for row in body["tasks"]]
    subjects = [
        {"model": row["model"], "task": row["task"], "shots": row["shots"], "subject": name} | values
        for row in body["tasks"]
        for name, values in row.get("subjects", {}).items()
    ]
    for name, rows in (
        ("results", flat),
        ("subjects", subjects),
        ("likelihoods", body["likelihoods"]),
        ("lm_eval", body.get("lm_eval", [])),
    ):
        if rows:
            table = io.BytesIO()  # polars says nothing of a full disk
            pl.DataFrame(rows, infer_schema_length=None).write_parquet(table)
            write_atomic(os.path.join(out, f"{name}.parquet"), table.getvalue())


def _plain(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    raise TypeError(f"{type(value).__name__} is not a JSON type")
