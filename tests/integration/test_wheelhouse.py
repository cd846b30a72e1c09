"""The wheelhouse: what it names is pinned, and beside torch, torchvision and numpy it is enough to train."""

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from epochal.tests.support.checks import wheelhouse

ROOT = Path(__file__).parents[2]


def test_what_it_names_is_pinned_once_and_neither_heavy_nor_the_machines():
    chosen = [line.partition("==")[0] for line in wheelhouse.selected()]
    assert len(chosen) == len(set(chosen))
    assert {"mosaicml", "mosaicml-streaming"} <= set(chosen)
    assert not {name for name in chosen if name.startswith("nvidia-")}
    assert not set(chosen) & {"triton", *wheelhouse.OF_THE_MACHINE, *wheelhouse.LEFT_OUT}


def test_other_versions_are_named_in_one_file_and_pinned_otherwise():
    moved = wheelhouse.names((ROOT / "torch.txt").read_text(encoding="utf-8"))
    assert "torch" in moved
    assert set(moved) <= set(wheelhouse.pins((ROOT / "constraints.txt").read_text(encoding="utf-8")))


def test_a_package_without_a_wheel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    problem = wheelhouse.fetch(["nowhere-to-be-had==1.0"], tmp_path, "3.12")
    assert problem is not None
    assert problem.startswith("nowhere-to-be-had==1.0 has no wheel for Python 3.12: ")


def with_needs(names: Iterable[str]) -> dict[str, Distribution]:
    """Return the installed packages of these names, and all that they need, without extras."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found[name] = distribution(name)
        needs = (Requirement(line) for line in found[name].requires or [])
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def link(folder: Path, packages: Iterable[Distribution]) -> None:
    """Fill a folder with links to all that belongs to these packages, two levels deep in shared folders."""
    for package in packages:
        for file in package.files or []:
            parts = file.parts[: 2 if file.parts[0] in ("google", "nvidia", "ruamel") else 1]
            source = Path(str(package.locate_file("/".join(parts))))
            target = folder.joinpath(*parts)
            if parts[0] in ("..", "__pycache__") or target.exists() or not source.exists():
                continue
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(source)


@pytest.mark.slow
@pytest.mark.processes
def test_it_is_enough_to_train(make_pool: Any, tmp_path: Path):
    pool, validation = make_pool(4000, 32), make_pool(800, 32, name="toy-val")
    site = tmp_path / "site"
    site.mkdir()
    chosen = [line.partition("==")[0] for line in wheelhouse.selected()]
    link(site, [*with_needs(wheelhouse.OF_THE_MACHINE).values(), *map(distribution, chosen)])
    (site / "epochal").symlink_to(ROOT)
    settings = {
        "max_duration": "512tok",
        "global_train_batch_size": "8",
        "device_train_microbatch_size": "4",
        "train_loader.dataset.path": str(pool),
        "eval_loader.dataset.path": str(validation),
        "eval_loader.dataset.samples": "2",
    }
    words = ["epochal", "train", "tiny-ar", *(f"{key}={value}" for key, value in settings.items())]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "receipt valid" in done.stdout
    heavy = [sys.executable, "-S", "-c", "import polars"]
    assert subprocess.run(heavy, env=environment, capture_output=True).returncode, (
        "what is left out was there after all"
    )
