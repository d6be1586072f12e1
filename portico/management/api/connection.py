"""One connection to the API: HTTP/1.1 by uvicorn, and what the kernel and TLS know of the other end."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from portico.administration.access import LOCAL, Caller
from portico.management.api.guard import CALLER

HEAD_SECONDS: Final = 10.0
"""So long a connection may take to send the head of a request."""
MAXIMUM_HEAD: Final = 32 << 10
_CREDENTIALS: Final = struct.Struct("3i")


class ApiProtocol(H11Protocol):
    """Adds the `Caller` to each request, and ends connections that do not get to one.

    Attributes:
        ended: called once, when the connection is gone.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.ended: Callable[[], None] | None = None
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        caller = _caller(transport)
        app = self.app

        async def with_caller(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, CALLER: caller}, receive, send)

        self.app = with_caller
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)
        if self.ended is not None:
            self.ended()

    def _watch(self) -> None:
        if self.cycle is not None and (not self.cycle.response_complete or not self.conn.trailing_data[0]):
            self._unwatch()  # a request is being answered, or nothing of the next one has come: uvicorn's own timer
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _unwatch(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _caller(transport: asyncio.Transport) -> Caller | None:
    """None for a connection of which nothing is known: it is refused."""
    tls = transport.get_extra_info("ssl_object")
    if tls is not None:
        peer = transport.get_extra_info("peername")
        if not peer:
            return None
        return Caller(str(peer[0]), certificate=tls.getpeercert(binary_form=True))
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return None
    _, user, group = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Caller(LOCAL, user=user, groups=_groups(user, group))


def _groups(user: int, group: int) -> tuple[int, ...]:
    if user == 0:
        return (group,)
    try:
        return tuple(os.getgrouplist(pwd.getpwuid(user).pw_name, group))
    except (KeyError, OSError):
        return (group,)
