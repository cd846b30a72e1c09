from pathlib import Path

import pytest

import epochal
from epochal.examples import own_text
from epochal.tests.support.corpora import real_documents


@pytest.mark.slow
def test_a_folder_of_text_becomes_a_subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").mkdir()
    for i, text in enumerate(real_documents(20, 2000)):
        Path("text", f"{i}.txt").write_text(text)
    settings = ["name=mine", "seq_len=64", "validation_tokens=0", "tasks=1", "workers=1"]
    assert own_text.run(["text", "--unique-tokens", "2k", *settings]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": whole") == 2
    assert "four passes: 128 samples" in printed
    manifest = epochal.open_artifact("artifacts/subsets/mine-2k").manifest
    assert manifest.tokens == 2000
