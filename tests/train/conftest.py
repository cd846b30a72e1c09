"""A small run: two pools of eight letters, and configurations that train on them."""

import functools
from collections.abc import Callable as Function
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from composer.utils import collect_env

from epochal.tests.support.pools import tiny_run
from epochal.tests.support.training import SEQ_LEN, tokens
from epochal.train.config import TrainConfig


@pytest.fixture(scope="session", autouse=True)
def _commit_asked_once() -> Iterator[None]:
    """Have Composer look once for the commit that it is of: with each checkpoint it reads its list of files anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect_env, "get_composer_commit_hash", functools.cache(collect_env.get_composer_commit_hash))
        yield


@pytest.fixture
def run_config(make_pool: Function[..., Path], tmp_path: Path) -> Function[..., TrainConfig]:
    """Return `make(objective, **changes)`: 3.37 passes over 1003 unique tokens in batches of 8."""
    make_pool(tokens(1, 1003), SEQ_LEN, name="toy")
    held_out = make_pool(tokens(2, 333), SEQ_LEN, name="toy-val")

    def make(objective: str | dict = "ar", **changes: Any) -> TrainConfig:
        settings: dict[str, Any] = {
            "seed": 3,
            "model": {"layers": 2, "hidden": 32, "heads": 2, "ffn": 48},
            "objective": {"name": objective} if isinstance(objective, str) else objective,
            "eval_loader": {"dataset": {"path": str(held_out)}, "noise_samples": 3},
            "scheduler": {"name": "wsd", "t_warmup": "2ba"},
            "max_duration": "3.37ep",
            "device_train_microbatch_size": 4,
            "eval_interval": "10ba",
            "save_interval": "10ba",
        }
        pool = tmp_path / "artifacts" / "pools" / "toy"
        return TrainConfig.model_validate(tiny_run(pool, **(settings | changes)))

    return make
