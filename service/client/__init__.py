"""What talks to the service over HTTP: clients for programs, and the reporter of runs."""

from .async_client import AsyncClient
from .client import AwayError, Client, RefusedError
from .retries import NO_RETRIES, Retries

__all__ = ["NO_RETRIES", "AsyncClient", "AwayError", "Client", "RefusedError", "Retries"]
