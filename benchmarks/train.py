"""Training speed: Composer with all our callbacks against a plain PyTorch loop: `python -m epochal.benchmarks.train`.

Both train the same model on the same batches in one process, the plain loop first, with the same optimizer, clipping,
precision, compilation and micro-batches. Each case and round is a process of its own: a Composer trainer keeps its
model until the process ends. On a GPU: 125M and paper-1b, both types, sequence 2048, bf16; tokens/s, MFU, peak memory.
On a CPU: the tiny model. Writes benchmarks/results/train.json after each case; `ratio` is Composer's tokens/s over the
plain loop's, the lowest of all rows, and `mdm_over_ar` MDM's tokens/s over AR's, the lowest of all models.
"""

import argparse
import contextlib
import gc
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from composer import Callback
from composer.core import Precision, get_precision_context

from epochal.benchmarks.common import machine, random_pool, result_path, write_result
from epochal.shards.manifest import TokenizerInfo
from epochal.train import trainer as ours
from epochal.train.config import TrainConfig
from epochal.train.data import Split
from epochal.train.model.compiled import compile_for_training
from epochal.train.model.composer import build
from epochal.train.model.flops.formulas import peak_flops, training_flops_per_token
from epochal.train.model.kernels import attention, products
from epochal.train.model.presets import model_section
from epochal.train.optimization.optimizer import build_optimizer
from epochal.train.run import Run, flops_shares

WARM_UP = 5
"""Steps that are not timed: compilation, memory pools, the first reads of every shard."""


class Timer(Callback):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def batch_end(self, state: Any, logger: Any) -> None:
        _wait()
        self.ends.append(time.perf_counter())


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _rate(ends: list[float], batch_tokens: int) -> float:
    """Return tokens/s from the median step after the warm-up."""
    seconds = statistics.median(b - a for a, b in zip(ends[WARM_UP:-1], ends[WARM_UP + 1 :], strict=True))
    return batch_tokens / seconds


def composer_rate(config: TrainConfig) -> float:
    """Return Composer's tokens/s."""
    run = ours.prepare(config)
    built = ours.build_trainer(run)
    timer = Timer()
    built.state.callbacks.append(timer)
    with contextlib.redirect_stdout(sys.stderr):
        built.fit()
    built.close()
    return _rate(timer.ends, run.batch_tokens)


def plain_steps(run: Run) -> Iterator[None]:
    """Train in a loop with nothing in it but the training; yield after each step."""
    config = run.config
    device = torch.device("cuda" if run.device == "gpu" else "cpu")
    model: Any = build(run.shape, run.objective.kind, config.seed).to(device)
    products.arrange(model.transformer, run.precision, parallel=False, ranks=1)
    size = int(config.device_train_microbatch_size)
    if config.compile_config is not None:
        micro_batch = (size, run.plan.seq_len)
        compile_for_training(model.transformer, config.compile_config, micro_batch, run.device, run.precision)
    optimizer = build_optimizer(model, config.optimizer, fused=run.device == "gpu")
    split = Split(pin=run.device == "gpu")
    for batch in ours.train_loader(run):
        for part in split(batch, size):
            moved = {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in part.items()}
            with get_precision_context(Precision(run.autocast)):
                loss = model.loss(model(moved), moved)[run.objective.kind]
            (loss * part["samples"] / config.global_train_batch_size).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def plain_rate(config: TrainConfig) -> float:
    """Return the plain loop's tokens/s."""
    run = ours.prepare(config)
    ends = []
    for _ in plain_steps(run):
        _wait()
        ends.append(time.perf_counter())
    return _rate(ends, run.batch_tokens)


def cases(gpu: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a name and the settings that tell it from the others."""
    models = {"125m": (2048, 50269, 64, 16), "paper-1b": (2048, 50269, 32, 8)} if gpu else {"tiny": (256, 1027, 16, 8)}
    for name, (seq_len, vocab, batch, micro) in models.items():
        for objective in ("ar", "mdm"):
            yield (
                f"{name} {objective}",
                {
                    "model": model_section({"preset": name}, "benchmark"),
                    "objective": {"name": objective},
                    "global_train_batch_size": batch,
                    "device_train_microbatch_size": micro,
                    "shape": (seq_len, vocab),
                    "compile_config": {} if gpu else None,
                },
            )


def configured(settings: Mapping[str, Any], steps: int, folder: Path, gpu: bool) -> TrainConfig:
    """Return a run of `steps` steps on random tokens, whose pool is written into the new folder at `folder`.

    Args:
        settings: training keys, and `shape`: tokens of a sample and ids of the vocabulary.
    """
    seq_len, vocab = settings["shape"]
    batch = settings["global_train_batch_size"]
    folder.mkdir(parents=True)
    special = {"eod": vocab - 3, "mask": vocab - 2, "pad": vocab - 1}
    ids = TokenizerInfo(name="random", fingerprint="0" * 32, vocab_size=vocab, **special)
    pool = random_pool(folder, 8 * batch, 8 * batch, seq_len, ids)
    return TrainConfig.model_validate(
        {
            "train_loader": {"dataset": {"path": pool}},
            "optimizer": {"lr": 1e-4},
            "scheduler": {"name": "constant_with_warmup"},
            "max_duration": steps * batch * seq_len,
            "progress_bar": False,
            "precision": "amp_bf16" if gpu else "fp32",
        }
        | {k: v for k, v in settings.items() if k != "shape"}
    )


def rated(name: str, rate: Callable[[TrainConfig], float], config: TrainConfig, gpu: bool) -> dict[str, float]:
    """Return what a way of training comes to: its `rate`, and on a GPU its peak memory, each by the way's `name`."""
    gc.collect()
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with attention.backend(config.attention_backend):
        row = {f"{name}_tokens_per_sec": rate(config)}
    return row | ({f"{name}_peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30} if gpu else {})


def measure(settings: Mapping[str, Any], steps: int, folder: Path, gpu: bool) -> dict[str, float]:
    """Return the row of one case, from one round: the plain loop, then Composer. For a process that then ends."""
    config = configured(settings, steps, folder, gpu)
    row: dict[str, float] = {}
    for name, rate in (("plain", plain_rate), ("composer", composer_rate)):
        row |= rated(name, rate, config, gpu)
    run = ours.prepare(config)
    row["flops_per_token"] = training_flops_per_token(run.shape, run.plan.seq_len, *flops_shares(run))
    peak = peak_flops(torch.device("cuda")) if gpu else None
    return row | {"peak_flops": peak} if peak else row


def derived(row: Mapping[str, float]) -> dict[str, float]:
    """Return `row` with what follows from it: `ratio`, and `mfu` where the peak is known."""
    rate = row["composer_tokens_per_sec"]
    known = {"mfu": rate * row["flops_per_token"] / row["peak_flops"]} if "peak_flops" in row else {}
    return {**row, "ratio": rate / row["plain_tokens_per_sec"], **known}


def best(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return one row of several rounds: the largest of each figure."""
    return derived({key: max(row[key] for row in rounds) for key in rounds[0]})


def _summary(rows: dict[str, dict[str, float]], gpu: bool) -> dict[str, Any]:
    names = {name.split()[0] for name in rows}
    both = [m for m in names if f"{m} ar" in rows and f"{m} mdm" in rows]
    rate = "composer_tokens_per_sec"
    return {
        "machine": torch.cuda.get_device_name() if gpu else machine(),
        "torch": torch.__version__,
        "rows": rows,
        "ratio": min(row["ratio"] for row in rows.values()),
        "mdm_over_ar": min((rows[f"{m} mdm"][rate] / rows[f"{m} ar"][rate] for m in both), default=None),
    }


def main() -> int:
    """Measure all cases, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=25, help="steps a round, the first few not timed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--out", type=Path, default=result_path("train"))
    args = parser.parse_args()
    if args.steps < WARM_UP + 2:
        parser.error(f"--steps must be at least {WARM_UP + 2}: the first {WARM_UP} are not timed")
    gpu = torch.cuda.is_available()
    chosen = {name: settings for name, settings in cases(gpu) if args.only in name}
    if not chosen:
        parser.error(f"no case has '{args.only}' in its name: {', '.join(name for name, _ in cases(gpu))}")
    rows: dict[str, dict[str, float]] = {}
    alone = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=alone, max_tasks_per_child=1) as processes,
    ):
        for name, settings in chosen.items():
            places = [Path(folder, name, str(i)) for i in range(args.rounds)]
            rows[name] = best([processes.submit(measure, settings, args.steps, p, gpu).result() for p in places])
            shown = "  ".join(f"{k} {v:.4g}" for k, v in rows[name].items())
            print(f"{name:>14}  {shown}", flush=True)
            write_result(args.out, _summary(rows, gpu))
    print(f"Composer against a plain loop: {_summary(rows, gpu)['ratio']:.3f}; written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
