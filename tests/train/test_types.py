"""A model of both types is used as either: the same weights, and every command says which it was."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from epochal.__main__ import main
from epochal.tests.support.training import BYTES, save
from epochal.train.checkpoint import as_type, load_card, load_model, open_checkpoint, types_of
from epochal.train.model.transformer import Transformer
from epochal.train.run import prepare

torch.set_num_threads(1)

DUAL = {"name": "dual", "ar_share": 0.5, "ar": {"name": "ar"}, "mdm": {"name": "mdm"}}


def test_both_hold_the_very_weights(tmp_path: Path) -> None:
    opened = open_checkpoint(save(tmp_path / "dual", False, BYTES, objective=DUAL), "cpu")
    types = types_of(opened)
    assert [(name, own.model.config.causal, own.name) for name, own in types.items()] == [
        ("ar", True, "dual as AR"),
        ("mdm", False, "dual as MDM"),
    ]
    tokens = torch.arange(8)[None]
    for name, own in types.items():
        plain = Transformer(own.model.config).eval()
        plain.load_state_dict(opened.model.state_dict())
        assert torch.equal(own.model(tokens), plain(tokens))
        with torch.no_grad():
            opened.model.embedding.weight[3] += 1  # a step of training
        assert as_type(opened.model, name).embedding.weight.data_ptr() == opened.model.embedding.weight.data_ptr()
        plain.load_state_dict(opened.model.state_dict())
        assert torch.equal(own.model(tokens), plain(tokens))
    single = open_checkpoint(save(tmp_path / "ar", True, BYTES), "cpu")
    assert types_of(single) == {"": single}


def test_evaluate_measures_both(make_pool: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pool = make_pool(40, 16)
    path = save(tmp_path / "dual", False, BYTES, 16, objective=DUAL)
    command = ["evaluate", path, "--loss", str(pool), "--order", "confidence", "--out", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["likelihoods"]
    assert [(r["name"], r["kind"], r["order"]) for r in found] == [
        ("dual as AR", "nll", None),
        ("dual as MDM", "nelbo", None),
        ("dual as MDM", "nll", "confidence"),
    ]
    assert len({r["model"] for r in found}) == 1
    model = load_model(path)[0]
    for kind, causal in (("nll", True), ("nelbo", False)):  # saved as a model of one type, it gives the same
        torch.manual_seed(0)
        alone = save(tmp_path / kind, causal, BYTES, 16)
        weights = {name: p.detach() for name, p in model.named_parameters()}
        from epochal.train.checkpoint import save_model

        save_model(alone, weights, load_card(alone))
        assert main(["evaluate", alone, "--loss", str(pool), "--out", str(tmp_path / "out"), "--json"]) == 0
        (own,) = json.loads(capsys.readouterr().out)["likelihoods"]
        assert own["nats"] == next(r["nats"] for r in found if r["kind"] == kind and not r["order"])


def test_a_dual_run_says_what_it_is(run_config) -> None:
    run = prepare(run_config({"name": "dual", "ar_share": 0.25, "ar": {"input_masking": 0.1}}))
    said = run.identity["objective"]
    assert (said["name"], said["ar_share"], said["ar"]["input_masking"]) == ("dual", 0.25, 0.1)
    assert said["mdm"]["weighting"] == "inverse_t"
    assert "causal" in run.identity["model"]
    assert not run.identity["model"]["causal"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ar_share": 1.0}, "less than 1"),
        ({"ar_share": 0.0}, "greater than 0"),
        ({"mdm": {"random_length": 0.1}}, "would shorten a step's autoregressive samples too"),
        ({"weighting": "inverse_t"}, "weighting"),
    ],
)
def test_impossible_settings_are_refused(run_config, keys: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_config({"name": "dual"} | keys)
