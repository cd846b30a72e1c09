"""What a grid's runs measured, as two tables: a row per run and evaluation, a row per run.

Nothing in them depends on time, machine or interruptions: the same runs give the same bytes.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...common import storage
from ...common.errors import EpochalError
from ...shards.order.receipt import RECEIPT_NAME, Receipt
from ..checkpoint import WEIGHTS_NAME, load_card
from ..exact.writing_order import EXACT
from ..objective.halves import HALVES, of_half
from ..run_folder import METRICS_NAME, read_metrics, train_losses
from .grid import RunSpec
from .launch import result_of

FULL_RATE = 0.999
"""Share of a run's highest learning rate below which it has begun to fall."""

CURVES_NAME, RUNS_NAME = "curves.parquet", "runs.parquet"

MetricsRow = dict[str, Any]

RUN_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("run", pa.string()),
    ("unique_tokens", pa.int64()),
    ("objective", pa.string()),
    ("replicate", pa.int64()),
    ("seed", pa.int64()),
    ("settings", pa.string()),
    ("arm", pa.string()),
    ("decays_from", pa.string()),
)
"""In both tables. settings: JSON of the overridden keys, with `arm` where it is not the default. decays_from: of a run
with its own decay, the run whose best length it has; empty for the others."""

CURVE_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    *RUN_COLUMNS,
    ("parameters", pa.int64()),
    ("step", pa.int64()),
    ("tokens", pa.int64()),
    ("passes", pa.float64()),
    ("kind", pa.string()),
    ("loss", pa.float64()),
    ("loss_se", pa.float64()),
    ("train_loss", pa.float64()),
    ("learning_rate", pa.float64()),
    ("decayed", pa.bool_()),
)
"""kind: `nll` (exact) or `nelbo` (upper bound). loss: validation, nats per token; loss_se: standard error that the
noise of a bound leaves, 0 for an exact one. train_loss: mean over the steps since the evaluation before. decayed: the
learning rate had begun to fall from its highest. After these come `even/loss` and `odd/loss`, of the halves of the
validation pool; for every task, `<task>/accuracy`, `<task>/delta_nll` and their standard errors; and for every order of
writing that was measured `exact/<order>/<tokens per step>`, MDM's exact NLL under it, and AR's NLL, which is exact as
it is, with its halves (`even/exact/...`)."""

TASK_FIGURES = ("accuracy", "accuracy_se", "delta_nll", "delta_nll_se")

CHECKPOINT_COLUMNS = ("final", "best")

TABLE_COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    *RUN_COLUMNS,
    ("state", pa.string()),
    ("total_tokens", pa.int64()),
    ("parameters", pa.int64()),
    ("flops", pa.float64()),
    ("receipt", pa.string()),
    ("receipt_digest", pa.string()),
    ("kind", pa.string()),
    *((f"{which}_{what}", pa.float64()) for which in CHECKPOINT_COLUMNS for what in ("loss", "loss_se", "passes")),
    *((f"{which}_checkpoint", pa.string()) for which in CHECKPOINT_COLUMNS),
)
"""state: finished, unfinished, missing. receipt: valid, or what is wrong. *_checkpoint: folder of the exported model,
relative to the grid's."""


def identity(run: RunSpec) -> MetricsRow:
    """Return the columns that both tables begin with."""
    settings = json.dumps(run.settings, sort_keys=True)
    keys = ("unique_tokens", "objective", "replicate", "seed")
    arm = {"arm": run.arm, "decays_from": run.decays_from}
    return {"run": run.name} | {k: getattr(run, k) for k in keys} | {"settings": settings} | arm


def curve(run: RunSpec) -> list[MetricsRow]:
    """Return the rows of one run, in order; none where nothing is measured yet."""
    if not Path(run.folder, METRICS_NAME).is_file():
        return []
    kind = "nll" if run.shape.causal else "nelbo"
    parameters = run.shape.block_parameters + run.shape.head_parameters
    rows: list[MetricsRow] = []
    passing: dict[str, Any] = {}
    losses: list[float] = []
    peak = 0.0
    for metrics in read_metrics(run.folder):
        peak = max(peak, metrics.get("run/lr", 0.0))
        passing |= {k: v for k, v in metrics.items() if k in ("run/tokens", "run/lr")}
        losses += train_losses(metrics).values()
        if f"metrics/validation/{kind}" not in metrics:
            continue
        se = metrics.get("metrics/validation/nelbo_se", math.nan) if kind == "nelbo" else 0.0
        tokens = int(passing["run/tokens"])
        rows.append(
            identity(run)
            | {
                "parameters": parameters,
                "step": int(metrics["step"]),
                "tokens": tokens,
                "passes": tokens / run.unique_tokens,
                "kind": kind,
                "loss": metrics[f"metrics/validation/{kind}"],
                "loss_se": None if math.isnan(se) else se,
                "train_loss": math.fsum(losses) / len(losses) if losses else None,
                "learning_rate": passing["run/lr"],
                "decayed": passing["run/lr"] < FULL_RATE * peak,
            }
            | _task_figures(metrics)
            | _exact(metrics)
            | _halves(metrics, kind)
        )
        losses = []
    return rows


def _exact(metrics: dict[str, float]) -> MetricsRow:
    named = {key.removeprefix("metrics/"): value for key, value in metrics.items()}
    return {key: value for key, value in named.items() if key.startswith(EXACT)}


def _halves(metrics: dict[str, float], kind: str) -> MetricsRow:
    """Return `even/loss` and the like, of the loss and of every exact likelihood."""
    found: MetricsRow = {}
    for half in HALVES:
        names = {f"metrics/validation/{of_half(kind, half)}": "loss"}
        head = f"metrics/{of_half(EXACT.rstrip('/'), half)}/"
        names |= {key: EXACT + key.removeprefix(head) for key in metrics if key.startswith(head)}
        found |= {f"{half}/{name}": metrics[key] for key, name in names.items() if key in metrics}
    return found


def _task_figures(metrics: dict[str, float]) -> MetricsRow:
    found = {}
    for key, value in metrics.items():
        head, _, figure = key.rpartition("/")
        if figure in TASK_FIGURES and head.startswith("metrics/"):
            found[f"{head.removeprefix('metrics/')}/{figure}"] = value
    return found


def curves(runs: Sequence[RunSpec]) -> list[MetricsRow]:
    """Return the rows of all runs, in order of the grid; AR's stand for themselves under every order of writing."""
    rows = [row for run in runs for row in curve(run)]
    orders = exact(rows)
    return [row | (_own_exact(row, orders) if row["kind"] == "nll" else {}) for row in rows]


def _own_exact(row: MetricsRow, orders: Sequence[str]) -> MetricsRow:
    """Return an autoregressive run's likelihood under every order of writing: it is exact as it is."""
    return {
        f"{part}{order}": row[f"{part}loss"]
        for order in orders
        for part in ("", *(f"{half}/" for half in HALVES))
        if f"{part}loss" in row
    }


def summary(run: RunSpec, rows: Sequence[MetricsRow]) -> MetricsRow:
    """Return the row of one run in the table of runs.

    Args:
        rows: its curve.
    """
    result = result_of(run)
    state = "finished" if result else "unfinished" if rows else "missing"
    row = identity(run) | {
        "state": state,
        "total_tokens": run.total_tokens,
        "parameters": run.shape.block_parameters + run.shape.head_parameters,
        "flops": run.flops,
        "kind": "nll" if run.shape.causal else "nelbo",
    }
    row |= dict(zip(("receipt", "receipt_digest"), _receipt(run), strict=True))
    if rows:
        finite = [r for r in rows if math.isfinite(r["loss"])]
        chosen = {"final": rows[-1]} | ({"best": min(finite, key=lambda r: r["loss"])} if finite else {})
        for which, at in chosen.items():
            row |= {f"{which}_{what}": at[what] for what in ("loss", "loss_se", "passes")}
            row[f"{which}_checkpoint"] = _checkpoint(run, which, at["step"])
    return row


def _receipt(run: RunSpec) -> tuple[str, str | None]:
    """Return `valid` (or what is wrong) and the digest of the run's receipt, read and checked again from its file."""
    path = Path(run.folder, RECEIPT_NAME)
    if not path.is_file():
        return "none yet", None
    try:
        receipt = Receipt.from_json(path.read_text(encoding="utf-8"))
        return receipt.check() or "valid", receipt.digest
    except EpochalError as error:
        return str(error), None


def _checkpoint(run: RunSpec, which: str, step: int) -> str | None:
    """Return `runs/<name>/<which>` when that model is there and is of `step`."""
    folder = os.path.join(run.folder, which)
    if not os.path.exists(os.path.join(folder, WEIGHTS_NAME)):
        return None
    return f"runs/{run.name}/{which}" if load_card(folder).training["steps"] == step else None


def write(out: str, rows: Sequence[MetricsRow], runs: Sequence[MetricsRow]) -> None:
    """Write both tables to the folder `out`, each whole or not at all."""
    tasks = sorted({key for row in rows for key in row if "/" in key})
    columns = [*CURVE_COLUMNS, *((key, pa.float64()) for key in tasks)]
    for name, table_columns, body in ((CURVES_NAME, columns, rows), (RUNS_NAME, TABLE_COLUMNS, runs)):
        schema = pa.schema(table_columns)
        table = pa.Table.from_pylist([{k: row.get(k) for k, _ in table_columns} for row in body], schema=schema)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        storage.write_atomic(os.path.join(out, name), sink.getvalue().to_pybytes())


def tasks(rows: Sequence[MetricsRow]) -> list[str]:
    """Return the names of the tasks that were scored, in order."""
    return sorted({key.rpartition("/")[0] for row in rows for key in row if key.endswith("/accuracy")})


def exact(rows: Sequence[MetricsRow]) -> list[str]:
    """Return the names of the exact likelihoods that were measured, one per order of writing."""
    return sorted({key for row in rows for key in row if key.startswith(EXACT)})


def by_run(rows: Sequence[MetricsRow]) -> dict[str, list[MetricsRow]]:
    """Return the rows of each run, in order."""
    found: dict[str, list[MetricsRow]] = {}
    for row in rows:
        found.setdefault(row["run"], []).append(row)
    return found


def known(row: MetricsRow, metric: str) -> bool:
    """Return whether `metric` was measured there, and is a number: what is NaN or infinite is neither."""
    return row.get(metric) is not None and math.isfinite(row[metric])
