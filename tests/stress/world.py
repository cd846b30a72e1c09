"""One of everything that a command reads, and commands run against copies of it, each within bounds.

A command runs in a child of this process, which has imported what commands need: limited in memory, killed when it
takes too long, its output kept. So hundreds of them take minutes.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import epochal
from epochal.__main__ import main
from epochal.datapipe.build import build
from epochal.datapipe.config import Build
from epochal.examples.demo import small_tokenizer
from epochal.tests.support.corpora import real_documents
from epochal.tests.support.pools import tiny_run
from epochal.tests.support.training import interrupt
from epochal.train.config import load_config
from epochal.train.trainer import train

SECONDS, GRACE = 20.0, 6 << 30
"""After which a command is killed, and the bytes of address space that it may take beyond this process's own."""

POOL, VALIDATION = "artifacts/pools/tiny", "artifacts/pools/tiny-val"
VIEW, COPY, TAR = (f"artifacts/subsets/{name}" for name in ("view", "copy", "tar"))
EXPORTS = ("wds", "parquet", "megatron", "bin", "hf")
WHOLE, STOPPED = "runs/whole", "runs/stopped"
MODEL = f"{WHOLE}/final"
TRAIN = ["train", "stopped.yaml", "autoresume=true"]


def make_world(root: Path) -> None:
    """Fill the folder `root`: text, pools, subsets, exports, a run that ended, one that was stopped, a mixture."""
    before = os.getcwd()
    os.chdir(root)
    try:
        _make_artifacts()
        _make_runs()
        _write_yaml("mixture.yaml", {"sources": {"a": {"path": VIEW, "epochs": 3}}, "window": 16})
        task = {"query": "Who?", "choices": ["a", "b", "c", "d"], "gold": 1}
        Path("hellaswag.jsonl").write_text((json.dumps(task) + "\n") * 3)
    finally:
        os.chdir(before)


def _write_yaml(path: str, body: dict[str, Any]) -> None:
    Path(path).write_text(yaml.safe_dump(body))


def _make_artifacts() -> None:
    lines = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(real_documents(60, 600))]
    Path("text.jsonl").write_text("\n".join(lines) + "\n")
    Path("tokenizer.json").write_text(json.dumps(small_tokenizer(256)))
    body = {"name": "tiny", "seq_len": 64, "validation_tokens": 4000, "samples_per_shard": 64, "tasks": 1, "workers": 1}
    body |= {"sources": [{"name": "docs", "path": "text.jsonl"}], "tokenizer": {"name": "tokenizer.json"}}
    _write_yaml("build.yaml", body)
    build(Build.model_validate(body), quiet=True)
    epochal.carve(POOL, 10_001, out=VIEW)
    epochal.carve(POOL, 5_001, 1, out=COPY, materialize=True)
    epochal.carve(POOL, 5_001, out=TAR, layout="wds")
    for name in EXPORTS:
        epochal.export(VIEW, name, f"exports/{name}")


def _make_runs() -> None:
    body = tiny_run(VIEW, VALIDATION, seed=3, max_duration="2ep", global_train_batch_size=16)
    for folder, steps in ((WHOLE, None), (STOPPED, 7)):
        name = f"{Path(folder).name}.yaml"
        _write_yaml(name, body | {"save_folder": folder})
        if steps is None:
            train(load_config(name))
        else:
            interrupt(load_config(name), steps)


_CLASS = re.compile(r"failed(:| with) \w+(Error|Exception|Warning|Interrupt|Overflow|Exit)")
_PROGRESS = re.compile(r"[\w/]+( [\w:]+)? +[\d.,]+ .*(in|of) ")


@dataclass(frozen=True)
class Outcome:
    """How a command ended. status: None when it was killed. bytes: that its memory rose by."""

    status: int | None
    out: str
    err: str
    seconds: float
    bytes: int

    def fault(self, allowed: Sequence[int]) -> str | None:
        """Return what is wrong with how the command ended, None for nothing."""
        lines = [line for line in self.err.splitlines() if line.strip() and not _PROGRESS.match(line)]
        if self.status is None:
            return f"killed after {self.seconds:.0f} s: {lines[-1:]}"
        if "Traceback" in self.err or _CLASS.search(self.err):
            return f"no words of ours: {lines[-1][:300]}"
        if self.status not in allowed:
            return f"status {self.status}: {(lines or [self.out[:100]])[-1][:300]!r}"
        said = [line for line in lines if line.startswith("epochal: ")]
        if self.status and not said and not self.out.strip():
            return "it said nothing"
        if self.status and len(lines) > len(said):
            return f"lines that are not ours: {[line for line in lines if line not in said][:3]}"
        if any(c in self.out + self.err for c in "\x00\x07\x1b"):
            return "control characters on the terminal"
        return None


def run_bounded(
    words: Sequence[str], folder: Path, *, seconds: float = SECONDS, before: Callable[[], object] = lambda: None
) -> Outcome:
    """Run a command in `folder`, in a child of this process."""
    with tempfile.TemporaryDirectory() as kept:
        began = time.monotonic()
        child = os.fork()
        if not child:
            _be_command(list(words), folder, kept, before)
        with contextlib.suppress(OSError):  # it did so itself, or has ended
            os.setpgid(child, child)
        status, took = _wait(child, began + seconds), time.monotonic() - began
        out, err = (Path(kept, name).read_text(errors="replace") for name in ("out", "err"))
        rose = int(Path(kept, "rose").read_text() or 0) if Path(kept, "rose").exists() else 0
        return Outcome(status, out, err, took, rose)


def _be_command(words: list[str], folder: Path, kept: str, before: Callable[[], object]) -> None:
    """Run a command and leave; never returns."""
    status = 70
    try:
        os.chdir(folder)
        os.setpgid(0, 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(os.path.join(kept, name), os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", buffering=1, errors="backslashreplace") for n in (1, 2))
        os.environ["HOME"] = os.environ["XDG_CONFIG_HOME"] = str(folder / "home")
        first = _resident("VmRSS")
        resource.setrlimit(resource.RLIMIT_AS, (_resident("VmSize") + GRACE,) * 2)
        before()
        status = main(words)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with open(os.path.join(kept, "rose"), "w", encoding="ascii") as file:
            file.write(str(_resident("VmHWM") - first))
        os._exit(status)


def _resident(name: str) -> int:
    """Return a figure of this process's memory in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))


def _wait(child: int, deadline: float) -> int | None:
    """Return the child's exit status; None when it is killed at the deadline, with all that it started."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def clone(world: Path, target: Path) -> Path:
    """Make `target` a fresh copy of `world`; return it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(world, target, symlinks=True)
    return target


def warm_up() -> None:
    """Import what commands import, so that children need not."""
    from epochal.common.cli import importlib  # noqa: F401
    from epochal.datapipe import commands as _build  # noqa: F401
    from epochal.service import service  # noqa: F401
    from epochal.train.crossover import launch  # noqa: F401
    from epochal.train.eval import evaluate, generate  # noqa: F401

    torch.set_num_threads(1)
