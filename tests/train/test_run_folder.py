"""A run's folder: models at a URL with their tokenizers, and which checkpoint is the newest."""

import os
from pathlib import Path

import pytest

from epochal.common import storage
from epochal.shards.tokenizer_file import TOKENIZER_NAME
from epochal.train.run_folder import RunFolder
from epochal.train.saved import hashes


@pytest.mark.parametrize("carried", [True, False])
def test_a_model_is_published_with_its_tokenizer_if_it_has_one(tmp_path: Path, carried: bool) -> None:
    folder = RunFolder(f"memory://runs/{carried}", str(tmp_path))
    final = Path(folder.local) / "final"
    final.mkdir(parents=True)
    names = {"model.safetensors", "config.json"} | ({TOKENIZER_NAME} if carried else set())
    for name in names:
        (final / name).write_bytes(name.encode())
    folder.publish()
    there = storage.join(folder.path, "final")
    assert set(storage.names(there)) == names
    assert all(storage.read_bytes(storage.join(there, name)) == name.encode() for name in names)


def test_a_checkpoint_that_is_gone_leaves_the_one_before_it_as_the_newest(tmp_path: Path) -> None:
    folder, link = RunFolder(str(tmp_path), "cache"), tmp_path / "latest-rank0.pt"
    for step in (5, 10, 15):
        (tmp_path / f"ba{step}-rank0.pt").write_bytes(b"state")
        if step < 15:
            hashes.add(str(tmp_path), f"ba{step}-rank0.pt")  # the last one is not whole yet
    link.symlink_to("ba10-rank0.pt")
    folder.mend_link()
    assert folder.newest() == "ba10-rank0.pt"
    link.unlink()  # killed while the link was made anew
    folder.mend_link()
    assert folder.newest() == "ba10-rank0.pt"
    os.unlink(tmp_path / "ba10-rank0.pt")  # damaged, and removed
    folder.mend_link()
    assert folder.newest() == "ba5-rank0.pt"
    folder.put_aside("ba5-rank0.pt")  # spoilt
    folder.mend_link()
    assert folder.newest() is None
    assert hashes.read(str(tmp_path)) == {}
