"""What version 0.1.0 wrote, made by its own code: `python make.py ARCHIVE`, in an environment of commit 89a7eca.

Run it in an empty folder with the interpreter of a checkout of that commit (`make .venv/.ready`). It builds a pool from
the checkout's documentation, carves, exports, plans, trains, interrupts a run, serves, and packs all of it together
with the answers that 0.1.0 gave.
"""

import json
import socket
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import composer
import pyarrow.parquet as pq
import yaml

import epochal
from epochal.datapipe.build import build
from epochal.datapipe.config import Build
from epochal.service.client import AwayError, Client
from epochal.shards.artifact import open_artifact
from epochal.shards.carve import carve
from epochal.shards.export import export
from epochal.shards.mixture_settings import MixtureSettings, open_mixture
from epochal.shards.plan import Plan
from epochal.train.config import TrainConfig, load_config
from epochal.train.demo import small_tokenizer
from epochal.train.evaluate import Settings
from epochal.train.evaluate import run as evaluate
from epochal.train.trainer import build_trainer, prepare, train

assert epochal.__version__ == "0.1.0", "this script tells what 0.1.0 wrote: run it with that version"

SUBSET = "artifacts/subsets/tiny-10k"
FILES = ("plan.json", "mixture.json", "mixture.yaml", "interrupted.yaml", "answers.json")
KEPT = ("artifacts", "exported", "runs", *FILES)


class StopAfter(composer.Callback):
    """Dies after a number of steps, as a killed process would: nothing is saved."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def batch_checkpoint(self, state: Any, logger: Any) -> None:
        if int(state.timestamp.batch) == self.steps:
            raise KeyboardInterrupt


def make_artifacts() -> None:
    """Build a pool of bytes from the documentation's paragraphs; carve and export a subset."""
    documents = sorted((Path(epochal.__file__).parent / "docs").glob("*.md"))
    paragraphs = [p for path in documents for p in path.read_text().split("\n\n") if len(p) > 200][:90]
    Path("text.jsonl").write_text(
        "".join(json.dumps({"id": f"p{i}", "text": p}) + "\n" for i, p in enumerate(paragraphs))
    )
    Path("tokenizer.json").write_text(json.dumps(small_tokenizer(256)))
    settings = {
        "name": "tiny",
        "seq_len": 64,
        "validation_tokens": 4000,
        "samples_per_shard": 64,
        "tasks": 1,
        "workers": 1,
    }
    sources = [{"name": "docs", "path": "text.jsonl"}]
    build(Build.model_validate(settings | {"sources": sources, "tokenizer": {"name": "tokenizer.json"}}), quiet=True)
    carve("artifacts/pools/tiny", 10_001, out=SUBSET)
    carve("artifacts/pools/tiny", 5_000, 1, out="artifacts/subsets/tiny-5k-r1")
    export(SUBSET, "parquet", "exported")


def settings_of(name: str, **changes: Any) -> TrainConfig:
    """Return a run of 2.5 passes in 25 steps or so on the subset."""
    data = {
        "run_name": name,
        "seed": 3,
        "model": {"layers": 1, "hidden": 16, "heads": 2, "ffn": 24},
        "objective": {"name": "mdm"},
        "train_loader": {"dataset": {"path": SUBSET}},
        "eval_loader": {"dataset": {"path": "artifacts/pools/tiny-val", "samples": 8}, "noise_samples": 2},
        "optimizer": {"lr": 3e-3},
        "scheduler": {"name": "wsd", "t_warmup": "2ba"},
        "max_duration": "2.5ep",
        "global_train_batch_size": 16,
        "device_train_microbatch_size": 8,
        "eval_interval": "10ba",
        "save_interval": "10ba",
        "save_num_checkpoints_to_keep": 1,
        "device": "cpu",
        "progress_bar": False,
        "save_folder": f"runs/{name}",
        "autoresume": True,
    }
    Path(f"{name}.yaml").write_text(yaml.safe_dump(data | changes))
    return load_config(f"{name}.yaml")


def make_runs() -> dict[str, Any]:
    """Train a run to its end, and the same one until it is interrupted; return what 0.1.0 says of the whole one."""
    whole = train(settings_of("whole"))
    trainer = build_trainer(prepare(settings_of("interrupted")))
    trainer.state.callbacks.append(StopAfter(14))
    try:
        trainer.fit()
    except KeyboardInterrupt:
        trainer.close()
    loss = evaluate(
        ["runs/whole/final"], Settings((), loss=("artifacts/pools/tiny-val",), loss_noise_samples=2, out="evaluated")
    )
    return {"result": whole, "evaluated": loss}


def make_service() -> dict[str, Any]:
    """Serve the artifacts, let a run report, and return the service's answers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "epochal", "serve", "--root", "artifacts", "--port", str(port)]
    )
    client = Client(f"http://127.0.0.1:{port}")
    try:
        for _ in range(2400):
            try:
                client.get("/health")
                break
            except AwayError:
                time.sleep(0.05)
        train(settings_of("reported", objective={"name": "ar"}, service={"url": client.url, "interval": 0}))
        documents = pq.read_table("artifacts/pools/tiny/documents.parquet")
        keys = [documents["key"][row].as_py().hex() for row in (0, 20, 70)]  # the last one is not in the subset
        return {
            "artifacts": client.get("/artifacts"),
            "run": client.get("/runs/reported"),
            "seen": {key: client.seen(key=key) for key in keys},
            "histogram": client.histogram("reported"),
        }
    finally:
        server.terminate()
        server.wait()
        connection = sqlite3.connect("artifacts/.service/epochal.db", isolation_level=None)
        connection.execute("UPDATE locations SET path = replace(path, ?, '/v0_1_0')", [str(Path.cwd())])
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()


def without_what_is_not_needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out checkpoints of finished runs and what SQLite keeps beside a database that is open."""
    path = Path(member.name)
    finished = path.parent.name in ("whole", "reported") and path.suffix == ".pt"
    return None if finished or path.name in ("epochal.db-shm", "epochal.db-wal") else member


def main() -> None:
    """Make everything and pack it."""
    make_artifacts()
    manifest = open_artifact(SUBSET).manifest
    plan = Plan.for_artifact(manifest, 40_004, 7)
    sources = {
        "a": {"path": SUBSET, "epochs": 3, "seed": 1},
        "b": {"path": "artifacts/subsets/tiny-5k-r1", "tokens": 20_000, "policy": "fixed"},
    }
    settings = {"sources": sources, "window": 16, "seed": 5}
    Path("mixture.yaml").write_text(yaml.safe_dump(settings))
    mixture = open_mixture(MixtureSettings.model_validate(settings), 0, None).mixture
    Path("plan.json").write_text(json.dumps(plan.to_dict(), indent=2) + "\n")
    Path("mixture.json").write_text(json.dumps(mixture.to_dict(), indent=2) + "\n")
    orders = {
        "plan_ids": plan.ids(range(plan.positions)).tolist(),
        "mixture_ids": mixture.ids(range(mixture.positions)).tolist(),
    }
    answers = make_runs() | {"service": make_service()} | orders
    Path("answers.json").write_text(json.dumps(answers, indent=1) + "\n")
    with tarfile.open(sys.argv[1], "w:gz") as archive:
        for name in KEPT:
            archive.add(name, filter=without_what_is_not_needed)


if __name__ == "__main__":
    main()
