"""The listener of the peers' channel: HTTP/1.1 over TLS 1.3, bounded in time, size and number of connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import h11

from portico.errors import Unavailable
from portico.server.peers.tls import fingerprint

log = logging.getLogger("portico.peers")

PORT = 2505
"""Of NLB's remote control on Windows, there over UDP."""

MAXIMUM_CONNECTIONS = 64
MAXIMUM_STRANGERS = 8
"""Connections without a member's certificate: machines that join, and whoever pretends to."""
MEMBER_BODY = 8 << 20
STRANGER_BODY = 64 << 10
MAXIMUM_HEAD = 16 << 10
HANDSHAKE_SECONDS = 5.0
REQUEST_SECONDS = 10.0
IDLE_SECONDS = 30.0
ANSWER_SECONDS = 150.0
LOG_INTERVAL = 10.0
_IPV6_FREEBIND = 78


@dataclass(frozen=True)
class PeerRequest:
    """A request on the channel.

    Attributes:
        fingerprint: SHA-256 of the certificate that the cluster's CA signed, None without one.
        target: path and query.
    """

    address: str
    fingerprint: str | None
    method: str
    target: str
    body: bytes


@dataclass(frozen=True)
class PeerResponse:
    status: int
    body: bytes


Handler = Callable[[PeerRequest], Awaitable[PeerResponse]]


class Refusals:
    """Counts what was refused by reason, and writes at most a line in `LOG_INTERVAL` seconds about each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told: dict[str, float] = {}

    def note(self, reason: str, address: str) -> None:
        """Args: reason: one of a fixed set of words, or the tables would grow with what strangers send."""
        self.counts[reason] += 1
        now = time.monotonic()
        if now - self._told.get(reason, -LOG_INTERVAL) >= LOG_INTERVAL:
            self._told[reason] = now
            log.warning("peer=%s refused=%r count=%d", address, reason, self.counts[reason])


class Listener:
    """One listening socket. `handler` must answer, not raise; what escapes it all the same is answered with 500."""

    def __init__(self, context: ssl.SSLContext, handler: Handler, refusals: Refusals) -> None:
        self._context = context
        self._handler = handler
        self._refusals = refusals
        self._server: asyncio.Server | None = None
        self._open = 0
        self._strangers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.bound: tuple[str, int] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listens; also on an address that the machine does not have yet.

        Raises:
            Unavailable: code PEER_LISTENER.
        """
        try:
            sock = _socket(host, port)
            self._server = await asyncio.start_server(
                self._accepted,
                sock=sock,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=1.0,
                limit=MAXIMUM_HEAD,
                backlog=32,
            )
        except OSError as error:
            raise Unavailable(
                f"Cannot listen for the other servers on {host} port {port}",
                why=error.strerror or str(error),
                resolution=f"Look who has the port: ss -ltnp 'sport = :{port}'",
                code="PEER_LISTENER",
            ) from None
        name = sock.getsockname()
        self.bound = (str(name[0]), int(name[1]))

    async def stop(self) -> None:
        """Ends at once; what is being answered is given up."""
        if self._server is None:
            return
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._server, self.bound = None, None

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        address = str((writer.get_extra_info("peername") or ("?",))[0])
        tls = writer.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        member = fingerprint(der) if der else None
        stranger = member is None
        try:
            if self._open >= MAXIMUM_CONNECTIONS or (stranger and self._strangers >= MAXIMUM_STRANGERS):
                self._refusals.note("too many connections", address)
                return
            self._open += 1
            self._strangers += stranger
            try:
                await self._serve(reader, writer, address, member)
            finally:
                self._open -= 1
                self._strangers -= stranger
        except (OSError, TimeoutError, ssl.SSLError):
            self._refusals.note("broken or slow connection", address)
        except asyncio.CancelledError:
            pass  # the listener stops
        finally:
            self._tasks.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, member: str | None
    ) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAXIMUM_HEAD)
        limit = MEMBER_BODY if member is not None else STRANGER_BODY
        while True:
            try:
                request = await _read_request(connection, reader, address, member, limit)
            except _TooLarge:
                self._refusals.note("too large a request", address)
                await _answer(connection, writer, PeerResponse(413, b"{}"), close=True)
                return
            except h11.RemoteProtocolError:
                self._refusals.note("malformed request", address)
                with contextlib.suppress(h11.LocalProtocolError):
                    await _answer(connection, writer, PeerResponse(400, b"{}"), close=True)
                return
            if request is None:
                return
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    response = await self._handler(request)
            except Exception:
                log.exception("peer=%s path=%r failed", address, request.target[:100])
                response = PeerResponse(500, b"{}")
            await _answer(connection, writer, response, close=member is None)
            if member is None or connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()


class _TooLarge(Exception):
    pass


async def _read_request(
    connection: h11.Connection, reader: asyncio.StreamReader, address: str, member: str | None, limit: int
) -> PeerRequest | None:
    head: h11.Request | None = None
    body: list[bytes] = []
    size = 0
    deadline = asyncio.get_running_loop().time() + (IDLE_SECONDS if member is not None else REQUEST_SECONDS)
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            async with asyncio.timeout_at(deadline):
                data = await reader.read(MAXIMUM_HEAD)  # more at once would pass a head that is too large
            if head is None and data:  # an idle connection may wait; one that has begun must get on
                deadline = min(deadline, asyncio.get_running_loop().time() + REQUEST_SECONDS)
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            head = event
            length = dict(event.headers).get(b"content-length", b"0")
            if int(length) > limit:
                raise _TooLarge
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if size > limit:
                raise _TooLarge
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            method, target = head.method.decode("ascii"), head.target.decode("ascii", "replace")
            return PeerRequest(address, member, method, target, b"".join(body))
        else:  # ConnectionClosed, or paused by an upgrade that nobody offers
            return None


async def _answer(
    connection: h11.Connection, writer: asyncio.StreamWriter, response: PeerResponse, *, close: bool
) -> None:
    headers = [("content-type", "application/json"), ("content-length", str(len(response.body)))]
    if close:
        headers.append(("connection", "close"))
    writer.write(connection.send(h11.Response(status_code=response.status, headers=headers)) or b"")
    writer.write(connection.send(h11.Data(data=response.body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    async with asyncio.timeout(REQUEST_SECONDS):
        await writer.drain()


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The dedicated address may come only with the settings that the other servers are asked for.
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.SOL_IP, getattr(socket, "IP_FREEBIND", 15), 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
