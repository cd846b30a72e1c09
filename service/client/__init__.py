"""What talks to the service over HTTP: a client for programs, and the reporter of runs."""

from .client import AwayError, Client, RefusedError

__all__ = ["AwayError", "Client", "RefusedError"]
