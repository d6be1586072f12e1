"""Long work as it goes on: one line of JSON for each thing that happened."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeVar

from fastapi.responses import StreamingResponse

from portico.errors import PorticoError

log = logging.getLogger("portico.api")

MEDIA_TYPE: Final = "application/x-ndjson"
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}}
"""What the specification says of a route that may answer so."""

T = TypeVar("T")


async def in_lines(items: AsyncIterator[T], as_data: Callable[[T], dict[str, Any]], what: str) -> StreamingResponse:
    """An answer that grows with `items`. An error after the first of them is its last line: the status has been sent.

    Args:
        what: the work, for the log.

    Raises:
        PorticoError: it cannot begin at all, which has a status of its own.
    """
    try:
        first = await anext(items)
    except StopAsyncIteration:
        return StreamingResponse(iter(()), media_type=MEDIA_TYPE)

    async def lines() -> AsyncIterator[bytes]:
        try:
            yield _line(as_data(first))
            async for item in items:
                yield _line(as_data(item))
        except PorticoError as error:
            yield _line({"error": error.as_dict()})
        except Exception as error:
            log.exception("%s failed", what)
            failure = PorticoError("The server failed", why=type(error).__name__, code="INTERNAL")
            yield _line({"error": failure.as_dict()})

    return StreamingResponse(lines(), media_type=MEDIA_TYPE)


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"
