"""What a Slurm job runs: the tasks of a stage, as the build that submitted the job described them.

    python -m epochal.datapipe.run.task FILE SHA256

The description is a pickle in the build's work folder, where others may write. The job's script, which Slurm keeps, has
its hash; any other file is refused unread.
"""

import hashlib
import json
import sys
from typing import Any

import dill

from ...common import storage
from ...common.errors import WorkError


def pickled(executor: Any) -> tuple[bytes, str]:
    """Return the description of a stage, and its hash."""
    data = dill.dumps(executor, fmode=dill.CONTENTS_FMODE)
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
    dill.loads(data).run()


if __name__ == "__main__":
    run(*sys.argv[1:])
