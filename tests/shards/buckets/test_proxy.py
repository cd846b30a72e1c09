"""Proxies: the same passes over a part of the unique tokens."""

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from epochal.__main__ import main
from epochal.common.config import load_yaml, validate
from epochal.shards.artifact import read_manifest
from epochal.shards.carve import carve
from epochal.shards.order.mixture_config import MixtureSettings, open_mixture
from epochal.shards.verify import verify


def opened(path: Path, budget: Any = None) -> Any:
    return open_mixture(validate(MixtureSettings, load_yaml(str(path)), str(path)), 0, budget)


def mixed(tmp_path: Path, **body: Any) -> Path:
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(body))
    return tmp_path / "mix.yaml"


def test_every_source_keeps_its_passes_on_a_sixteenth(make_pool, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    pool, other = str(make_pool(20_000)), str(make_pool(8000, name="other"))
    (tmp_path / "gone.txt").write_text("doc3\ndoc700\n")
    replicate, without = carve(pool, 6000, 1)[0], carve(pool, 5000, without=[str(tmp_path / "gone.txt")])[0]
    sources = {
        "pool": {"path": other, "epochs": 3},
        "replicate": {"path": replicate, "tokens": 15_000, "policy": "fixed", "seed": 4},
        "without": {"path": without, "epochs": 2.5},
    }
    before = opened(mixed(tmp_path, window=500, sources=sources))
    assert main(["proxy", "mix.yaml", "--scale", "1/16", "--out", "small.yaml"]) == 0
    assert "of 19,000 unique tokens, 3 sources" in capsys.readouterr().out
    after = opened(tmp_path / "small.yaml")
    for name, old, new, a in zip(sources, before.mixture.sources, after.mixture.sources, after.artifacts, strict=True):
        assert new.plan.unique_tokens == old.plan.unique_tokens // 16
        passes = Fraction(old.plan.total_tokens, old.plan.unique_tokens)
        assert abs(new.plan.total_tokens - passes * new.plan.unique_tokens) < 1
        assert (new.plan.policy, new.plan.seed, name) == (old.plan.policy, old.plan.seed, new.name)
        assert verify(a.root) == []
    assert after.mixture.window == 500
    assert after.artifacts[1].manifest.parent.start_sample == read_manifest(replicate).parent.start_sample
    assert after.artifacts[2].manifest.without.digest == read_manifest(without).without.digest


def test_weights_and_stages_are_scaled_alike(make_pool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    a, b = carve(str(make_pool(20_000)), 8000)[0], str(make_pool(8000, name="other"))
    stages = [{"tokens": 4000, "weights": {"a": 1}}, {"tokens": 16_000, "weights": {"a": 1, "b": 3}}]
    mixed(tmp_path, window=50, sources={"a": {"path": a}, "b": {"path": b}}, stages=stages)
    assert main(["proxy", "mix.yaml", "--scale", "1/4", "--out", "small.yaml"]) == 0
    made = yaml.safe_load((tmp_path / "small.yaml").read_text())
    assert [stage["tokens"] for stage in made["stages"]] == [1000, 4000]
    assert opened(tmp_path / "small.yaml").mixture.unique_tokens == 4000


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        ("1/1000", "source 'a' has 2,000 unique tokens, of which 1/1000 is 2: less than one sample of 16"),
        ("2", "--scale must lie between 0 and 1"),
        ("x", "--scale 'x' is no number"),
    ],
)
def test_a_source_that_is_too_small_is_refused(make_pool, tmp_path: Path, capsys, scale: str, said: str) -> None:
    path = mixed(tmp_path, sources={"a": {"path": str(make_pool(2000)), "epochs": 2}})
    assert main(["proxy", str(path), "--scale", scale]) == 2
    assert said in capsys.readouterr().err


def test_a_copy_away_from_its_pool_is_refused_and_no_file_is_replaced(make_pool, tmp_path: Path, capsys) -> None:
    pool = make_pool(4000)
    copy, _ = carve(str(pool), 2000, materialize=True, out=str(tmp_path / "copy"))
    path = mixed(tmp_path, sources={"a": {"path": copy, "epochs": 2}})
    assert main(["proxy", str(path), "--scale", "1/2", "--out", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    shutil.rmtree(pool)
    assert main(["proxy", str(path), "--scale", "1/2"]) == 2
    assert "does not exist" in capsys.readouterr().err
