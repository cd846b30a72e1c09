"""The paths that a tokenizer may be named by, and what is said where there is none."""

import json
from pathlib import Path

import pytest

from epochal.common.errors import RequestError
from epochal.tokenize import tokenizer
from epochal.tokenize.tokenizer import load_tokenizer


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_from_hub", lambda name: pytest.fail("the hub was asked"))


def test_a_folder_without_a_tokenizer_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("models", "models/", str(tmp_path / "models")):
        with pytest.raises(RequestError, match=r"models/? is a folder without a tokenizer\.json"):
            load_tokenizer(name)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "tokenizer.json").write_text(json.dumps(tokenizer.gpt2.tokenizer_json()))
    for name in ("~/t/tokenizer.json", "~/t"):
        assert load_tokenizer(name).info.name == name.rpartition("/")[2]
