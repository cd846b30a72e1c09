"""Where the tasks of a build run: the sections of its configuration."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ...common.config import Section


class LocalExecutor(Section):
    """Tasks are processes of this machine."""

    name: Literal["local"] = "local"


class RayExecutor(Section):
    """Tasks are actors of a Ray cluster that is running already.

    Attributes:
        address: as `ray.init` takes it; `auto`: RAY_ADDRESS, or this machine's.
        mem_per_cpu_gb: GB to reserve.
        seconds: a task that takes longer is lost; null: no limit.
    """

    name: Literal["ray"]
    address: str = "auto"
    cpus_per_task: int = Field(default=1, ge=1)
    mem_per_cpu_gb: float = Field(default=2, ge=0)
    seconds: int | None = Field(default=None, ge=1)


class SlurmExecutor(Section):
    """Tasks are array jobs. partition, time (of one job, as sbatch takes it), mem_per_cpu_gb, qos, and `sbatch` for any
    further options: as the cluster requires.

    Attributes:
        setup: shell lines before each task (`module load ...`).
        tasks_per_job: how many tasks a job runs one after the other.
        max_array_size: jobs in one array; MaxArraySize of the cluster's slurm.conf.
    """

    name: Literal["slurm"]
    partition: str
    time: str = "04:00:00"
    cpus_per_task: int = Field(default=1, ge=1)
    mem_per_cpu_gb: int = Field(default=2, ge=0)
    qos: str | None = None
    setup: str | None = None
    sbatch: dict[str, str] = {}
    tasks_per_job: int = Field(default=1, ge=1)
    max_array_size: int = Field(default=1001, ge=1)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Executor = Annotated[
    Annotated[LocalExecutor | RayExecutor | SlurmExecutor, Field(discriminator="name")], BeforeValidator(_named)
]
"""A mapping with its `name`, or the name alone."""
