"""Requests that act once however often they are sent: `Idempotency-Key`, and the answer that is kept for it.

The key is entered in the transaction of the change itself: both are there, or neither. A second request that comes
while the first is at work waits for that one's transaction. Most requests need no key, because doing them again changes
nothing: docs/service.md says which.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

import sqlalchemy as sa
from fastapi import Depends, Header, Request
from sqlalchemy import Connection

from ...common.errors import RequestError
from ...common.hashing import digest
from ..database import insert, now
from ..models import Answer

T = TypeVar("T")

KEPT_SECONDS = 86_400.0


class Once(NamedTuple):
    """A request by digests: of its key together with who sent it, and of what it asks for."""

    key: str
    request: str


async def _once(
    request: Request,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=200, description="sent again with it, the request acts once")
    ] = None,
) -> Once | None:
    if idempotency_key is None:
        return None
    who = request.headers.get("authorization", "")
    asked = {"method": request.method, "path": request.url.path, "body": (await request.body()).hex()}
    return Once(digest({"key": idempotency_key, "who": who}), digest(asked))


OnceOfRequest = Annotated[Once | None, Depends(_once)]


def acting_once(job: Callable[..., T], once: Once | None) -> Callable[..., T]:
    """Return `job(connection, *args)`, which does nothing where it was done under that key, and returns what it did.

    What it returns is JSON data. Where it raises, nothing was done, and nothing is kept.
    """
    if once is None:
        return job

    def done(connection: Connection, *args: Any) -> T:
        at = now(connection)
        connection.execute(sa.delete(Answer).where(Answer.at < at - KEPT_SECONDS))
        if not insert(connection, Answer, key=once.key, request=once.request, answer=None, at=at):
            return _kept(connection, once)
        result = job(connection, *args)
        connection.execute(sa.update(Answer).where(Answer.key == once.key).values(answer=result))
        return result

    return done


def _kept(connection: Connection, once: Once) -> Any:
    row = connection.execute(sa.select(Answer.request, Answer.answer).where(Answer.key == once.key)).one()
    if row.request != once.request:
        raise RequestError("this Idempotency-Key was that of another request: send each request with a new one")
    return row.answer
