"""Shows the page to the user who asked for it: a process of that user, on the loopback, for as long as it is wanted.

The page says what every user of this computer may read at the status socket. Still only whoever knows its path gets it:
not another user, and not a web site that has its name resolve to the loopback (DNS rebinding), for which the Host
header is compared too. Connections are bounded in number and time; one request, one answer.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from portico.client.assistant.report import Report
from portico.client.surface.page import POLICY, draw, draw_error
from portico.errors import Conflict, NotPermitted, PorticoError
from portico.location.core import PATIENCE, Answer, Exchange, Request, refusal

MAXIMUM_CONNECTIONS: Final = 16
IDLE: Final = 1800.0
"""Seconds without anybody looking after which nobody needs it."""
_LINGER = 2.0
_READ = 4096

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass
class Counters:
    """What happened since the start."""

    answered: int = 0
    refused: int = 0
    evicted: int = 0
    """Connections that made room for newer ones."""
    timed_out: int = 0


class PageServer:
    """One page.

    Args:
        look: reads the report; called in a thread for each request. Raises PorticoError.
        port: 0 takes one that is free.

    Raises:
        Conflict: code PORT_IN_USE.
        NotPermitted: the port is not for this user.
    """

    def __init__(self, look: Callable[[], Report], *, port: int = 0, patience: float = PATIENCE) -> None:
        self.counters = Counters()
        self._look = look
        self._patience = patience
        self._path = f"/{secrets.token_urlsafe(16)}/"
        self._listener = _listen(port)
        self._port = int(self._listener.getsockname()[1])
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._looked_at = 0.0

    @property
    def url(self) -> str:
        """What the user opens."""
        return f"http://127.0.0.1:{self._port}{self._path}"

    async def run(self, *, idle: float = IDLE) -> None:
        """Serves until it is cancelled, or nobody has looked for `idle` seconds."""
        loop = asyncio.get_running_loop()
        self._looked_at = loop.time()
        accepting = asyncio.create_task(self._accept())
        try:
            while (left := self._looked_at + idle - loop.time()) > 0:
                await asyncio.wait({accepting}, timeout=left)
                if accepting.done():
                    await accepting  # it ends only by what went wrong
        finally:
            tasks = (accepting, *self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            if len(self._tasks) >= MAXIMUM_CONNECTIONS:
                # An honest request takes milliseconds: the oldest one is a slow peer's.
                oldest = next(iter(self._tasks))
                del self._tasks[oldest]
                oldest.cancel()
                self.counters.evicted += 1
            connection.setblocking(False)
            task = asyncio.create_task(self._serve(connection))
            self._tasks[task] = None
            task.add_done_callback(lambda ended: self._tasks.pop(ended, None))

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        exchange = Exchange(loop.time(), self._patience)
        try:
            async with asyncio.timeout_at(exchange.deadline):
                while not exchange.complete:
                    data = await loop.sock_recv(connection, _READ)
                    exchange.receive(data)
                    if not data and not exchange.complete:
                        return
            data = exchange.answer(await self._answer(exchange), formatdate(usegmt=True))
            async with asyncio.timeout(_LINGER):
                await loop.sock_sendall(connection, data)
                connection.shutdown(socket.SHUT_WR)
                # A close with bytes unread would reset the connection and take the answer along.
                while await loop.sock_recv(connection, _READ):
                    pass
        except TimeoutError:
            self.counters.timed_out += 1
        except OSError:
            pass  # the browser has gone
        finally:
            connection.close()

    async def _answer(self, exchange: Exchange) -> Answer:
        request = exchange.request
        denied = exchange.refusal if request is None else self._refusal(request)
        if denied is not None:
            self.counters.refused += 1
            return denied
        self.counters.answered += 1
        self._looked_at = asyncio.get_running_loop().time()
        now = datetime.now().astimezone()
        try:
            text = draw(await asyncio.to_thread(self._look), now, refresh=True)
        except PorticoError as error:
            text = draw_error(error, now, refresh=True)
        return Answer(HTTPStatus.OK, text.encode(), headers=HEADERS)

    def _refusal(self, request: Request) -> Answer | None:
        if request.host not in (f"127.0.0.1:{self._port}", f"localhost:{self._port}"):
            return refusal(HTTPStatus.MISDIRECTED_REQUEST)
        if not hmac.compare_digest(request.path.encode("utf-8", "replace"), self._path.encode()):
            return refusal(HTTPStatus.NOT_FOUND)
        return None


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(MAXIMUM_CONNECTIONS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        what, why = f"The page cannot be shown on port {port} of 127.0.0.1", error.strerror or str(error)
        if isinstance(error, PermissionError):
            raise NotPermitted(what, why=why, resolution="Leave --port out; a free one is taken") from None
        raise Conflict(what, why=why, resolution="Leave --port out; a free one is taken", code="PORT_IN_USE") from None
    return listener
