"""Why a request that is well formed can be refused. Each reason is one sentence and has an HTTP status."""

from typing import Any

from ..common.errors import EpochalError, RequestError, WorkError


class NotFoundError(RequestError):
    """Nothing has that name or fingerprint."""


class ConflictError(RequestError):
    """The request contradicts what is there: a name leased to a live run, a limit. `details` has the numbers."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class DeniedError(RequestError):
    """The request has no token, or one that does not allow it.

    Attributes:
        known: answered with 403, not 401.
    """

    def __init__(self, message: str, known: bool) -> None:
        super().__init__(message)
        self.known = known


class UnreachableError(WorkError):
    """The database does not answer."""


class BusyError(WorkError):
    """Too much is being worked at: the same request may be made later."""


def http_status(error: EpochalError) -> int:
    """Return the HTTP status that `error` is answered with."""
    if isinstance(error, DeniedError):
        return 403 if error.known else 401
    if isinstance(error, UnreachableError | BusyError):
        return 503
    if isinstance(error, NotFoundError):
        return 404
    if isinstance(error, ConflictError) or not isinstance(error, RequestError):
        return 409  # WorkError: a right request that what lies on the disk contradicts
    return 422
