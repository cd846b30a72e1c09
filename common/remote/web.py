"""Answers of web servers that are none: a page to sign in, a file that is another one by now."""

from collections.abc import Awaitable, Callable
from typing import Any


def checks(path: str, size: int | None) -> dict[str, Any]:
    """Return what `open` of fsspec is given for `path`, of which the listing said that it has `size` bytes.

    fsspec takes whatever a web server sends instead of a range for its bytes, as long as it is not longer; if it is, it
    takes the beginning.
    """
    if size is None or not path.startswith(("http://", "https://")):
        return {}
    return {"raise_for_status": _check(size)}


def _check(size: int) -> Callable[[Any], Awaitable[None]]:
    async def check(response: Any) -> None:
        """Raise OSError when an answer (of aiohttp) is about a file of another size."""
        if response.status not in (200, 206) or response.headers.get("Content-Encoding", "identity") != "identity":
            return
        if response.status == 200:
            said = response.headers.get("Content-Length", "")
        else:
            said = response.headers.get("Content-Range", "").rpartition("/")[2]
        if said.isdigit() and int(said) != size:
            response.close()
            raise OSError(another_size(int(said), size))

    return check


def another_size(found: int, listed: int) -> str:
    """Return what to say of a file that is not as long as it was."""
    return f"it has {found:,} bytes now, where it had {listed:,}"
