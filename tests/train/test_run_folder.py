"""A run's folder at a URL: a model is copied with its tokenizer, its config.json last."""

from pathlib import Path

import pytest

from epochal.common import storage
from epochal.shards.tokenizer_file import TOKENIZER_NAME
from epochal.train.run_folder import RunFolder


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
