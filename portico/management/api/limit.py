"""A bound on what a request may carry, before anything of it is parsed."""

from __future__ import annotations

import json
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from portico.errors import LimitReached

MAXIMUM_BODY: Final = 4 << 20
"""A settings document of 1 MiB, escaped as JSON, fits."""


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
            await self._refuse(send)
            return
        body: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the other side went away
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limit:
                await self._refuse(send)
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

    async def _refuse(self, send: Send) -> None:
        error = LimitReached(
            "The request cannot be used",
            why=f"its body is larger than {self._limit} bytes",
            resolution="Send less; a settings document has at most 1 MiB",
            code="BODY_TOO_LARGE",
        )
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"error": error.as_dict()}).encode()})
