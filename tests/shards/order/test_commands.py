import json
from pathlib import Path

import numpy as np
import pytest

from epochal.__main__ import main
from epochal.common.config import validate
from epochal.common.errors import RequestError
from epochal.shards.artifact import open_artifact
from epochal.shards.order.mixture import Mixture
from epochal.shards.order.mixture_config import MixtureSettings, open_mixture
from epochal.shards.order.plan import Plan
from epochal.shards.order.receipt import Receipt
from epochal.shards.order.stored import order_from_dict
from epochal.tests.support.loading import toy_mixture


def write_yaml(path: Path, subsets, text: str) -> str:
    for name, root in subsets.items():
        text = text.replace(f"<{name}>", root)
    path.write_text(text)
    return str(path)


def test_plan_order_and_audit_of_a_mixture(subsets, tmp_path, capsys):
    path = write_yaml(
        tmp_path / "mix.yaml",
        subsets,
        "window: 60\nsources:\n  a: {path: <a>, epochs: 40}\n  b: {path: <b>, epochs: 4, policy: fixed, seed: 9}\n",
    )
    assert main(["plan", path, "--batch-tokens", "128", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["tokens"] == 40 * 901 + 4 * 1500
    assert (numbers["positions"], numbers["samples"]) == (40 * 57 + 4 * 94, 57 + 94)
    assert {k: numbers["sources"]["a"][k] for k in ("positions", "samples")} == {"positions": 40 * 57, "samples": 57}
    assert numbers["sources"]["a"]["exposures"] == {"40": 57}
    assert numbers["sources"]["b"]["exposures"] == {"4": 94}
    mixture = Mixture.from_dict(numbers["plan"])
    assert main(["plan", path, "--batch-tokens", "128"]) == 0
    text = capsys.readouterr().out
    assert "a: 901 unique tokens, 40 passes (reshuffle, seed 0)" in text
    assert "b: 1.5k unique tokens, 4 passes (fixed, seed 9)" in text
    assert main(["order", path, "--start", "10", "--count", "20", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ids"] == mixture.ids(range(10, 30)).tolist()
    assert shown["source_ids"] == [
        i - {"a": 0, "b": 57}[s] for i, s in zip(shown["ids"], shown["sources"], strict=True)
    ]
    assert main(["order", path, "--start", str(mixture.positions), "--count", "1"]) == 2
    receipt = Receipt(mixture)
    receipt.add(np.arange(mixture.positions), mixture.ids(range(mixture.positions)))
    (tmp_path / "receipt.json").write_text(receipt.to_json())
    assert main(["audit", str(tmp_path / "receipt.json")]) == 0
    wrong = Receipt(mixture)
    wrong.add(np.arange(mixture.positions), np.roll(mixture.ids(range(mixture.positions)), 1))
    (tmp_path / "receipt.json").write_text(wrong.to_json())
    assert main(["audit", str(tmp_path / "receipt.json")]) == 1


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("sources: {a: {path: <a>}}", [], "'a' needs one of epochs, tokens, weight"),
        ("sources: {a: {path: <a>, epochs: 2, weight: 1}}", [], "'a' needs one of"),
        ("sources: {a: {path: <a>, epochs: 2}, b: {path: <b>, weight: 1}}", [], "give all sources a weight"),
        ("sources: {a: {path: <a>, epochs: 2}}", ["--epochs", "2"], "leave --total-tokens out"),
        ("sources: {a: {path: <a>, weight: 2}}", [], "has no end of its own: give --total-tokens"),
        ("sources: {a: {path: <a>, epoch: 2}}", [], "did you mean"),
        ("sources: {a: {path: <a>, epochs: x}}", [], "epochs 'x' is no number"),
        ("sources: {a: {path: <a>}}\nstages: [{weights: {b: 1}}]", [], "names 'b', which is no source"),
        ("sources: {a: {path: <a>, weight: 1}}\nstages: [{weights: {a: 1}}]", [], "stages say how much"),
        (
            "sources: {a: {path: <a>}, b: {path: <b>}}\nstages: [{tokens: 1M, weights: {a: 1}}, {weights: {b: 1}}]",
            ["--total-tokens", "1M"],
            "the stages before the last take all",
        ),
        ("sources: {a: {path: <a>, weight: 1}}", ["--total-tokens", "15"], "pays for no sample"),
        ("sources: {a: {path: <a>, weight: 1}}", ["--total-tokens", "1M", "--policy", "fixed"], "--policy is for one"),
    ],
)
def test_wrong_requests_are_one_line(subsets, tmp_path, capsys, text, words, message):
    path = write_yaml(tmp_path / "mix.yaml", subsets, text)
    assert main(["plan", path, "--batch-tokens", "128", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_stages_in_yaml(subsets, tmp_path):
    text = (
        "sources: {a: {path: <a>}, b: {path: <b>}}\nwindow: 20\n"
        "stages: [{tokens: 5000, weights: {a: 1}}, {weights: {a: 0.5, b: 1.5}}]"
    )
    import yaml

    path = write_yaml(tmp_path / "mix.yaml", subsets, text)
    opened = open_mixture(validate(MixtureSettings, yaml.safe_load(Path(path).read_text()), path), 4, lambda n: 20_000)
    assert [s.shares for s in opened.mixture.stages] == [(1, 0), (1, 3)]
    assert 0 <= 20_000 - opened.mixture.tokens < 16
    assert opened.mixture.seed == 4


def test_a_leak_check_against_one_source_is_refused(subsets):
    from types import SimpleNamespace

    from epochal.train.eval.contamination import training_manifest

    card = SimpleNamespace(training={"plan": toy_mixture(subsets)[0].to_dict()})
    with pytest.raises(RequestError, match=r"a mixture \(a, b, c\)"):
        training_manifest(subsets["a"], card)


def test_an_order_beyond_counting_is_refused(subsets, tmp_path, capsys):
    for words, message in (
        (
            ["plan", subsets["a"], "--batch-tokens", "128", "--policy", "global", "--epochs", "1000000000"],
            "1,000,000 passes",
        ),
        (["plan", subsets["a"], "--batch-tokens", "128", "--epochs", "1e999999999"], "more than 2**63 - 1"),
        (["order", subsets["a"], "--count", "2", "--policy", "global", "--epochs", "1e15"], "1,000,000 passes"),
        (["order", subsets["a"], "--start", "9" * 5000, "--count", "2"], "--start"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    manifest = open_artifact(subsets["a"]).manifest
    receipt = Receipt(Plan.for_artifact(manifest, 16 * 10**12))
    receipt.state[0] = 10**12
    (tmp_path / "receipt.json").write_text(receipt.to_json())
    assert main(["audit", str(tmp_path / "receipt.json")]) == 2
    assert "1,000,000,000,000 positions: more than" in capsys.readouterr().err


def test_a_damaged_receipt_is_named(subsets, tmp_path, capsys):
    path = tmp_path / "receipt.json"
    text = Receipt(Plan.for_artifact(open_artifact(subsets["a"]).manifest, 5000)).to_json()
    for damaged in (
        text.replace('"seed": 0', '"seed": 1'),
        text[:-9],
        "[" * 100_000,
        text.replace('"count"', '"cound"'),
    ):
        path.write_text(damaged)
        assert main(["audit", str(path)]) in (1, 2)
        assert str(path) in capsys.readouterr().err


def test_plan_order_and_export_with_skips(make_pool, tmp_path, capsys):
    pool = str(make_pool(3000))
    spans = ["--skip", "300:310:spike: again", "--skip", "40:60"]
    assert main(["plan", pool, "--epochs", "2", "--batch-tokens", "128", *spans]) == 0
    text = capsys.readouterr().out
    assert "tokens         5,520 in 346 samples" in text
    assert "skipped        positions 40 to 59\nskipped        positions 300 to 309: spike: again\n" in text
    assert main(["plan", pool, "--epochs", "2", "--batch-tokens", "128", *spans, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    order = order_from_dict(numbers["plan"])
    assert (order.positions, numbers["steps"]) == (346, 44)
    assert main(["order", pool, "--start", "39", "--count", "3", "--skip", "40:60"]) == 0
    own = order.without_skips()
    rows = [f"{at} {own.ids([p])[0]} {p}" for at, p in ((39, 39), (40, 60), (41, 61))]
    assert capsys.readouterr().out.splitlines() == rows
    assert main(["order", pool, "--epochs", "2", "--document", "doc3", *spans, "--json"]) == 0
    places = json.loads(capsys.readouterr().out)["positions"]
    assert places
    assert all(order.ids([place["position"]])[0] == place["id"] for place in places)
    out = str(tmp_path / "exported")
    assert main(["export", pool, "--format", "bin", "--out", out, "--order", "--passes", "2", *spans]) == 0
    assert main(["verify", out]) == 0
    assert "(equal to toy)" in capsys.readouterr().out
    read = np.fromfile(tmp_path / "exported/train.bin", "<u2")
    assert len(read) == order.without_skips().tokens - order.n_tokens(own.ids(range(40, 60))).sum() - 160
    assert (
        "2 whole passes in the order of a plan, less 30 positions that it skips"
        in (tmp_path / "exported/README.md").read_text()
    )
    assert main(["export", pool, "--format", "bin", "--out", out, "--skip", "1:2"]) == 2
    assert "--skip is for --order" in capsys.readouterr().err
    assert main(["order", pool, "--count", "3", "--skip", "4"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
