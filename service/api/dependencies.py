"""What all routers use: the service of the application, and answers as JSON."""

from typing import Annotated, Any

import orjson
from fastapi import Depends, Request, Response

from ..service import Service


async def _service(request: Request) -> Service:
    """Return the service that the application was made over (a coroutine, so that no thread is taken for it)."""
    service: Service = request.app.state.service
    return service


ServiceOfApp = Annotated[Service, Depends(_service)]


def answer(data: Any, status: int = 200) -> Response:
    """Return `data` as JSON."""
    return Response(orjson.dumps(data), status, media_type="application/json")
