from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from epochal.common.errors import EpochalError, RequestError, WorkError
from epochal.train.checkpoint import ModelCard, chosen_place, load_model, save_model
from epochal.train.data import Collate, Split, ValidationSet
from epochal.train.model.composer import LanguageModel
from epochal.train.model.transformer import ModelConfig, Transformer
from epochal.train.run import prepare, validation_objective
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out

TINY = ModelConfig(vocab_size=260, layers=1, hidden=8, heads=1, ffn=8, causal=True)
CARD = ModelCard(TINY, {"name": "ar"}, "nll", {}, 16, {})


@pytest.mark.slow
def test_the_exported_model_scores_what_validation_measured(run_config, tmp_path: Path) -> None:
    for objective in ("ar", "mdm"):
        folder = tmp_path / objective
        config = run_config(objective, save_folder=str(folder))
        result = train(config)
        model, card = load_model(str(folder / "final"))
        assert card.training["steps"] == 27
        assert card.training["validation"] == result["validation"]
        run = prepare(config)
        rows = []
        assert run.validation is not None
        for batch in DataLoader(
            ValidationSet(run.validation, None, 4, 0, 1),
            batch_size=None,
            collate_fn=Collate(validation_objective(run, 3, 0), 3 if objective == "mdm" else 1),
        ):
            wrapped = LanguageModel(model, card.kind)
            parts = Split(3 if objective == "mdm" else 1)(batch, 4)
            rows += [wrapped.eval_forward(part).detach() for part in parts]
        nats = torch.cat(rows).mean(1).sum() / 333
        assert float(nats) == pytest.approx(result["validation"][card.kind], abs=1e-6)
        assert (folder / "best" / "model.safetensors").exists()


def test_a_damaged_or_foreign_model_is_refused(run_config, tmp_path: Path) -> None:
    train(run_config("ar", save_folder=str(tmp_path / "run"), max_duration="1ep"))
    folder = tmp_path / "run" / "final"
    with pytest.raises(RequestError, match="holds no model"):
        load_model(str(tmp_path))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WorkError, match="damaged"):
        load_model(str(folder))
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(RequestError, match="format 9"):
        load_model(str(folder))


def test_a_flipped_bit_in_a_model_is_noticed_at_every_place(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "model"
    save_model(str(folder), Transformer(TINY).state_dict(), CARD)
    load_model(str(folder))
    for name in ("model.safetensors", "config.json", "hashes.json"):
        data = (folder / name).read_bytes()
        for place in range(0, len(data), max(1, len(data) // 40)):
            (folder / name).write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
            with pytest.raises(EpochalError, match=r"damaged|not a model|of format"):
                load_model(str(folder))
        (folder / name).write_bytes(data)
    assert not capsys.readouterr().err
    (folder / "hashes.json").unlink()  # as version 0.1.0 left it
    load_model(str(folder))
    assert capsys.readouterr().err.splitlines() == [
        f"epochal: {folder}/model.safetensors: no hashes.json vouches for it, so damage may go unnoticed"
    ]


def test_a_model_that_is_replaced_has_the_hashes_of_the_new_one(tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.manual_seed(seed)
        saved = Transformer(TINY).state_dict()
        save_model(str(tmp_path), saved, CARD)
        assert all(torch.equal(v, saved[k]) for k, v in load_model(str(tmp_path))[0].state_dict().items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "hashes.json", "model.safetensors"]


@pytest.mark.parametrize("gpu", [False, True])
def test_auto_is_a_gpu_in_bfloat16_where_there_is_one(
    gpu: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert chosen_place("auto") == (("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32))
    assert ("computing on cuda, in bfloat16; --device and --dtype choose" in capsys.readouterr().err) == gpu
    assert chosen_place("auto", "float32")[1] == torch.float32
    assert chosen_place("cpu") == ("cpu", torch.float32)
    assert chosen_place("cpu", "bfloat16") == ("cpu", torch.bfloat16)


@pytest.mark.parametrize("causal", [True, False])
def test_bfloat16_computes_what_training_does_under_autocast(tmp_path: Path, causal: bool) -> None:
    torch.manual_seed(1)
    shape = ModelConfig(vocab_size=50, layers=2, hidden=32, heads=2, ffn=48, causal=causal, qk_norm=True, init_std=0.3)
    model = Transformer(shape).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.uniform_(0.5, 1.5)  # numbers that bfloat16 would round
    save_model(str(tmp_path), model.state_dict(), ModelCard(shape, {}, "nll", {}, 16, {}))
    narrow, _ = load_model(str(tmp_path), dtype=torch.bfloat16)
    tokens, labels = torch.randint(0, 50, (3, 16)), torch.randint(0, 50, (48,))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = model(tokens, labels=labels)
    with torch.no_grad():
        assert torch.equal(narrow(tokens, labels=labels), wanted)
