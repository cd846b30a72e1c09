"""Where a run computes, and whom it reports to."""

from typing import Any

from pydantic import Field

from ...common.config import Section


class ParallelismSection(Section):
    """Composer's parallelism_config; without it a run of several ranks uses DDP."""

    fsdp: dict[str, Any] | None = None
    tp: dict[str, Any] | None = None


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
