"""Where a run computes, and whom it reports to."""

from typing import Any, Literal

from pydantic import Field, field_validator

from ...common.config import Section
from .types import Positive


class FSDPSection(Section):
    """Composer's FSDP: weights, gradients and optimizer state shared out over ranks.

    A key that is left out is as Composer has it.

    Attributes:
        sharding_strategy: what is shared out: all (FULL_SHARD), gradients and optimizer state (SHARD_GRAD_OP), all
            within a machine (HYBRID_SHARD).
        data_parallel_shard_degree: ranks that share a copy of the model.
        data_parallel_replicate_degree: copies of the model.
        mixed_precision: PURE computes and adds up gradients in bfloat16, DEFAULT adds them up in float32.
        state_dict_type: one checkpoint (full), or one a rank (sharded).
        activation_checkpointing: blocks are computed once more in the backward pass.
        activation_cpu_offload: what blocks keep for the backward pass lies in the CPU's memory.
        cpu_offload: weights and optimizer state lie in the CPU's memory.
        backward_prefetch: when the next block's weights are fetched in the backward pass.
        forward_prefetch: fetch the next block's weights early in the forward pass too.
        limit_all_gathers: hold the CPU back, so that no more than two blocks' weights are fetched ahead.
        sync_module_states: rank 0 sends its weights to all at the start.
        load_monolith_rank0_only: rank 0 alone reads a full checkpoint, and sends it.
        verbose: say what is wrapped.
    """

    sharding_strategy: Literal["FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_SHARD", "NO_SHARD"] | None = None
    data_parallel_shard_degree: Positive | None = None
    data_parallel_replicate_degree: Positive | None = None
    mixed_precision: Literal["DEFAULT", "PURE", "FULL"] | None = None
    state_dict_type: Literal["full", "sharded"] | None = None
    activation_checkpointing: bool | None = None
    activation_cpu_offload: bool | None = None
    cpu_offload: bool | None = None
    backward_prefetch: Literal["BACKWARD_PRE", "BACKWARD_POST", "NONE"] | None = None
    forward_prefetch: bool | None = None
    limit_all_gathers: bool | None = None
    sync_module_states: bool | None = None
    load_monolith_rank0_only: bool | None = None
    verbose: bool | None = None


class ParallelismSection(Section):
    """Composer's parallelism_config; without it a run of several ranks uses DDP."""

    fsdp: FSDPSection | None = None
    tp: None = None

    @field_validator("tp", mode="before")
    @classmethod
    def _one_way(cls, value: Any) -> None:
        if value is not None:
            raise ValueError(
                "tensor parallelism needs a plan of the layers that a file cannot hold, and no model here is too large "
                "for one GPU's share under FSDP: use parallelism_config.fsdp"
            )


class ServiceSection(Section):
    """The repetition-control service that the run reports to; `service: URL` is short for `service: {url: URL}`.

    Attributes:
        parent: the run whose model this one continues, and at which of its positions (default: the last it reported).
        parent_position: see `parent`.
        interval: seconds between reports.
    """

    url: str
    parent: str | None = None
    parent_position: int | None = Field(None, ge=0)
    interval: float = Field(10.0, ge=0)
