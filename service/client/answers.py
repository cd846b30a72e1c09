"""What a client makes of an answer: JSON data, or an error that says why there is none."""

from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from ...common.errors import RequestError, WorkError

if TYPE_CHECKING:
    import httpx

LATER = frozenset({429, 502, 503, 504})
"""Statuses of answers that may be others soon: too many requests; a service, or what it needs, that is away."""

INSTALL = "the service's packages are not installed: pip install 'epochal[service]' (in a checkout: -e '.[service]')"


class RefusedError(RequestError):
    """The service refused a request.

    Attributes:
        status: of HTTP.
        details: what else it said.
    """

    def __init__(self, message: str, status: int, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.details = details


class AwayError(WorkError):
    """The service cannot be reached, or cannot answer now.

    Attributes:
        again: whether the same request may be answered when it is made again soon.
        retry_after: what the answer's header of that name said.
    """

    def __init__(self, message: str, again: bool = False, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.again = again
        self.retry_after = retry_after


def data_of(response: "httpx.Response", url: str) -> Any:
    """Return the JSON data of a response that was read.

    Raises:
        RefusedError: for a refusal.
        AwayError: for an answer of something else, or a service that cannot answer now.
    """
    if response.status_code >= 300:
        refuse(response, url)
    try:
        return orjson.loads(response.content)
    except orjson.JSONDecodeError:
        raise AwayError(f"what answers at {url} is no service of epochal") from None


def refuse(response: "httpx.Response", url: str) -> NoReturn:
    """Raise what a refusal says; its body was read."""
    status, again = response.status_code, response.status_code in LATER
    if status < 400:
        raise AwayError(f"what answers at {url} sends on to another address: name the service's own")
    try:
        details = orjson.loads(response.content)
        message = str(details.pop("detail"))
    except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
        if again:  # a proxy's own words
            raise AwayError(f"the service at {url} is away: a proxy answers with status {status}", again) from None
        raise AwayError(f"what answers at {url} is no service of epochal") from None
    if status >= 500 or status == 429:
        raise AwayError(message, again, response.headers.get("retry-after"))
    if status == 401:
        message = f"{message}, or let `epochal login {url}` keep a token for this address"
    raise RefusedError(message, status, details)


def unreached(error: Exception, url: str) -> AwayError:
    """Return what an error of the connection means. An answer that did not come in time is not asked for again: it
    would not come then either."""
    import httpx

    late = isinstance(error, httpx.ReadTimeout)
    reason = str(error) or type(error).__name__
    return AwayError(f"no service answers at {url} ({reason}): start it with epochal serve", again=not late)
