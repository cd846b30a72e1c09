"""What a Slurm job runs: the tasks of a stage, as the build that submitted the job described them.

    python -m epochal.datapipe.run.task FILE SHA256

The description is a pickle in the build's work folder, where others may write. The job's script, which Slurm keeps, has
its hash; any other file is refused unread.
"""

import hashlib
import io
import json
import os
import sys
from types import MappingProxyType
from typing import Any

import dill

from ...common import storage
from ...common.errors import HIDDEN, INTERPOLATION, RequestError, WorkError, Written, without_secrets


class _Pickler(dill.Pickler):
    """Writes what came from the environment as it was written: tasks on Slurm have the same environment."""

    written: Written = {}

    def persistent_id(self, value: Any) -> str | None:
        """Return how a text without its secrets is written; None for all else."""
        if type(value) is not str:
            return None
        shown = without_secrets(value, self.written)
        if shown == value:
            return None
        if HIDDEN in shown and HIDDEN not in value:
            raise RequestError(
                f"executor slurm: {shown} would be written to the work folder for the tasks: give what is secret in it "
                "as ${oc.env:NAME}"
            )
        return shown


class _Unpickler(dill.Unpickler):
    def persistent_load(self, shown: str) -> str:
        """Return the text that is written so."""
        return INTERPOLATION.sub(lambda match: os.environ[match[1]], shown)


def pickled(executor: Any, written: Written = MappingProxyType({})) -> tuple[bytes, str]:
    """Return the description of a stage, and its hash.

    Args:
        executor: what is described.
        written: what in it came from the environment.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, fmode=dill.CONTENTS_FMODE)
    pickler.written = written
    pickler.dump(executor)
    data = file.getvalue()
    return data, hashlib.sha256(data).hexdigest()


def run(path: str, expected: str) -> None:
    """Run the tasks of this job.

    Args:
        path: of the description, local or URL.
        expected: its hash.

    Raises:
        WorkError: when the file there is another.
    """
    data = storage.read_bytes(path)
    if hashlib.sha256(data).hexdigest() != expected:
        message = f"{path} is not what the build wrote there, and was not run: see who can write to that folder"
        errors = storage.join(path.rpartition("/")[0], "errors/00000.json")
        storage.write_atomic(errors, json.dumps({"type": "WorkError", "message": message}).encode())
        raise WorkError(message)
    _Unpickler(io.BytesIO(data)).load().run()


if __name__ == "__main__":
    run(*sys.argv[1:])
