"""Where a client's requests go, and with which token."""

import os
from dataclasses import dataclass
from typing import Any

from ...common.errors import RequestError
from .answers import INSTALL
from .tokens import DEFAULT_URL, PORTS, URL_VARIABLE, token_for


@dataclass(frozen=True)
class Connection:
    """An address that was checked.

    Attributes:
        url: as it was given.
        withheld: a line on a token that was not sent there, or empty.
        settings: what httpx makes a client of.
    """

    url: str
    withheld: str
    settings: dict[str, Any]

    @classmethod
    def to(cls, url: str | None, token: str | None, timeout: float, from_file: bool) -> "Connection":
        """Return how the service at `url` is asked; see `Client`.

        Raises:
            RequestError: for what is no address, and where httpx is not installed.
        """
        try:
            import httpx
        except ImportError:
            raise RequestError(INSTALL) from None
        given = (url or os.environ.get(URL_VARIABLE) or DEFAULT_URL).rstrip("/")
        try:
            base = httpx.URL(given)
            wrong = base.scheme not in PORTS or not base.host
        except (httpx.InvalidURL, UnicodeEncodeError):
            wrong = True
        if wrong:
            raise RequestError(f"'{given}' is no address of a service: write it as {DEFAULT_URL}")
        withheld = ""
        if token is None:  # of where the request really goes, not of how the address reads
            name = base.raw_host.decode("ascii").lower()
            host = f"[{name}]" if ":" in name else name
            where = f"{base.scheme}://{host}:{base.port or PORTS[base.scheme]}"
            token, withheld = token_for(where, from_file)
        # No redirect is followed and no proxy of the environment used: a token goes where it is meant to.
        settings: dict[str, Any] = {
            "base_url": given,
            "timeout": timeout,
            "trust_env": False,
            "follow_redirects": False,
        }
        settings["verify"] = not given.startswith("http://")  # certificates take longer to load than a request takes
        settings["headers"] = {} if token is None else {"authorization": f"Bearer {token}"}
        return cls(given, withheld, settings)
