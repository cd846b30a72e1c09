"""The parts of datatrove that every build uses, imported without the client of the Hugging Face hub. datatrove imports
that to ask whether a folder lies on the hub, and it takes longer than all else that a small build imports.

datatrove's filters and its reader of data sets, which need it, are imported where they are used.
"""

import functools
import importlib
import sys
from typing import Any


class _OnHub(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        """Return whether this is a file system of the hub: there is none while its module has not been imported."""
        module = sys.modules.get("huggingface_hub.hf_file_system")
        return module is not None and isinstance(instance, module.HfFileSystem)


class _HubFileSystem(metaclass=_OnHub):
    """Stands for the hub's file system in `isinstance`."""


def _assets_path(*args: Any, **kwargs: Any) -> Any:
    from huggingface_hub.utils import cached_assets_path

    return cached_assets_path(*args, **kwargs)


def _import_io() -> None:
    """Import `datatrove.io` with stand-ins for what it takes from the hub's client, if it is not imported yet."""
    import huggingface_hub  # light: its names are imported when they are asked for

    given = {"HfFileSystem": _HubFileSystem, "cached_assets_path": _assets_path}
    before = {name: vars(huggingface_hub)[name] for name in given if name in vars(huggingface_hub)}
    vars(huggingface_hub).update(given)
    try:
        importlib.import_module("datatrove.io")
    finally:
        for name in given:
            del vars(huggingface_hub)[name]
        vars(huggingface_hub).update(before)


_import_io()

from datatrove.executor import ray as datatrove_ray  # noqa: E402
from datatrove.executor import slurm as datatrove_slurm  # noqa: E402
from datatrove.executor.base import PipelineExecutor  # noqa: E402
from datatrove.executor.local import LocalPipelineExecutor  # noqa: E402
from datatrove.executor.ray import RayPipelineExecutor  # noqa: E402
from datatrove.executor.slurm import SlurmPipelineExecutor  # noqa: E402
from datatrove.pipeline.readers.base import BaseDiskReader  # noqa: E402
from datatrove.utils.logging import logger  # noqa: E402
from loguru._better_exceptions import ExceptionFormatter  # noqa: E402

# Three times a task it is worked out where the standard library lies, which takes as long as all else around a task.
ExceptionFormatter._get_lib_dirs = staticmethod(functools.cache(ExceptionFormatter._get_lib_dirs))  # type: ignore[method-assign]

__all__ = [
    "BaseDiskReader",
    "LocalPipelineExecutor",
    "PipelineExecutor",
    "RayPipelineExecutor",
    "SlurmPipelineExecutor",
    "datatrove_ray",
    "datatrove_slurm",
    "logger",
]
