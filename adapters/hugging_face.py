"""The order of a run in accelerate's loops and in Hugging Face's Trainer.

`accelerator.prepare` deals a loader's batches among processes and repeats samples until they are even; Trainer does the
same with the sampler of its own that it puts in place of any other. Neither happens here: each process is given its
share, and what of their settings would read something twice, or not at all, is refused.
"""

from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader

from ..common.errors import RequestError
from ..shards.loader.collate import collate
from ..shards.loader.workers import check_workers
from .batches import Collate, language_model_batch
from .sampler import OrderBatchSampler
from .samples import Samples

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import Trainer


def accelerate_loader(
    accelerator: "Accelerator",
    samples: Samples,
    *,
    global_batch: int,
    start: int = 0,
    rank: int | None = None,
    ranks: int | None = None,
    num_workers: int = 0,
    collate_fn: Collate = collate,
    **options: Any,
) -> DataLoader:
    """Return a prepared loader of this process' share of every batch: do not give it to `accelerator.prepare`.

    Batches come on the accelerator's device, and `accelerator.accumulate` sees the last one. To go on in the middle,
    give `start`, or take `accelerate.skip_first_batches` of a loader with the batch that the run had before.

    Args:
        global_batch: samples of a forward pass over all processes.
        start: position at which it begins.
        rank: of this process among `ranks` that read different samples; needed under tensor or context parallelism,
            where several processes read the same.

    Raises:
        RequestError: where samples, batch and processes do not fit together.
    """
    from accelerate.data_loader import prepare_data_loader

    if rank is None and getattr(accelerator, "torch_device_mesh", None) is not None:
        raise RequestError("the accelerator has a device mesh: say with rank and ranks which processes read what")
    if rank is None:
        rank, ranks = accelerator.process_index, accelerator.num_processes
    check_workers(num_workers, "num_workers")
    batches = OrderBatchSampler(samples, samples.order, global_batch=global_batch, rank=rank, ranks=ranks, start=start)
    data: Any = samples  # map-style, though it needs no torch
    loader: DataLoader = DataLoader(
        data, batch_sampler=batches, num_workers=num_workers, collate_fn=collate_fn, **options
    )
    return prepare_data_loader(  # as for one process: the share of this one has been taken
        loader,
        device=accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=accelerator.device_placement,
        dispatch_batches=False,
    )


def for_trainer(trainer: "Trainer", samples: Samples, collate_fn: Collate = language_model_batch) -> None:
    """Let `trainer.train()` read `samples` in their order: one epoch, the whole run.

    Batch, processes and workers are the trainer's arguments. Going on from a checkpoint, the batches that it has had
    are passed over; a checkpoint of another plan, or with another batch, is refused.

    Raises:
        RequestError: in `trainer.train()`, for arguments that would read something twice or not at all.
    """
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState

    def made_with() -> dict[str, Any]:
        batch = trainer._train_batch_size * trainer.args.world_size
        return {
            "plan": samples.order.fingerprint,
            "samples of a step": batch * trainer.args.gradient_accumulation_steps,
        }

    class EpochalOrder(TrainerCallback, ExportableState):
        """Writes into each checkpoint what the batches were made with, and holds it against that."""

        def state(self) -> dict[str, Any]:
            return {"args": {}, "attributes": {"made_with": made_with()}}

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if not state.global_step:
                return
            saved = state.stateful_callbacks.get(type(self).__name__, {})
            saved = saved[0] if isinstance(saved, list) else saved
            _check_same(saved.get("attributes", {}).get("made_with"), made_with())

    data: Any = samples

    def loader() -> DataLoader:
        args = trainer.args
        share = trainer._train_batch_size * args.world_size
        batches = OrderBatchSampler(
            samples, samples.order, global_batch=share, rank=args.process_index, ranks=args.world_size
        )
        _check_arguments(trainer, len(batches))
        return DataLoader(  # Trainer moves batches to the device itself
            data,
            batch_sampler=batches,
            collate_fn=collate_fn,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    trainer.add_callback(EpochalOrder())
    trainer.get_train_dataloader = loader  # type: ignore[method-assign]


def _check_same(saved: dict[str, Any] | None, now: dict[str, Any]) -> None:
    if saved is None:
        raise RequestError("the checkpoint was not made with for_trainer: where its run stands in a plan is unknown")
    changes = [
        f"its {name} is {saved.get(name)}, not {value}" for name, value in now.items() if saved.get(name) != value
    ]
    if changes:
        raise RequestError(f"the checkpoint is of another run: {', '.join(changes)} (this run)")


def _check_arguments(trainer: "Trainer", batches: int) -> None:
    """Raise RequestError for arguments of a trainer that would change which samples reach it."""
    args = trainer.args
    steps = -(-batches // args.gradient_accumulation_steps)
    if args.max_steps <= 0 and args.num_train_epochs != 1:
        raise RequestError(
            f"the passes are in the plan, and a run is one epoch: num_train_epochs=1, not {args.num_train_epochs:g}"
        )
    if args.max_steps > steps:
        raise RequestError(
            f"max_steps={args.max_steps:,}, but the plan ends after {steps:,} steps and Trainer would begin it again: "
            "use fewer, or a plan of more passes"
        )
    if args.ignore_data_skip:
        raise RequestError("ignore_data_skip=True would begin the plan again after a checkpoint: leave it out")
    if args.auto_find_batch_size:
        raise RequestError("auto_find_batch_size=True changes the batch in the middle of a plan: leave it out")
    if getattr(trainer.accelerator, "torch_device_mesh", None) is not None:
        raise RequestError("Trainer with a device mesh, where several processes read the same, is not supported")
