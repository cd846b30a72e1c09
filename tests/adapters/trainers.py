"""What each of the adapters' other sides is given in a run that is interrupted and goes on: sample ids, batch by batch.

A reader is `(case) -> list of this rank's batches`: it reads `case.stop` batches, keeps the state as its package does,
throws everything away, and goes on from that state to the end of the plan. It runs in a process of its own, which is
forked from one that has imported the packages (transformers imports what is named, when it is named).
"""

import contextlib
import itertools
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import grain
import lightning.pytorch as pl
import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator, skip_first_batches
from transformers import Trainer, TrainerCallback, TrainingArguments

from epochal.adapters.grain_source import Batches as Source
from epochal.adapters.grain_source import grain_loader
from epochal.adapters.hugging_face import accelerate_loader, for_trainer
from epochal.adapters.lightning_data import OrderData
from epochal.adapters.loader import OrderLoader
from epochal.adapters.sampler import OrderBatchSampler, OrderSampler, state_of
from epochal.adapters.samples import Samples
from epochal.shards.loader.collate import collate
from epochal.shards.order.stored import order_from_dict

Batches = list[list[int]]


@dataclass(frozen=True)
class Case:
    """A run: samples of a forward pass are `global_batch` over all ranks; it is stopped after `stop` such batches."""

    roots: list[str]
    order: dict[str, Any]
    global_batch: int
    workers: int
    stop: int
    accumulate: int
    folder: str
    rank: int = 0
    ranks: int = 1

    def samples(self) -> Samples:
        return Samples(self.roots, order_from_dict(self.order))


def read(rank: int, name: str, case: Case, ranks: int) -> Batches:
    """Run one reader as rank `rank` of `ranks`; for `run_ranks`."""
    if ranks == 1:
        for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            os.environ.pop(variable, None)
    warnings.simplefilter("ignore")
    return READERS[name](replace(case, rank=rank, ranks=ranks))


def ids_of(batches: Any) -> Batches:
    return [batch["sample_id"].tolist() for batch in batches]


def share(case: Case) -> dict[str, int]:
    return {"global_batch": case.global_batch, "rank": case.rank, "ranks": case.ranks}


def by_batch_sampler(case: Case) -> Batches:
    def loader(start: int) -> Any:
        samples = case.samples()
        sampler = OrderBatchSampler(samples, samples.order, global_batch=case.global_batch, start=start)
        return torch.utils.data.DataLoader(
            samples, batch_sampler=sampler, num_workers=case.workers, collate_fn=collate
        ), sampler

    first, sampler = loader(0)
    batches = ids_of(itertools.islice(first, case.stop))
    state = sampler.state_dict() if not case.workers else state_of(sampler.share.order, case.stop * case.global_batch)
    rest, sampler = loader(0)
    sampler.load_state_dict(state)
    return batches + ids_of(rest)


def by_sampler(case: Case) -> Batches:
    def loader(start: int) -> Any:
        samples = case.samples()
        sampler = OrderSampler(samples, samples.order, global_batch=case.global_batch, start=start)
        return torch.utils.data.DataLoader(
            samples,
            batch_size=case.global_batch // case.ranks,
            sampler=sampler,
            num_workers=case.workers,
            collate_fn=collate,
        )

    batches = ids_of(itertools.islice(loader(0), case.stop))
    return batches + ids_of(loader(case.stop * case.global_batch))


def by_stateful_loader(case: Case) -> Batches:
    """As torchtitan does: the state goes through torch's distributed checkpoint."""

    def loader() -> OrderLoader:
        return OrderLoader(case.samples(), global_batch=case.global_batch, num_workers=case.workers)

    first = loader()
    batches = ids_of(itertools.islice(first, case.stop))
    dcp.save({"dataloader": first}, checkpoint_id=f"{case.folder}/dcp")
    second = loader()
    dcp.load({"dataloader": second}, checkpoint_id=f"{case.folder}/dcp")
    return batches + ids_of(second)


def gone_on_with(iterator: Callable[[], Any], case: Case) -> Batches:
    """The batches of a Grain iterator that is stopped, and of another that goes on from its state."""
    first = iterator()
    batches = ids_of(itertools.islice(first, case.stop))
    state = first.get_state()
    del first
    second = iterator()
    second.set_state(state)
    return batches + ids_of(second)


def by_grain(case: Case) -> Batches:
    def iterator() -> Any:
        return iter(grain_loader(case.samples(), **share(case), worker_count=case.workers))

    return gone_on_with(iterator, case)


def by_grain_map_dataset(case: Case) -> Batches:
    def iterator() -> Any:
        data = grain.MapDataset.source(Source(case.samples(), **share(case))).to_iter_dataset()
        if case.workers:
            data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=case.workers))
        return iter(data)

    return gone_on_with(iterator, case)


def by_accelerate(case: Case) -> Batches:
    """`accelerator.accumulate` with a model, so that what it does at the end of a loader is done."""

    def train(skip: int, steps: int | None) -> Batches:
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=case.accumulate)
        model = accelerator.prepare(torch.nn.Linear(1, 1))
        loader = accelerate_loader(
            accelerator, case.samples(), global_batch=case.global_batch, num_workers=case.workers
        )
        batches = []
        for batch in itertools.islice(skip_first_batches(loader, skip) if skip else loader, steps):
            with accelerator.accumulate(model):
                accelerator.backward(model(batch["tokens"][:, :1].float()).sum())
            batches.append(batch["sample_id"].tolist())
        assert steps or accelerator.gradient_state.end_of_dataloader or accelerator.sync_gradients
        return batches

    return train(0, case.stop) + train(case.stop, None)


class StoppedError(Exception):
    """The run was killed."""


def by_trainer(case: Case) -> Batches:
    """Hugging Face's Trainer, which writes checkpoints after whole steps only."""
    seen: Batches = []

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

    class Recording(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
            seen.append(inputs["sample_id"].tolist())
            return next(model.parameters()) * inputs["tokens"].float().mean()

    class Kill(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_save = state.global_step == case.stop // case.accumulate
            return control

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            raise StoppedError

    def trainer(callbacks: list[Any]) -> Any:
        args = TrainingArguments(
            case.folder,
            per_device_train_batch_size=case.global_batch // case.ranks,
            gradient_accumulation_steps=case.accumulate,
            num_train_epochs=1,
            dataloader_num_workers=case.workers,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            save_only_model=True,  # several ranks on CPUs cannot load what they save of an optimizer: it goes to cpu:1
            disable_tqdm=True,
        )
        made = Recording(Tiny(), args, callbacks=callbacks)
        for_trainer(made, case.samples(), collate)
        return made

    try:
        trainer([Kill()]).train()
    except StoppedError:
        pass
    else:
        raise AssertionError("it was not stopped")
    assert len(seen) == case.stop - case.stop % case.accumulate
    if case.ranks > 1:
        torch.distributed.barrier()  # the first rank writes what all of them read
    trainer([]).train(resume_from_checkpoint=f"{case.folder}/checkpoint-{case.stop // case.accumulate}")
    return seen


def by_lightning(case: Case) -> Batches:
    seen: Batches = []

    class Recording(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            seen.append(batch["sample_id"].tolist())
            return self.weight * batch["tokens"].float().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    class Kill(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if len(seen) == case.stop:
                trainer.save_checkpoint(f"{case.folder}/stopped.ckpt")
                raise StoppedError

    def fit(callbacks: list[Any], checkpoint: str | None) -> None:
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=case.ranks,
            strategy="ddp" if case.ranks > 1 else "auto",
            max_epochs=1,
            accumulate_grad_batches=case.accumulate,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=case.folder,
        )
        data = OrderData(case.samples(), global_batch=case.global_batch, num_workers=case.workers)
        trainer.fit(Recording(), datamodule=data, ckpt_path=checkpoint)

    with contextlib.suppress(StoppedError):
        fit([Kill()], None)
    assert len(seen) == case.stop
    fit([], f"{case.folder}/stopped.ckpt")
    return seen


READERS: dict[str, Callable[[Case], Batches]] = {
    "`OrderBatchSampler`": by_batch_sampler,
    "`OrderSampler`": by_sampler,
    "`OrderLoader`, DCP": by_stateful_loader,
    "`grain_loader`": by_grain,
    "`Batches` in a `MapDataset`": by_grain_map_dataset,
    "`accelerate_loader`": by_accelerate,
    "`for_trainer`": by_trainer,
    "`OrderData`": by_lightning,
}
