"""`epochal export-model`; that the exported function is the same one is tested in eval/test_lm_eval_adapter.py."""

import json
from pathlib import Path

import pytest
import torch

from epochal.__main__ import main
from epochal.tokenize.tokenizer import load_tokenizer
from epochal.train.checkpoint import ModelCard, as_type, load_model, save_model
from epochal.train.model.hf_export import save_huggingface
from epochal.train.model.transformer import ModelConfig, Transformer


@pytest.fixture
def checkpoint(tmp_path: Path):
    """Return `make(causal)`: the folder of a small run with a random model for GPT-2's ids."""

    def make(causal: bool, objective: dict | None = None) -> str:
        torch.manual_seed(0)
        info = load_tokenizer("gpt2").info
        shape = ModelConfig(info.vocab_size, 1, 16, 2, 24, causal, qk_norm=True)
        card = ModelCard(shape, objective or {}, "nll" if causal else "nelbo", info.model_dump(), 64, {})
        run = tmp_path / ("ar" if causal else "mdm")
        save_model(str(run / "final"), Transformer(shape).state_dict(), card)
        return str(run)

    return make


def test_an_autoregressive_model_is_exported_from_the_command_line(checkpoint, tmp_path: Path, capsys) -> None:
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "hf"
    assert main(["export-model", checkpoint(True), "--format", "huggingface", "--out", str(out), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["out"], body["architecture"], body["seq_len"]) == (str(out), "Qwen3ForCausalLM", 64)
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    ours, _ = load_model(str(tmp_path / "ar" / "final"))
    tokens = torch.tensor([[50256, 5, 7]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits[0], ours(tokens), atol=1e-5, rtol=0)


def test_of_a_model_of_both_types_the_causal_half_is_exported_and_either_writes(
    checkpoint, tmp_path: Path, capsys
) -> None:
    transformers = pytest.importorskip("transformers")
    path, out = checkpoint(False, {"name": "dual"}), tmp_path / "hf"
    assert main(["export-model", path, "--out", str(out), "--json"]) == 0
    capsys.readouterr()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    model, _ = load_model(str(tmp_path / "mdm" / "final"))
    tokens = torch.tensor([[50256, 5, 7]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits[0], as_type(model, "ar")(tokens), atol=1e-5, rtol=0)
    texts = {}
    for half_of in ([], ["--as", "ar"], ["--as", "mdm"]):
        assert main(["generate", path, "def", "--max-new-tokens", "6", "--json", *half_of]) == 0
        texts[tuple(half_of)] = json.loads(capsys.readouterr().out)["ids"]
    assert texts[()] == texts["--as", "ar"] != texts["--as", "mdm"]
    assert main(["generate", checkpoint(True), "def", "--as", "mdm"]) == 2
    assert "is a model of one type: leave --as out" in capsys.readouterr().err


def test_the_end_of_documents_may_be_a_token_of_the_models_vocabulary(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vocab = {"</s>": 0, "a": 1, "b": 2, "<unk>": 3}
    spec = {
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        "pre_tokenizer": {"type": "Whitespace"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = load_tokenizer(str(tmp_path))
    shape = ModelConfig(tokenizer.info.vocab_size, 1, 16, 2, 24, True)
    card = ModelCard(shape, {}, "nll", tokenizer.info.model_dump(), 64, {})
    save_huggingface(Transformer(shape), card, tokenizer, str(tmp_path / "hf"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs("b a x")["input_ids"] == [0, 2, 1, 3]
    assert (theirs.eos_token_id, len(theirs)) == (0, 4)


def test_what_cannot_be_exported_is_refused_in_one_line(checkpoint, tmp_path: Path, capsys) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    wrong = [
        ([checkpoint(False), "--out", str(tmp_path / "out")], "no masked-diffusion model"),
        ([checkpoint(True), "--out", str(full)], "holds something already"),
        ([checkpoint(True), "--out", "s3://bucket/x"], "local folder"),
        ([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")], "holds no model"),
        ([checkpoint(True), "--out", str(tmp_path / "out"), "--format", "gguf"], "--format must be one of huggingface"),
    ]
    for words, message in wrong:
        assert main(["export-model", *words]) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.count("\n") == 1
    assert not list(tmp_path.glob("out*"))
