from pathlib import Path

import numpy as np
import pytest

import epochal
from epochal.common.errors import RequestError
from epochal.examples import from_numpy
from epochal.tests.support.corpora import real_documents
from epochal.tokenize.tokenizer import load_tokenizer


@pytest.mark.slow
def test_an_array_of_ids_becomes_a_subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = load_tokenizer("gpt2")
    encoded = tokenizer.encode(real_documents(20, 2000))
    documents = [np.append(ids, tokenizer.info.eod) for ids in (*encoded, encoded[0])]  # one of them twice
    np.save("ids.npy", np.concatenate(documents).astype(np.int64))
    settings = ["name=mine", "seq_len=64", "validation_tokens=0", "deduplicate.near=null", "tasks=1", "workers=1"]
    assert from_numpy.run(["ids.npy", "--unique-tokens", "2k", *settings]) == 0
    pool = epochal.open_artifact("artifacts/pools/mine").manifest
    assert (pool.documents, pool.tokens) == (20, sum(map(len, documents[:-1])))
    assert epochal.verify("artifacts/subsets/mine-2k") == []
    assert "2,000 tokens" in capsys.readouterr().out


@pytest.mark.parametrize("array", [np.zeros((2, 2), int), np.ones(3), np.array([-1]), np.array([], int)])
def test_what_holds_no_ids_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "ids.npy", array)
    with pytest.raises(RequestError, match="must hold ids"):
        from_numpy.run([str(tmp_path / "ids.npy")])
