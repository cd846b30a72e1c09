"""An object that one of several makes."""

import contextlib

from .. import storage


def create(path: str, data: bytes) -> None:
    """Write the object at URL `path` if there is none, and leave one that is there as it is.

    Where a store can, it decides itself between two that try at once: look afterwards whose object is there.

    Raises:
        WorkError: when the store does not take it.
        RequestError: when there is no such bucket.
    """

    def make() -> None:
        try:
            with contextlib.suppress(FileExistsError):
                storage.store_of(path).pipe_file(path, data, mode="create")
        except OSError as error:
            if "not implemented" not in str(error).lower():
                raise
            storage.store_of(path).pipe_file(path, data)

    storage.make_object(make, path)
