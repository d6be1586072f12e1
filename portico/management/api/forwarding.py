"""Any server answers for every other one: a request with the header `Portico-Server` is passed on to that server."""

from __future__ import annotations

import json
from typing import Any, Final, Protocol
from urllib.parse import unquote

from starlette.types import Message, Receive, Scope, Send

from portico.administration.roles import Principal
from portico.errors import InvalidInput, LimitReached
from portico.management.api.limit import MAXIMUM_BODY
from portico.server.peers.administration import MAXIMUM_TARGET, Answered, Asking
from portico.server.peers.peers import Peers

SERVER_HEADER: Final = "Portico-Server"
_HEADER: Final = SERVER_HEADER.lower().encode()
MAXIMUM_ANSWER: Final = 8 << 20


class Answers(Protocol):
    """The guard of this server, which asks nobody again who somebody is."""

    async def answer(self, principal: Principal, scope: Scope, receive: Receive, send: Send) -> None: ...


class Forwarding:
    """Passes requests on, and answers those that others pass on."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    def server(self, scope: Scope) -> str | None:
        """The other server that a request is for; None for this one."""
        found = [value for name, value in scope["headers"] if name == _HEADER]
        if not found:
            return None
        name = found[0].decode("latin-1")
        return name if name != self._peers.own_name else None

    async def forward(self, server: str, principal: Principal, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises NotFound, PeerUnreachable, and what `Administration.ask` does."""
        body = await _body(receive)
        query = scope.get("query_string", b"")
        target = scope.get("raw_path", scope["path"].encode()) + (b"?" + query if query else b"")
        if len(target) > MAXIMUM_TARGET:
            raise LimitReached("The request cannot be used", why="its path is too long", code="PATH_TOO_LONG")
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise InvalidInput("The request cannot be used", why="it is not JSON") from None
        asking = Asking(principal, scope["method"], target.decode("ascii", "replace"), text)
        answered = await self._peers.administration.ask(server, asking)
        headers = [(b"content-type", answered.content_type.encode()), (b"cache-control", b"no-store")]
        headers.append((_HEADER, server.encode("latin-1")))
        await send({"type": "http.response.start", "status": answered.status, "headers": headers})
        await send({"type": "http.response.body", "body": answered.body.encode()})

    def serve(self, guard: Answers) -> None:
        """Has requests that other servers pass on answered by this server's guard."""

        async def api(asking: Asking) -> Answered:
            return await _answered(guard, asking)

        self._peers.administration.api = api


async def _answered(guard: Answers, asking: Asking) -> Answered:
    path, _, query = asking.target.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asking.method,
        "scheme": "https",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"host", b"portico")],
        "client": None,
        "server": None,
        "state": {},
    }
    sent = bytearray()
    start: dict[str, Any] = {"status": 500, "headers": []}
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked:
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": asking.body.encode(), "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        elif message["type"] == "http.response.body":
            sent.extend(message.get("body", b""))
            if len(sent) > MAXIMUM_ANSWER:
                raise LimitReached("The answer is too large to be passed on", resolution="Ask for a shorter page")

    await guard.answer(asking.principal, scope, receive, send)
    headers = {name.lower(): value for name, value in start["headers"]}
    kind = headers.get(b"content-type", b"application/json").decode("latin-1")[:200]
    try:
        return Answered(int(start["status"]), kind, sent.decode())
    except UnicodeDecodeError:
        return Answered(500, "application/json", json.dumps({"error": {"code": "NOT_TEXT", "what": "No text"}}))


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAXIMUM_BODY:
            raise LimitReached("The request cannot be used", why="its body is too large", code="BODY_TOO_LARGE")
        if not message.get("more_body", False):
            return bytes(body)
