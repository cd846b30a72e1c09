"""Tokenizers of folders: artifacts and models that carry one, and those of version 0.1.0, which do not."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from epochal.common.errors import RequestError, WorkError
from epochal.examples.demo import small_tokenizer
from epochal.shards.manifest import TokenizerInfo
from epochal.shards.tokenizer_file import TOKENIZER_NAME, dump_tokenizer
from epochal.tokenize.tokenizer import folder_tokenizer, load_tokenizer

TEXTS = ["Hello world", "naïve 東京 🙂", "a<|endoftext|>b", "\n\n x'll  "]


def write_model(folder: Path, info: TokenizerInfo, spec: dict | None) -> str:
    """Write what a folder of a model says of its tokenizer; return the folder."""
    folder.mkdir()
    body = {"format": "epochal-model", "tokenizer": info.model_dump()}
    (folder / "config.json").write_text(json.dumps(body))
    if spec is not None:
        (folder / TOKENIZER_NAME).write_bytes(dump_tokenizer(spec))
    return str(folder)


def kinds() -> dict[str, dict]:
    """Return a tokenizer.json of each kind of model, as Hugging Face's library writes it."""
    words = {"<eos>": 0, "hello": 1, "world": 2, "[UNK]": 3, "##o": 4, "hell": 5}
    pieces = [("<eos>", 0.0), ("<unk>", 0.0), ("hello", -0.1234567890123), ("w", -1e-5)]
    made = {
        "WordLevel": tokenizers.Tokenizer(models.WordLevel(words, "[UNK]")),
        "WordPiece": tokenizers.Tokenizer(models.WordPiece(words, unk_token="[UNK]")),
        "Unigram": tokenizers.Tokenizer(models.Unigram(pieces, 1)),
    }
    for tokenizer in made.values():
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.add_special_tokens(["<pad>"])
    return {name: json.loads(tokenizer.to_str()) for name, tokenizer in made.items()} | {"BPE": small_tokenizer(400)}


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram", "BPE"])
def test_what_is_carried_is_the_same_tokenizer(tmp_path: Path, kind: str) -> None:
    (tmp_path / "given.json").write_text(json.dumps(kinds()[kind], indent=2))
    given = load_tokenizer(str(tmp_path / "given.json"))
    carried = load_tokenizer(write_model(tmp_path / "model", given.info, given.spec))
    assert carried.info == given.info
    assert carried.spec == given.spec
    for a, b in zip(carried.encode([*TEXTS, "hello  World"]), given.encode([*TEXTS, "hello  World"]), strict=True):
        assert a.tolist() == b.tolist()
        assert carried.decode(a.tolist()) == given.decode(a.tolist())


def test_special_ids_are_those_that_the_folder_states(tmp_path: Path) -> None:
    spec = small_tokenizer(300)
    (tmp_path / "given.json").write_text(json.dumps(spec))
    names = {i: token for token, i in spec["model"]["vocab"].items()}
    info = load_tokenizer(str(tmp_path / "given.json"), eod=names[290], pad=names[291]).info
    folder = write_model(tmp_path / "model", info, spec)
    assert load_tokenizer(folder).info == folder_tokenizer(folder).info == info
    assert load_tokenizer(folder, eod=names[292]).info.eod == info.eod + 2
    assert folder_tokenizer(folder, str(tmp_path / "given.json")).info == info


def test_a_folder_without_one_is_answered_by_name_or_says_what_to_do(tmp_path: Path) -> None:
    info = load_tokenizer("gpt2").info
    assert load_tokenizer(write_model(tmp_path / "a", info, None)).info == info
    lost = write_model(tmp_path / "b", info.model_copy(update={"name": "tokenizer.json"}), None)
    other = write_model(tmp_path / "c", info.model_copy(update={"fingerprint": "0" * 32}), None)
    for folder in (lost, other):
        with pytest.raises(RequestError, match=r"carries no tokenizer\.json.*--tokenizer PATH") as error:
            load_tokenizer(folder)
        assert "\n" not in str(error.value)
    assert folder_tokenizer(lost, "gpt2").info.fingerprint == info.fingerprint
    with pytest.raises(RequestError, match="gpt2 is not the tokenizer that the ids of"):
        folder_tokenizer(other, "gpt2")
    with pytest.raises(RequestError, match="neither an artifact nor a model"):
        folder_tokenizer(str(tmp_path))


def test_a_tokenizer_put_in_its_place_and_a_damaged_card_are_noticed(tmp_path: Path) -> None:
    spec = small_tokenizer(300)
    (tmp_path / "given.json").write_text(json.dumps(spec))
    info = load_tokenizer(str(tmp_path / "given.json")).info
    folder = write_model(tmp_path / "model", info, spec | {"normalizer": {"type": "NFC"}})
    with pytest.raises(WorkError, match=r"model/tokenizer\.json is not the tokenizer that made the ids"):
        load_tokenizer(folder)
    for text in ("{", "[]", '{"model_type": "llama"}'):  # no model of ours: a tokenizer.json like any other
        (tmp_path / "model" / "config.json").write_text(text)
        assert load_tokenizer(folder).info.fingerprint != info.fingerprint
    (tmp_path / "model" / "manifest.json").write_text('{"resources": {"en": "other software"}}')
    assert load_tokenizer(folder).info.fingerprint != info.fingerprint
    (tmp_path / "model" / "config.json").write_text('{"format": "epochal-model", "tokenizer": {"name": 1}}')
    with pytest.raises(WorkError, match=r"config\.json is damaged"):
        load_tokenizer(folder)
