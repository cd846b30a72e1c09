"""What would give a sample twice, or not at all, is refused in one line; states go from one adapter to another."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import transformers
from datasets import load_from_disk
from torch.utils.data import DataLoader

from epochal.adapters.batches import IGNORED, language_model_batch, shifted_batch
from epochal.adapters.grain_source import grain_loader
from epochal.adapters.hugging_face import for_trainer
from epochal.adapters.lightning_data import OrderData
from epochal.adapters.loader import OrderLoader
from epochal.adapters.sampler import OrderBatchSampler, OrderSampler
from epochal.adapters.samples import Samples
from epochal.common.errors import RequestError
from epochal.shards.export import export
from epochal.shards.loader.dataset import RepeatedDataset
from epochal.tests.support.loading import plan_for, tokens_of, toy_mixture


@pytest.fixture
def samples(subsets: dict[str, str]) -> Samples:
    return Samples(subsets["a"], plan_for(subsets["a"], 1.45, seed=3))


def test_samples_are_those_of_the_plan_and_of_a_mixture(subsets: dict[str, str], samples: Samples) -> None:
    mixture, roots, tokens = toy_mixture(subsets)
    for data, all_tokens in ((samples, tokens_of(subsets["a"])), (Samples(roots, mixture), tokens)):
        order = data.order
        rows = data.read(range(order.positions))
        ids = order.ids(range(order.positions))
        np.testing.assert_array_equal(rows["tokens"], all_tokens[ids.astype(int)])
        np.testing.assert_array_equal(rows["n_tokens"], order.n_tokens(ids))
        assert data[5]["position"] == 5
        with pytest.raises(IndexError):
            data[order.positions]


def test_samples_of_another_subset_are_refused(subsets: dict[str, str]) -> None:
    with pytest.raises(RequestError, match="the plan is not for"):
        Samples(subsets["b"], plan_for(subsets["a"]))
    with pytest.raises(RequestError, match="reads 1 artifacts, 2 were named"):
        Samples([subsets["a"], subsets["b"]], plan_for(subsets["a"]))


def test_rows_of_an_export_come_in_the_order_of_the_run(subsets: dict[str, str], tmp_path: Path) -> None:
    plan = plan_for(subsets["a"], 2.2)
    out, _ = export(subsets["a"], "hf", str(tmp_path / "out"))
    data = load_from_disk(out)
    loader = DataLoader(data, batch_sampler=OrderBatchSampler(data, plan, global_batch=5), collate_fn=lambda rows: rows)
    rows = [row["input_ids"] for batch in loader for row in batch]
    tokens = tokens_of(subsets["a"])
    ids = plan.ids(range(plan.positions)).tolist()
    assert rows == [tokens[i][:n].tolist() for i, n in zip(ids, plan.n_tokens(ids).tolist(), strict=True)]
    with pytest.raises(RequestError, match="has 56 rows, the order is over 57 samples"):
        OrderBatchSampler(data.select(range(56)), plan, global_batch=5)


def test_a_state_goes_from_the_dataset_of_a_run_to_every_adapter(subsets: dict[str, str], samples: Samples) -> None:
    dataset = RepeatedDataset(subsets["a"], samples.order, global_batch=6)
    state = dataset.state_dict(31, True)
    loader = OrderLoader(samples, global_batch=4)
    loader.load_state_dict(state)
    rest = [position for batch in loader for position in batch["position"].tolist()]
    assert rest == list(range(31, samples.order.positions))
    for sampler in (OrderBatchSampler, OrderSampler):
        one = sampler(samples, samples.order, global_batch=4)
        one.load_state_dict(state)
        assert one.state_dict() == state
    dataset.load_state_dict(loader.state_dict())
    assert dataset.start_position == samples.order.positions
    other = plan_for(subsets["a"], 1.45, seed=4)
    with pytest.raises(RequestError, match="another run: seed is 4, not 3"):
        loader.load_state_dict({"state_version": 1, "position": 0, "plan": other.to_dict()})
    for odd in ({"position": True}, {"position": 1.5}, {"position": -1}, {"plan": None}, {"plan": {}}):
        with pytest.raises(RequestError):
            loader.load_state_dict(state | odd)
    for missing in ("position", "plan"):
        with pytest.raises(RequestError):
            loader.load_state_dict({key: value for key, value in state.items() if key != missing})
    with pytest.raises(RequestError, match="samples are of another order: seed is 3, not 4"):
        OrderBatchSampler(samples, other, global_batch=4)


def test_a_run_is_read_once(samples: Samples) -> None:
    loader = OrderLoader(samples, global_batch=6)
    batches = len(loader)
    first = next(iter(loader))["position"].tolist()
    rest = [batch["position"].tolist() for batch in loader]
    assert [position for batch in [first, *rest] for position in batch] == list(range(samples.order.positions))
    assert len(loader) == batches == 1 + len(rest)
    with pytest.raises(RequestError, match="the run has ended"):
        next(iter(loader))


def test_workers_that_read_ahead_do_not_move_the_state(samples: Samples) -> None:
    loader = OrderLoader(samples, global_batch=6, num_workers=2)
    next(iter(loader))
    assert loader.state_dict()["position"] == 6


@pytest.mark.parametrize(
    ("rank", "ranks", "batch", "line"),
    [
        (2, 2, 6, "rank 2 is none of 2 ranks"),
        (0, 4, 6, "does not divide by 4 ranks"),
        (0, 3, 3 * 27, "some would have no batch"),
        (0, None, 6, "give both rank and ranks"),
    ],
)
def test_ranks_that_do_not_fit(subsets: dict[str, str], rank: int, ranks: int, batch: int, line: str) -> None:
    plan = plan_for(subsets["a"], 1.45)
    with pytest.raises(RequestError, match=line):
        OrderBatchSampler(Samples(subsets["a"], plan), plan, global_batch=batch, rank=rank, ranks=ranks)


def test_accelerate_does_not_share_a_share(samples: Samples) -> None:
    loader = DataLoader(samples, batch_sampler=OrderBatchSampler(samples, samples.order, global_batch=6))
    for options in ({}, {"even_batches": False}, {"split_batches": True}):
        with pytest.raises(RequestError, match="would be shared twice"):
            accelerate.data_loader.prepare_data_loader(loader, num_processes=2, process_index=0, **options)


def trainer(samples: Samples, folder: Path, **arguments: Any) -> transformers.Trainer:
    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
            return {"loss": self.weight * input_ids.float().mean()}

    base = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "num_train_epochs": 1, "save_strategy": "no"}
    args = transformers.TrainingArguments(str(folder), **base | {"per_device_train_batch_size": 6} | arguments)
    made = transformers.Trainer(Tiny(), args)
    for_trainer(made, samples)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"num_train_epochs": 3}, "num_train_epochs=1, not 3"),
        ({"max_steps": 15}, "max_steps=15, but the plan ends after 14 steps"),
        ({"ignore_data_skip": True}, "ignore_data_skip"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
    ],
)
def test_arguments_of_trainer_that_read_twice_are_refused(
    samples: Samples, tmp_path: Path, arguments: dict, line: str
) -> None:
    with pytest.raises(RequestError, match=line):
        trainer(samples, tmp_path, **arguments).train()


@pytest.mark.slow
def test_a_checkpoint_of_another_plan_or_batch_is_refused(
    subsets: dict[str, str], samples: Samples, tmp_path: Path
) -> None:
    warnings.simplefilter("ignore")
    trainer(samples, tmp_path, save_strategy="steps", save_steps=4, max_steps=4).train()
    saved = str(tmp_path / "checkpoint-4")
    with pytest.raises(RequestError, match="its samples of a step is 6, not 12"):
        trainer(samples, tmp_path, gradient_accumulation_steps=2).train(resume_from_checkpoint=saved)
    other = Samples(subsets["a"], plan_for(subsets["a"], 1.45, seed=4))
    with pytest.raises(RequestError, match="the checkpoint is of another run: its plan is"):
        trainer(other, tmp_path).train(resume_from_checkpoint=saved)
    again = trainer(samples, tmp_path, per_device_train_batch_size=3)  # Trainer takes the checkpoint's 6 itself
    assert again.train(resume_from_checkpoint=saved).global_step == 14


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "line"), [({"max_epochs": 2}, "max_epochs=1, not 2"), ({"overfit_batches": 1}, "overfit_batches")]
)
def test_settings_of_lightning_that_read_twice_are_refused(
    samples: Samples, tmp_path: Path, options: dict, line: str
) -> None:
    class Tiny(pl.LightningModule):
        def training_step(self, batch: Any, _: int) -> None:
            return None

        def configure_optimizers(self) -> None:
            return None

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    fit = pl.Trainer(**quiet | {"max_epochs": 1, "default_root_dir": tmp_path} | options).fit
    with pytest.raises(RequestError, match=line):
        fit(Tiny(), datamodule=OrderData(samples, global_batch=6))


@pytest.mark.slow
def test_grain_refuses_the_state_of_another_run(subsets: dict[str, str], samples: Samples) -> None:
    first = iter(grain_loader(samples, global_batch=6, rank=0, ranks=1))
    next(first)
    other = Samples(subsets["a"], plan_for(subsets["a"], 1.45, seed=4))
    for data, batch in ((other, 6), (samples, 3)):
        with pytest.raises(ValueError, match="in checkpoint does not match"):
            iter(grain_loader(data, global_batch=batch, rank=0, ranks=1)).set_state(first.get_state())


@pytest.mark.parametrize("form", [language_model_batch, shifted_batch])
def test_labels_leave_padding_out(samples: Samples, form: Callable[..., Any]) -> None:
    position = next(p for p in range(57) if samples[p]["sample_id"] == 56)  # 5 tokens, then PAD
    batch = form([samples[position]])
    if form is language_model_batch:
        assert batch["input_ids"].tolist() == [samples[position]["tokens"].tolist()]
        assert batch["labels"].tolist() == [samples[position]["tokens"][:5].tolist() + 11 * [IGNORED]]
    else:
        inputs, labels = batch
        assert inputs["input"].tolist() == [samples[position]["tokens"][:-1].tolist()]
        assert labels.tolist() == [samples[position]["tokens"][1:5].tolist() + 11 * [IGNORED]]
