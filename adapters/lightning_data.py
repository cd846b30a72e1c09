"""The order of a run as a Lightning DataModule."""

from typing import Any

from lightning.pytorch import LightningDataModule

from ..common.errors import RequestError
from .loader import OrderLoader
from .samples import Samples


class OrderData(LightningDataModule):
    """Feeds `trainer.fit` with every position of a run once: one epoch.

    The loader is none of torch's, so Lightning puts no DistributedSampler into it, whatever `use_distributed_sampler`
    says; it has a state, which Lightning saves in its checkpoints and loads.

    Attributes:
        samples: what is read.
        global_batch: samples of a forward pass over all ranks.
        options: of `OrderLoader`: num_workers, collate_fn, and DataLoader's.

    Raises:
        RequestError: in `trainer.fit`, for settings that would read something twice or not at all.
    """

    def __init__(self, samples: Samples, *, global_batch: int, **options: Any) -> None:
        super().__init__()
        self.samples = samples
        self.global_batch = global_batch
        self.options = options

    def train_dataloader(self) -> OrderLoader:
        """Return the loader of this rank's share of each batch."""
        trainer = self.trainer
        assert trainer is not None, "Lightning asks for the loader"
        if trainer.max_epochs != 1:
            raise RequestError(
                f"the passes are in the plan, and a run is one epoch: max_epochs=1, not {trainer.max_epochs}"
            )
        if getattr(trainer, "overfit_batches", 0):
            raise RequestError("overfit_batches reads the same batches again: leave it out")
        shares = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        return OrderLoader(
            self.samples,
            global_batch=self.global_batch,
            rank=shares["rank"],
            ranks=shares["num_replicas"],
            **self.options,
        )
