"""The resolver on the network: UDP and TCP sockets around `resolver.core`.

It listens on loopback only. Every attempt has a socket of its own, connected to the server that is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import secrets
import socket
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from portico.client.resolver.core import Action, Answer, Ask, Forget, Ignore, Resolver
from portico.errors import Conflict, Unavailable

log = logging.getLogger("portico.client.resolver")

DNS_PORT = 53
MAX_CONNECTIONS = 128
"""TCP connections of requesters at one time; one more is closed at once."""
_IDLE = 10.0
_PIPELINE = 32
"""Questions one TCP connection may have under way."""


def split_server(text: str) -> tuple[str, int]:
    """`10.0.0.53`, `10.0.0.53:5353`, `fd00::53`, `fe80::1%eth0` or `[fd00::53]:5353` as address and port."""
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        return address, int(port.removeprefix(":") or DNS_PORT)
    if text.count(":") == 1:
        address, _, port = text.partition(":")
        return address, int(port)
    return text, DNS_PORT


class ResolverServer:
    """Listens, asks, answers.

    Args:
        core: the state of all queries.
        addresses: where to listen, in order of preference; the first that can be had is `address`.
        port: 0 lets the kernel choose, the same port for UDP and TCP.
    """

    def __init__(self, core: Resolver, *, addresses: Sequence[str] = ("127.0.0.1",), port: int = DNS_PORT) -> None:
        self.core = core
        self.address = ""
        self.port = port
        self._wanted = tuple(addresses)
        self._udp: list[asyncio.DatagramTransport] = []
        self._tcp: list[asyncio.Server] = []
        self._requesters: dict[int, _UdpRequester | asyncio.Future[bytes]] = {}
        self._attempts: dict[int, _UdpAttempt | asyncio.Task[None]] = {}
        self._next = 1
        self._connections = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Starts listening on the first of the addresses that is free.

        Raises:
            Conflict: code RESOLVER_ADDRESS_IN_USE, something else listens on all of them.
            Unavailable: code RESOLVER_NOT_STARTED, for any other reason.
        """
        self._loop = asyncio.get_running_loop()
        failure: OSError | None = None
        for address in self._wanted:
            try:
                await self._listen(address)
            except OSError as error:
                await self.stop()
                log.warning("resolver address=%s port=%d not available: %s", address, self.port, error)
                failure = error
                continue
            self.address = address
            return
        in_use = failure is not None and failure.errno == errno.EADDRINUSE
        places = ", ".join(self._wanted)
        raise (Conflict if in_use else Unavailable)(
            f"The resolver for intranet names cannot listen on {places} port {self.port}",
            why=str(failure),
            resolution=f"See what listens there: ss -lnptu 'sport = :{self.port}'",
            code="RESOLVER_ADDRESS_IN_USE" if in_use else "RESOLVER_NOT_STARTED",
        )

    async def stop(self) -> None:
        """Closes every socket; queries under way get no answer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for transport in self._udp:
            transport.close()
        self._udp.clear()
        for server in self._tcp:
            server.close()
        self._tcp.clear()
        for attempt in list(self._attempts):
            self._forget(attempt)
        for requester in list(self._requesters.values()):
            if isinstance(requester, asyncio.Future):
                requester.cancel()
        self._requesters.clear()

    def set_tunnel(self, up: bool) -> None:
        """Tells the core whether the tunnel carries packets."""
        self._do(self.core.set_tunnel(up, self._now()))

    def counters(self) -> dict[str, int]:
        """The core's counters and how many queries are under way."""
        return {**asdict(self.core.counters), "under_way": self.core.under_way}

    def receive(self, data: bytes, transport: asyncio.DatagramTransport, peer: Any) -> None:
        """A datagram came in on a listening socket."""
        number = self._requester(_UdpRequester(transport, peer))
        self._do(self.core.query(data, number, self._now(), tcp=False))

    async def _listen(self, address: str) -> None:
        assert self._loop is not None
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, self.port))
            listener.listen(MAX_CONNECTIONS)
            port = listener.getsockname()[1]
            transport, _ = await self._loop.create_datagram_endpoint(
                lambda: _Listener(self), local_addr=(address, port), family=family
            )
        except OSError:
            listener.close()
            raise
        self._udp.append(transport)
        self._tcp.append(await asyncio.start_server(self._connected, sock=listener, limit=65_537 + 2))
        self.port = port

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _requester(self, requester: _UdpRequester | asyncio.Future[bytes]) -> int:
        number = self._next
        self._next += 1
        self._requesters[number] = requester
        return number

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Answer(requester, data):
                    self._answer(requester, data)
                case Forget(attempt):
                    self._forget(attempt)
                case Ask():
                    self._ask(action)
                case Ignore(requester):
                    ignored = self._requesters.pop(requester, None)
                    if isinstance(ignored, asyncio.Future):
                        ignored.cancel()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self.core.next_timeout()
        if when is not None:
            self._timer = asyncio.get_running_loop().call_at(when, self._timeout)

    def _timeout(self) -> None:
        self._timer = None
        self._do(self.core.handle_timeout(self._now()))

    def _answer(self, number: int, data: bytes) -> None:
        requester = self._requesters.pop(number, None)
        if isinstance(requester, _UdpRequester):
            if not requester.transport.is_closing():
                requester.transport.sendto(data, requester.peer)
        elif requester is not None and not requester.done():
            requester.set_result(data)

    def _forget(self, attempt: int) -> None:
        exchange = self._attempts.pop(attempt, None)
        if isinstance(exchange, _UdpAttempt):
            exchange.close()
        elif exchange is not None:
            exchange.cancel()

    def _ask(self, ask: Ask) -> None:
        if ask.tcp:
            task = asyncio.create_task(self._ask_tcp(ask), name=f"dns tcp {ask.server}")
            self._attempts[ask.attempt] = task
        else:
            self._attempts[ask.attempt] = _UdpAttempt(self, ask)

    def answered(self, attempt: int, data: bytes) -> None:
        """A message arrived for an attempt."""
        self._do(self.core.answer(attempt, data, self._now()))

    def failed(self, attempt: int) -> None:
        """An attempt's server cannot be reached."""
        self._do(self.core.failed(attempt, self._now()))

    async def _ask_tcp(self, ask: Ask) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            address, port = split_server(ask.server)
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(len(ask.data).to_bytes(2, "big") + ask.data)
            size = int.from_bytes(await reader.readexactly(2), "big")
            data = await reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            log.debug("server=%s tcp failed: %s", ask.server, error)
            self._attempts.pop(ask.attempt, None)
            self.failed(ask.attempt)
            return
        finally:
            if writer is not None:
                writer.close()
        self._attempts.pop(ask.attempt, None)
        self.answered(ask.attempt, data)
        # A single connection carries a single answer: a wrong one is as good as none.
        self.failed(ask.attempt)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= MAX_CONNECTIONS:
            writer.close()
            return
        self._connections += 1
        answers: set[asyncio.Task[None]] = set()
        try:
            while True:
                async with asyncio.timeout(_IDLE):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    data = await reader.readexactly(size)
                future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                number = self._requester(future)
                self._do(self.core.query(data, number, self._now(), tcp=True))
                task = asyncio.create_task(self._reply(writer, number, future))
                answers.add(task)
                task.add_done_callback(answers.discard)
                if len(answers) >= _PIPELINE:
                    await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            if answers and not writer.is_closing():
                with contextlib.suppress(TimeoutError):  # one side may close its half after the last question
                    await asyncio.wait(answers, timeout=self.core.timing.total * 2)
        finally:
            self._connections -= 1
            for task in list(answers):
                task.cancel()
            writer.close()

    async def _reply(self, writer: asyncio.StreamWriter, number: int, future: asyncio.Future[bytes]) -> None:
        try:
            async with asyncio.timeout(self.core.timing.total * 2 + self.core.timing.hold):
                data = await future
                writer.write(len(data).to_bytes(2, "big") + data)
                await writer.drain()
        except (TimeoutError, OSError, asyncio.CancelledError):
            writer.close()
        finally:
            self._requesters.pop(number, None)


class _UdpRequester:
    __slots__ = ("peer", "transport")

    def __init__(self, transport: asyncio.DatagramTransport, peer: Any) -> None:
        self.transport = transport
        self.peer = peer


class _Listener(asyncio.DatagramProtocol):
    def __init__(self, server: ResolverServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The event loop's own class is not registered as a DatagramTransport in Python 3.11.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert self._transport is not None
        self._server.receive(data, self._transport, addr)


class _UdpAttempt:
    """One question to one server over a connected socket."""

    def __init__(self, server: ResolverServer, ask: Ask) -> None:
        self._server = server
        self._attempt = ask.attempt
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        try:
            address, port = split_server(ask.server)
            family, kind, protocol, _, place = socket.getaddrinfo(
                address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            self._socket.connect(place)
            self._socket.send(ask.data)
            self._loop.add_reader(self._socket, self._readable)
        except (OSError, ValueError) as error:
            log.debug("server=%s udp failed: %s", ask.server, error)
            self.close()
            # Not from inside the core's own call that made this attempt.
            self._loop.call_soon(server.failed, self._attempt)

    def close(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        while self._socket is not None:
            try:
                data = self._socket.recv(65_535)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._server.failed(self._attempt)
                return
            self._server.answered(self._attempt, data)


def random_below(limit: int) -> int:
    """An unpredictable number in 0..limit-1, for `Resolver`."""
    return secrets.randbelow(limit)
