import json
from pathlib import Path

import pytest

from epochal.examples import demo
from epochal.tokenize.tokenizer import load_tokenizer


def test_the_demonstration_tokenizer_loses_no_text(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(demo.small_tokenizer(1024)))
    tokenizer = load_tokenizer(str(path))
    text = "def f(x):\n    return 'Grüße, 世界' + x\n"
    ids = tokenizer.encode([text])[0]
    assert tokenizer.decode(ids.tolist()) == text
    assert tokenizer.info.vocab_size == 1027
    assert max(ids) < 1024


def test_the_table_names_the_kind_of_every_loss() -> None:
    result = {"train": {"nll": 1.0}, "receipt": {"valid": True}}
    text = demo.table({"ar": result, "mdm": result}, {"ar": [(1, 3.0), (2, 4.0)], "mdm": [(1, 3.5)]})
    assert "NLL" in text.splitlines()[1]
    assert "NELBO (upper bound)" in text.splitlines()[2]


def test_the_demonstration_reports_both_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    result = {"train": {"loss": 1.0}, "receipt": {"valid": True}}
    curves = {"nll": [(1, 4.0), (2, 5.0)], "nelbo": [(1, 4.5), (2, 4.4)], "nelbo_se": [(1, 0.03), (2, 0.04)]}
    monkeypatch.setattr(demo, "make_data", lambda artifacts: (tmp_path, tmp_path))
    monkeypatch.setattr(demo, "run", lambda *args: result)
    monkeypatch.setattr(demo, "curve", lambda folder, metric: curves[metric])
    assert demo.main(["--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "AR: validation loss has turned up (1.000 above its best" in printed
    assert "MDM: validation loss has not turned up" in printed
    assert (tmp_path / "loss.svg").exists()
