"""A bound on what a request may carry, before anything of it is parsed."""

from __future__ import annotations

import asyncio
import json
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portico.errors import LimitReached

MAXIMUM_BODY: Final = 4 << 20
"""A settings document of 1 MiB, escaped as JSON, fits."""


BODY_SECONDS: Final = 30.0
"""So long a body may take to come in."""


class BoundedBody:
    """ASGI middleware: answers 413 to a body that is, or turns out to be, larger than `limit` bytes."""

    def __init__(self, app: ASGIApp, limit: int = MAXIMUM_BODY) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced[:20]) > self._limit:
            await _refuse(send, 413, self._too_large())
            return
        body: list[bytes] = []
        size = 0
        more = True
        end = asyncio.get_running_loop().time() + BODY_SECONDS
        while more:
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                await _refuse(send, 408, _too_slow())
                return
            if message["type"] != "http.request":
                return  # the other side went away
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limit:
                await _refuse(send, 413, self._too_large())
                return
            body.append(chunk)
            more = message.get("more_body", False)
        whole: Message | None = {"type": "http.request", "body": b"".join(body), "more_body": False}

        async def again() -> Message:
            nonlocal whole
            if whole is not None:
                message, whole = whole, None
                return message
            return await receive()

        await self._app(scope, again, send)

    def _too_large(self) -> LimitReached:
        return LimitReached(
            "The request cannot be used",
            why=f"its body is larger than {self._limit} bytes",
            resolution="Send less; a settings document has at most 1 MiB",
            code="BODY_TOO_LARGE",
        )


def _too_slow() -> LimitReached:
    return LimitReached(
        "The request cannot be used",
        why=f"its body did not come within {BODY_SECONDS:.0f} seconds",
        resolution="Try again over a faster connection",
        code="BODY_TOO_SLOW",
    )


async def _refuse(send: Send, status: int, error: LimitReached) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": error.as_dict()}).encode()})
