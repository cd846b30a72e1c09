import os
import pickle
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import torch.distributed.checkpoint as sharded
from composer.core import State

from epochal.common.errors import EpochalError, RequestError
from epochal.tests.support.code import touch
from epochal.tests.support.training import interrupt, weights
from epochal.train.run import prepare
from epochal.train.saved import hashes
from epochal.train.saved.composer import checkpoints_as_data
from epochal.train.trainer import build_trainer, train

torch.set_num_threads(1)  # these models are too small to share out


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)


def refusal(config: Any) -> str:
    with pytest.raises(EpochalError) as caught:
        build_trainer(prepare(config))
    return str(caught.value)


@pytest.mark.slow
def test_a_checkpoint_is_loaded_by_every_way_as_what_was_saved(run_config, tmp_path: Path, capsys) -> None:
    whole = tmp_path / "whole"
    train(run_config(save_folder=str(whole)))
    assert (
        set(hashes.read(str(whole)))
        == {path.name for path in whole.glob("ba*.pt")}
        == {"ba20-rank0.pt", "ba27-rank0.pt"}
    )
    store = fsspec.filesystem("memory")
    for name in ("ba20-rank0.pt", "hashes.json"):
        store.put_file(str(whole / name), f"/runs/whole/{name}")
    for way in (f"{whole}/ba20-rank{{rank}}.pt", "memory://runs/whole/ba20-rank0.pt"):
        folder = tmp_path / f"{way[:6].strip('/')} {{#}}"
        train(run_config(save_folder=str(folder), load_path=way))
        assert all(torch.equal(w, weights(whole)[name]) for name, w in weights(folder).items())
    interrupt(run_config(save_folder=str(tmp_path / "resumed"), load_path=str(whole / "ba20-rank0.pt")), 25)
    assert "vouches" not in capsys.readouterr().err

    with store.open("/runs/whole/ba20-rank0.pt", "r+b") as f:
        f.write(b"\x00")
    message = refusal(run_config(save_folder=str(tmp_path / "no"), load_path="memory://runs/whole/ba20-rank0.pt"))
    assert message.startswith("memory://runs/whole/ba20-rank0.pt is damaged")
    flip(whole / "ba20-rank0.pt", 5000)
    assert "ba20-rank0.pt is damaged" in refusal(
        run_config(save_folder=str(tmp_path / "no"), load_path=str(whole / "ba20-rank0.pt"))
    )
    flip(whole / "ba27-rank0.pt", -3)
    assert "ba27-rank0.pt is damaged" in refusal(run_config(save_folder=str(whole), autoresume=True))
    assert {path.name for path in whole.glob("ba*.pt")} == {"ba20-rank0.pt", "ba27-rank0.pt"}
    flip(whole / "ba20-rank0.pt", 5000)
    for name in ("ba27-rank0.pt", "result.json", "final"):  # as the message says: gone on with from the one before
        os.rename(whole / name, tmp_path / name)
    train(run_config(save_folder=str(whole), autoresume=True))
    assert all(torch.equal(w, weights(tmp_path)[name]) for name, w in weights(whole).items())


@pytest.mark.slow
def test_the_text_of_a_checkpoint_is_not_evaluated(run_config, tmp_path: Path, capsys) -> None:
    interrupt(run_config(save_folder=str(tmp_path / "run")), 12)
    saved = torch.load(tmp_path / "run" / "ba10-rank0.pt", weights_only=False)
    text = f"Alibi if open({str(tmp_path / 'ran')!r}, 'w') else 0"
    saved["state"]["algorithms"] = [("Alibi", {"repr": text})]
    torch.save(saved, tmp_path / "other.pt")
    config = run_config(save_folder=str(tmp_path / "a"), load_path=str(tmp_path / "other.pt"))
    build_trainer(prepare(config)).close()
    assert not (tmp_path / "ran").exists()
    assert f"{tmp_path}/other.pt: no hashes.json vouches for it" in capsys.readouterr().err
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    assert "holds no state of a run" in refusal(config)
    assert "there is no such file" in refusal(config.model_copy(update={"load_path": str(tmp_path / "none.pt")}))
    for name in ("a.tar", "a.pt.symlink", "a.pt.gz"):
        (tmp_path / name).write_bytes(b"")
        assert "packed files are not loaded" in refusal(config.model_copy(update={"load_path": str(tmp_path / name)}))


def test_composer_and_torch_are_left_as_they_were() -> None:
    before = torch.load, State._apply_required_algorithms
    with pytest.raises(RequestError, match="no such file"), checkpoints_as_data("/nowhere/a.pt"):
        pass
    with checkpoints_as_data(None):
        assert torch.load is not before[0]
    assert (torch.load, State._apply_required_algorithms) == before


@pytest.mark.filterwarnings("ignore")
def test_a_sharded_checkpoint_is_data_too(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "ep0-ba10"
    value = {"state": {"a": torch.arange(6.0), "n": 3, "names": [("A", {"repr": "B"})]}}
    sharded.save(value, checkpoint_id=folder, no_dist=True)
    hashes.add(str(tmp_path), "ep0-ba10")

    def load() -> Any:
        into = {"state": {"a": torch.zeros(6), "n": 0, "names": [("", {"repr": ""})]}}
        with checkpoints_as_data(None):
            sharded.load(into, storage_reader=sharded.FileSystemReader(folder), no_dist=True)
        return into

    loaded = load()
    assert torch.equal(loaded["state"].pop("a"), torch.arange(6.0))
    assert loaded["state"] == {"n": 3, "names": [("A", {"repr": "B"})]}
    assert not capsys.readouterr().err
    flip(folder / "__0_0.distcp", 700)
    with pytest.raises(EpochalError, match="distcp is damaged"):
        load()
    (tmp_path / "hashes.json").unlink()
    index = pickle.loads((folder / ".metadata").read_bytes())
    for where, what in (
        ("../x", "no file beside it"),
        (touch(tmp_path / "ran"), r"holds code \(_?io.open\)"),
    ):
        next(iter(index.storage_data.values())).relative_path = where
        (folder / ".metadata").write_bytes(pickle.dumps(index))
        with pytest.raises(EpochalError, match=what):
            load()
    value["state"]["names"] = [touch(tmp_path / "ran")]
    sharded.save(value, checkpoint_id=folder, no_dist=True)
    with pytest.raises(EpochalError, match=r"holds code \(_?io.open\)"):
        load()
    assert not (tmp_path / "ran").exists()
    assert f"{folder}: no hashes.json vouches for it" in capsys.readouterr().err
