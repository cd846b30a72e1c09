"""A run folder and the run that is to train there: whether it is its own, what has changed, what is written down.

`run.json` holds what the figures follow from and the settings that may change, `config.yaml` the whole configuration,
`environment.json` what the run is computed with.
"""

import contextlib
import datetime
import json
import shutil
from pathlib import Path
from typing import Any

from composer.utils import dist

from ...common import storage
from ...common.cli import say
from ...common.errors import RequestError, WorkError
from ...common.json_text import strict_json
from ...shards.order.amendment.amend import why_not_on
from ...shards.order.stored import order_from_dict
from ..run import Run, first_difference
from ..run_folder import (
    CONFIG_NAME,
    ENVIRONMENT_NAME,
    LATEST_NAME,
    MODEL_FOLDERS,
    RESULT_NAME,
    RUN_NAME,
    RunFolder,
    step_of_checkpoint,
)
from . import environment
from .identity import changed, others, resolved, to_yaml

ALWAYS_SAID = ("plan", "model", "objective", "seed", "global_train_batch_size", "init_from")
"""What version 0.1.0 said of a run; `init_from` only where it was given."""

OTHERS, UNKNOWN = "other_settings", "not_known"
"""Keys of run.json that are not compared: settings that may change, and what an earlier version did not say."""

KEYS = {
    "plan.total_tokens": "max_duration",
    "plan.seed": "seed or train_loader.dataset.seed",
    "plan.policy": "train_loader.dataset.policy",
    "plan.subset": "train_loader.dataset.path",
    "plan.skip": "train_loader.dataset.skip",
    "eval_loader.dataset.fingerprint": "eval_loader.dataset.path",
}
"""Where a figure has another name than the key that it comes from: that key."""


def difference(saved: dict[str, Any], asked: dict[str, Any], position: int) -> str:
    """Return the first setting that differs, with its value there and here; empty when none is known to differ.

    Args:
        position: by which the saved run has read the samples before it: a plan that differs by skips alone is the same
            while it has read none of them.
    """
    compared = {k: v for k, v in saved.items() if k not in (OTHERS, UNKNOWN)}
    silent = unsaid(saved, asked)
    if compared.get("plan") != asked["plan"] and _own(compared.get("plan")) == _own(asked["plan"]):
        if problem := why_not_on(order_from_dict(compared["plan"]), order_from_dict(asked["plan"]), position):
            return f"{problem} (train_loader.dataset.skip)"
        compared["plan"] = asked["plan"]
    text = first_difference(compared, {k: v for k, v in asked.items() if k not in silent})
    key = KEYS.get(text.partition(" is ")[0])
    return f"{text} ({key})" if key else text


def _own(plan: Any) -> Any:
    """Return the fingerprint of a plan's JSON data without its skips."""
    return (plan.get("amends") or plan).get("fingerprint") if isinstance(plan, dict) else None


def unsaid(saved: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Return the settings that a saved run does not speak of: an earlier version wrote it."""
    return [k for k in asked if k not in saved and k not in ALWAYS_SAID]


def say_unknown(saved: dict[str, Any], asked: dict[str, Any], what: str) -> None:
    """Say which settings `what`, which an earlier version wrote, does not say."""
    silent = unsaid(saved, asked)
    if silent:
        say(f"{what} was written by an earlier version: whether it had the same {', '.join(silent)} is unknown")


def claim(run: Run, folder: RunFolder) -> None:
    """Check that `folder` is new, or this run's and to be gone on with; write down the run, clear what a crash left.

    Raises:
        RequestError: when another run is there, or this one and it is not to be gone on with.
        WorkError: when what is there is damaged.
    """
    folder.mend_link()
    saved = _read(folder, RUN_NAME)
    checkpoints = list(Path(folder.local).glob("ba*-rank*.pt"))
    empty = not checkpoints and not any(Path(folder.local, name).exists() for name in (*MODEL_FOLDERS, RESULT_NAME))
    if saved is not None and empty and (text := difference(saved, run.identity, 0)):
        say(f"{folder.path} held a run that had saved nothing ({text}): this one takes its place")
    elif saved is not None:
        _refuse_others(folder, saved, run)
    if checkpoints and not run.config.autoresume:
        raise RequestError(
            f"{folder.path} holds checkpoints: add autoresume=true to go on, or choose another save_folder"
        )
    if folder.read(RESULT_NAME) is not None and not run.config.autoresume:
        raise RequestError(f"{folder.path} holds a finished run: choose another save_folder, or remove this one")
    _write_down(run, folder, saved)
    _clear_partial(Path(folder.local), checkpoints)


def _refuse_others(folder: RunFolder, saved: dict[str, Any], run: Run) -> None:
    text = difference(saved, run.identity, _position(folder, saved))
    if text:
        raise RequestError(f"{folder.path} holds another run: {text}; choose another save_folder")


def _position(folder: RunFolder, saved: dict[str, Any]) -> int:
    """Return how many positions the run in a folder has read by its last checkpoint."""
    batch, plan = saved.get("global_train_batch_size"), saved.get("plan")
    positions = plan.get("positions") if isinstance(plan, dict) else None
    if not isinstance(batch, int) or not isinstance(positions, int):
        return 0
    return min(folder.steps_saved() * batch, positions)


def _write_down(run: Run, folder: RunFolder, saved: dict[str, Any] | None) -> None:
    step = folder.steps_saved()
    body = resolved(run.config, run.device, run.precision)
    asked: dict[str, Any] = run.identity | {OTHERS: others(body)}
    before = _read(folder, ENVIRONMENT_NAME)
    if before is not None and not environment.is_history(before):
        raise WorkError(f"{storage.join(folder.path, ENVIRONMENT_NAME)} is damaged: restore it, or remove it")
    now = environment.going_on(before, environment.current(run.device, run.precision), step)
    if step and saved is not None:
        silent = unsaid(saved, run.identity)
        unknown = {"before_step": step, "settings": silent} if silent else saved.get(UNKNOWN)
        asked |= {UNKNOWN: unknown} if unknown else {}
        _say_going_on(folder, step, run.end, changed(saved.get(OTHERS, asked[OTHERS]), asked[OTHERS]), now)
    _write(folder, RUN_NAME, json.dumps(asked, indent=2) + "\n")
    _write(folder, CONFIG_NAME, to_yaml(body))
    _write(folder, ENVIRONMENT_NAME, json.dumps(now, indent=2) + "\n")


def _say_going_on(folder: RunFolder, step: int, steps: int, settings: list[str], now: dict[str, Any]) -> None:
    say(f"{folder.path}: going on from step {step} of {steps}")
    if settings:
        say(f"settings that no figure follows from have changed: {', '.join(settings)}")
    computed = environment.differences(now) if now["from_step"] == step else []
    if computed:
        say(f"computed with something else than before, last digits may differ: {', '.join(computed)}")


def _write(folder: RunFolder, name: str, text: str) -> None:
    if folder.read(name) != text.encode():
        storage.write_atomic(storage.join(folder.path, name), text.encode())


def _read(folder: RunFolder, name: str) -> dict[str, Any] | None:
    """Return what a JSON file of a run folder says, None where there is none."""
    data = folder.read(name)
    if data is None:
        return None
    with contextlib.suppress(ValueError):
        body = strict_json(data)
        if isinstance(body, dict):
            return body
    raise WorkError(f"{storage.join(folder.path, name)} is damaged: restore it, or choose another save_folder")


def finished(run: Run) -> dict[str, Any] | None:
    """Return the result that this very run left in its folder, and say that it is one; None where it has none.

    Raises:
        RequestError: when another run has finished there.
        WorkError: when the result is damaged.
    """
    if run.folder is None or not run.config.autoresume:
        return None
    body = _read(run.folder, RESULT_NAME)
    if body is None:
        return None
    if not {"identity", "result"} <= body.keys():
        raise WorkError(f"{storage.join(run.folder.path, RESULT_NAME)} is damaged: choose another save_folder")
    _refuse_others(run.folder, body["identity"], run)
    when = f"on {body['finished']}" if "finished" in body else "at a time that it does not say"
    path = run.folder.path
    if dist.get_global_rank() == 0:
        say(f"{path} is already finished, {when}: nothing was trained now; for another run choose another save_folder")
        say_unknown(body["identity"], run.identity, path)
        _say_unused(run, _read(run.folder, RUN_NAME) or {})
    return body["result"]


def _say_unused(run: Run, saved: dict[str, Any]) -> None:
    asked = others(resolved(run.config, run.device, run.precision))
    settings = changed(saved.get(OTHERS, asked), asked)
    if settings:
        say(f"asked for otherwise now, which changed nothing: {', '.join(settings)}")


def write_result(run: Run, folder: RunFolder, result: dict[str, Any]) -> None:
    """Write how a run ended, and when."""
    finished = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    body = {"identity": run.identity, "result": result, "finished": finished}
    storage.write_atomic(f"{folder.local}/{RESULT_NAME}", (json.dumps(body, indent=2) + "\n").encode())


def service_identity(run: Run) -> dict[str, Any]:
    """Return what the service knows a run by: the identity, as the version had it that began the run."""
    saved = _read(run.folder, RUN_NAME) if run.folder else None
    silent = unsaid(saved, run.identity) or saved.get(UNKNOWN, {}).get("settings", []) if saved else []
    known = {k: v for k, v in run.identity.items() if k not in silent}
    if silent and known["init_from"] is None:
        del known["init_from"]
    return known


def _clear_partial(folder: Path, checkpoints: list[Path]) -> None:
    """Remove checkpoints later than the latest whole one: a crash interrupted their writing."""
    latest = folder / LATEST_NAME
    last = step_of_checkpoint(latest.resolve().name) if latest.exists() else -1
    for path in checkpoints:
        if step_of_checkpoint(path.name) > last:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
