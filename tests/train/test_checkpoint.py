from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from epochal.common.errors import RequestError, WorkError
from epochal.train.checkpoint import load_model
from epochal.train.data import Collate, Split, ValidationSet
from epochal.train.model.composer import LanguageModel
from epochal.train.run import prepare, validation_objective
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out


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
