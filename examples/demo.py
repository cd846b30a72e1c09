"""`make train`: a tiny AR and a tiny MDM model on the same real text, repeated 20 times, on a CPU in minutes.

GPT-2's 50,257 ids would put nine tenths of a tiny model's work into its output layer, so the demonstration tokenizes
the text of `make shards` with GPT-2's first 1,024 ids. Everything else is as in a large run: a pool, a subset with an
exact number of unique tokens, the planned order, two receipts, validation on held-out text.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common import storage
from ..common.cli import run_plainly
from ..common.publish import MANIFEST_NAME
from ..train.crossover.report.charts import line_plot

IDS = 1024
UNIQUE_TOKENS = 50_000
PASSES = 20
POOL = "python-1k"


def small_tokenizer(n_ids: int) -> dict[str, Any]:
    """Return GPT-2's tokenizer.json cut down to its first `n_ids` ids and `<|endoftext|>`.

    Ids of byte-level BPE are in order of their merges, so the first ones are a tokenizer by themselves.
    """
    from ..tokenize.gpt2 import tokenizer_json

    spec = tokenizer_json()
    vocab = {token: i for token, i in spec["model"]["vocab"].items() if i < n_ids}
    spec["model"]["merges"] = spec["model"]["merges"][: n_ids - 256]
    spec["model"]["vocab"] = vocab | {"<|endoftext|>": n_ids}
    spec["added_tokens"][0]["id"] = n_ids
    return spec


def run_epochal(*words: str) -> None:
    """Run an `epochal` command as a process of its own; stop here when it fails (it has said why)."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "epochal", *words])
    if done.returncode:
        sys.exit(done.returncode)


def make_pool(artifacts: Path) -> tuple[Path, Path]:
    """Build the pool and its validation pool where they are missing; return both."""
    pool = artifacts / "pools" / POOL
    validation = artifacts / "pools" / f"{POOL}-val"
    # The text is what Python packages are installed: a pool that is there stays in use when that changes.
    if not all((folder / MANIFEST_NAME).exists() for folder in (pool, validation)):
        tokenizer = artifacts / f"{POOL}-tokenizer.json"
        artifacts.mkdir(parents=True, exist_ok=True)
        storage.write_atomic(str(tokenizer), json.dumps(small_tokenizer(IDS)).encode())
        settings = {"name": POOL, "out": artifacts, "tokenizer.name": tokenizer, "seq_len": 256}
        settings |= {"sources.0.fraction": 0.03, "validation_tokens": "200k"}
        run_epochal("build", "python", *(f"{k}={v}" for k, v in settings.items()), "--quiet")
    return pool, validation


def make_data(artifacts: Path) -> tuple[Path, Path]:
    """Build the pool and carve the subset where they are missing; return subset and validation pool."""
    pool, validation = make_pool(artifacts)
    subset = artifacts / "subsets" / f"{POOL}-{UNIQUE_TOKENS // 1000}k"
    if not subset.exists():
        run_epochal("carve", str(pool), "--unique-tokens", str(UNIQUE_TOKENS), "--out", str(subset))
    return subset, validation


def run(objective: str, subset: Path, validation: Path, out: Path) -> dict[str, Any]:
    """Train the tiny model of one type (or go on with it); return its result."""
    from ..train.config import load_config
    from ..train.trainer import train

    settings = {
        "train_loader.dataset.path": subset,
        "eval_loader.dataset.path": validation,
        "max_duration": f"{PASSES}ep",
        "global_train_batch_size": 8,
        "optimizer.lr": 3e-3,
        "save_folder": out / objective,
        "progress_bar": "false",
    }
    return train(load_config(f"tiny-{objective}", [f"{k}={v}" for k, v in settings.items()]))


def curve(folder: Path, metric: str) -> list[tuple[float, float]]:
    """Return (passes, value) of a validation metric of a run, in order."""
    from ..train.run_folder import read_metrics

    points, passes = [], 0.0
    for row in read_metrics(str(folder)):
        passes = row.get("run/passes", passes)
        if f"metrics/validation/{metric}" in row:
            points.append((passes, row[f"metrics/validation/{metric}"]))
    return points


def table(results: dict[str, dict[str, Any]], curves: dict[str, list[tuple[float, float]]]) -> str:
    """Return the loss table; the kind of every figure stands beside it."""
    lines = [f"{'':>8} {'kind':>22} {'best':>8} {'at pass':>8} {'final':>8} {'train':>8}  receipt"]
    for name, result in results.items():
        kind = "NLL" if name == "ar" else "NELBO (upper bound)"
        best_pass, best = min(curves[name], key=lambda point: point[1])
        train_loss = next(iter(result["train"].values()))
        receipt = "valid" if result["receipt"]["valid"] else "NOT VALID"
        final = curves[name][-1][1]
        lines.append(
            f"{name.upper():>8} {kind:>22} {best:8.3f} {best_pass:8.1f} {final:8.3f} {train_loss:8.3f}  {receipt}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; return 0 when both receipts are valid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where pools and subsets lie")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where the runs go")
    parser.add_argument("--pool", action="store_true", help="only build the pool")
    args = parser.parse_args(argv)
    if args.pool:
        make_pool(args.artifacts)
        return 0
    started = time.perf_counter()
    subset, validation = make_data(args.artifacts)
    results, curves = {}, {}
    for objective, kind in (("ar", "nll"), ("mdm", "nelbo")):
        print(f"training {objective.upper()}: {UNIQUE_TOKENS:,} unique tokens x {PASSES} passes", flush=True)
        results[objective] = run(objective, subset, validation, args.out)
        curves[objective] = curve(args.out / objective, kind)
    print(f"\nvalidation loss, nats per token, {time.perf_counter() - started:.0f} s in all\n")
    print(table(results, curves))
    names = {"AR: NLL": curves["ar"], "MDM: NELBO (upper bound)": curves["mdm"]}
    title = f"{UNIQUE_TOKENS:,} unique tokens, repeated: validation loss"
    plot = args.out / "loss.svg"
    storage.write_atomic(str(plot), line_plot(names, title, "passes over the data", "nats per token").encode())
    error = max((se for _, se in curve(args.out / "mdm", "nelbo_se")), default=0.0)
    print(f"\nplot: {plot}\n" + "\n".join(_verdict(name, points, error) for name, points in curves.items()))
    return 0 if all(r["receipt"]["valid"] for r in results.values()) else 1


def _verdict(name: str, points: list[tuple[float, float]], error: float) -> str:
    """Say whether a curve has turned: two standard errors of the bound, or more, above its lowest point."""
    rise = points[-1][1] - min(y for _, y in points)
    turned = rise > max(0.02, 2 * error)
    state = "has turned up" if turned else "has not turned up"
    return (
        f"{name.upper()}: validation loss {state} ({rise:.3f} above its best; standard error of the bound {error:.3f})"
    )


if __name__ == "__main__":
    sys.exit(run_plainly(main, sys.argv[1:]))
