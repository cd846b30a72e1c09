"""A client of the service: `Client("http://127.0.0.1:8642").seen(key=...)`. The command line and the trainer use it."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from ...common.errors import RequestError, WorkError
from ...shards.order.base import Order
from ...shards.order.stored import order_from_dict
from .tokens import DEFAULT_URL, PORTS, URL_VARIABLE, token_for

if TYPE_CHECKING:
    import httpx

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
    """The service cannot be reached, or cannot answer now."""


class Client:
    """Calls of the service at `url` (default: $EPOCHAL_SERVICE, or port 8642 here). Safe to share among threads.

    Every call raises RefusedError when the service refuses it and AwayError when there is no answer. Answers are JSON
    data; docs/service.md lists them.

    Attributes:
        token: default: the one that is kept for the address, or $EPOCHAL_TOKEN; see `tokens`.
        timeout: seconds to wait for an answer.
        from_file: the address was read from a file that may be somebody else's: $EPOCHAL_TOKEN is not sent there.
        withheld: a line on a token that was not sent for that reason, or empty.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, timeout: float = 30.0, from_file: bool = False
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise RequestError(INSTALL) from None
        self.url = (url or os.environ.get(URL_VARIABLE) or DEFAULT_URL).rstrip("/")
        self.withheld = ""
        try:
            secure = not self.url.startswith("http://")  # certificates take longer to load than a request takes
            # No redirect is followed and no proxy of the environment used: a token goes where it is meant to.
            self._http = httpx.Client(
                base_url=self.url, timeout=timeout, trust_env=False, verify=secure, follow_redirects=False
            )
            base = self._http.base_url
            wrong = base.scheme not in PORTS or not base.host
        except (httpx.InvalidURL, UnicodeEncodeError):
            wrong = True
        if wrong:
            raise RequestError(f"'{self.url}' is no address of a service: write it as {DEFAULT_URL}")
        if token is None:  # of where the request really goes, not of how the address reads
            name = base.raw_host.decode("ascii").lower()
            host = f"[{name}]" if ":" in name else name
            where = f"{base.scheme}://{host}:{base.port or PORTS[base.scheme]}"
            token, self.withheld = token_for(where, from_file)
        if token is not None:
            self._http.headers["authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return the answer to a GET; parameters that are None are left out."""
        return self._call("GET", path, params={k: v for k, v in query.items() if v is not None})

    def post(self, path: str, **body: Any) -> Any:
        """Return the answer to a POST; parameters that are None are left out."""
        try:
            data = orjson.dumps({k: v for k, v in body.items() if v is not None})
        except TypeError as error:  # a mixture's shares may have any length
            raise RefusedError(f"{path} takes JSON with integers of 64 bits: {error}", 422, {}) from None
        return self._call("POST", path, content=data, headers={"content-type": "application/json"})

    # -- catalogue and plans ----------------------------------------------------------------------------------------

    def carve(
        self, pool: str, unique_tokens: int | str, replicate: int = 0, name: str | None = None, **without: Any
    ) -> Any:
        """Carve a subset on the service's machine; the same again returns the same.

        Args:
            pool: name or fingerprint.
            unique_tokens: how many.
            replicate: which draw.
            name: of the subset.
            without: `without`, documents that it holds no token of, or `without_optouts`, names of opt-out lists.
        """
        body = {"pool": pool, "unique_tokens": unique_tokens, "replicate": replicate, "name": name}
        return self.post("/subsets", **body, **without)

    def opt_out(self, name: str, documents: Sequence[Any]) -> Any:
        """Enter a list of documents that are to be fed no more, or a newer version of it; see docs/service.md.

        Args:
            name: of the list.
            documents: each a key or an id, or an object with `key`, `id` or `text`.
        """
        return self.post("/optouts", name=name, documents=list(documents))

    def plan(self, subset: str, **numbers: Any) -> Order:
        """Make a plan (total_tokens or epochs, seed, policy, skip, name) for a subset that the service knows."""
        shown = self.post("/plans", subset=subset, **numbers)
        return order_from_dict({k: v for k, v in shown.items() if k not in ("tokens", "passes", "partial_samples")})

    def mixture(self, sources: dict[str, Any], **numbers: Any) -> Order:
        """Make a mixture of subsets that the service knows.

        Args:
            sources: by name, {subset, policy, seed} each with epochs, tokens or weight.
            numbers: stages, window of the mixture, and total_tokens or epochs, seed, skip, name of the plan.
        """
        mixed = {key: numbers.pop(key) for key in ("stages", "window") if key in numbers}
        return order_from_dict(self.post("/plans", mixture={"sources": sources, **mixed}, **numbers))

    def order(self, plan: str, start: int, count: int) -> NDArray[np.uint64]:
        """Return the samples at positions [start, start + count) of a plan, uint64 of shape (count,)."""
        parts = list(self.order_chunks(plan, start, count))
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    def order_chunks(self, plan: str, start: int, count: int) -> Iterator[NDArray[np.uint64]]:
        """Yield the same in parts as they arrive."""
        query: dict[str, Any] = {"start": start, "count": count, "format": "arrow"}
        with self._reached(), self._http.stream("GET", f"/plans/{plan}/order", params=query) as response:
            if response.status_code != 200:
                response.read()
                self._raise(response)
            with pa.ipc.open_stream(pa.PythonFile(_Body(response.iter_raw(1 << 20)), mode="r")) as stream:
                for batch in stream:
                    yield batch.column("id").to_numpy()

    def documents(self, plan: str, start: int, count: int) -> Iterator[dict[str, Any]]:
        """Yield what positions [start, start + count) of a plan read: position, id, documents; in a mixture also the
        source and the sample in it. They are asked for in as many requests as it takes."""
        at: int | None = start
        while at is not None and at < start + count:
            found = self.get(f"/plans/{plan}/documents", start=at, count=min(1000, start + count - at))
            yield from found["positions"]
            at = found["next"] or at + len(found["positions"])

    # -- ledger -----------------------------------------------------------------------------------------------------

    def seen(
        self,
        key: str | None = None,
        id: str | None = None,
        text: str | None = None,
        run: str | None = None,
        position: int | None = None,
    ) -> Any:
        """Return which runs were fed a document, by its key (hexadecimal), id or text; see docs/service.md."""
        if key is not None:
            return self.get(f"/documents/{key}/exposures", run=run, position=position)
        if id is not None:
            return self.get("/documents/exposures", id=id, run=run, position=position)
        return self.post("/documents/exposures", text=text, run=run, position=position)

    def histogram(self, run: str, position: int | None = None) -> Any:
        """Return how many documents and tokens a run saw how often."""
        return self.get(f"/runs/{run}/histogram", position=position)

    # -- transport --------------------------------------------------------------------------------------------------

    def _call(self, method: str, path: str, **how: Any) -> Any:
        with self._reached():
            response = self._http.request(method, path, **how)
        if response.status_code >= 300:
            self._raise(response)
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError:
            raise AwayError(f"what answers at {self.url} is no service of epochal") from None

    @contextmanager
    def _reached(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except (httpx.TransportError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise AwayError(f"no service answers at {self.url} ({reason}): start it with epochal serve") from None

    def _raise(self, response: "httpx.Response") -> NoReturn:
        """Raise what a refusal says."""
        if response.status_code < 400:
            raise AwayError(f"what answers at {self.url} sends on to another address: name the service's own")
        try:
            details = orjson.loads(response.content)
            message = str(details.pop("detail"))
        except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
            raise AwayError(f"what answers at {self.url} is no service of epochal") from None
        if response.status_code >= 500 or response.status_code == 429:
            raise AwayError(message)
        if response.status_code == 401:
            message = f"{message}, or let `epochal login {self.url}` keep a token for this address"
        raise RefusedError(message, response.status_code, details)


class _Body(io.RawIOBase):
    """A response's body as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        target, done = memoryview(buffer).cast("B"), 0
        while done < len(target):
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    break
            n = min(len(target) - done, len(self._rest))
            target[done : done + n] = self._rest[:n]
            self._rest = self._rest[n:]
            done += n
        return done
