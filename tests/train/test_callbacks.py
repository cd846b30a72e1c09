import math
from pathlib import Path

import pytest
import torch

from epochal.common.errors import WorkError
from epochal.shards.order.plan import Plan
from epochal.train.model.composer import LanguageModel
from epochal.train.trainer import train

torch.set_num_threads(1)  # these models are too small to share out


def test_unique_tokens_seen_are_counted_exactly() -> None:
    plan = Plan("0" * 32, samples=7, unique_tokens=101, seq_len=16, total_tokens=300)
    for position in (0, 3, 6, 7, 15):
        seen = set(plan.ids(range(position)).tolist())
        assert plan.unique_tokens_seen(position) == sum(plan.n_tokens(list(seen))) if seen else True


@pytest.mark.slow
def test_nan_stops_the_run_names_its_positions_and_keeps_the_last_checkpoint(
    run_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config("mdm", save_folder=str(tmp_path / "run"), autoresume=True)
    plain = LanguageModel.forward

    def broken(self: LanguageModel, batch: dict) -> torch.Tensor:
        calls.append(1)
        return plain(self, batch) * (math.nan if len(calls) == 2 * 15 + 1 else 1.0)

    calls: list[int] = []
    monkeypatch.setattr(LanguageModel, "forward", broken)
    with pytest.raises(WorkError, match=r"nan at step 15, positions 120 to 127") as caught:
        train(config)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(LanguageModel, "forward", plain)
    assert (tmp_path / "run" / "latest-rank0.pt").resolve().name == "ba10-rank0.pt"
    assert train(config)["receipt"]["valid"]
