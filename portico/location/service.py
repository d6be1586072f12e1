"""Sockets to pages: bounded in number, in time and in memory, whoever connects.

A place is one connection. When all are taken, the oldest one that has not finished its request makes room, and that is
always one of a slow peer: an honest request takes milliseconds. No address has more than its part of the places.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter
from dataclasses import dataclass, field
from email.utils import formatdate

from portico.location.availability import Availability, current
from portico.location.core import PATIENCE, Exchange
from portico.location.pages import Site, page

log = logging.getLogger("portico.location")

MAXIMUM_CONNECTIONS = 256
MAXIMUM_PER_PEER = 64
LINGER = 2.0
"""Seconds for a peer to take its answer."""
ACCEPT_AGAIN = 0.5
"""Seconds until the next attempt when nothing can be accepted (no descriptor is left)."""
_READ = 4096


@dataclass
class Counters:
    """What happened since the start."""

    accepted: int = 0
    answered: int = 0
    refused: int = 0
    """Connections that carried no proper request."""
    timed_out: int = 0
    evicted: int = 0
    crowded_out: int = 0
    """Connections of an address that had its part of the places."""
    tls_failed: int = 0
    ended_early: int = 0

    def as_dict(self) -> dict[str, int]:
        return dict(vars(self))


@dataclass(eq=False)
class _Place:
    """One connection."""

    peer: str
    exchange: Exchange
    task: asyncio.Task[None] | None = None


@dataclass
class Service:
    """Serves both sites from listening sockets that are open. Belongs to the running loop's thread.

    Args:
        context: of the network location server's certificate; None serves no TLS.
    """

    context: ssl.SSLContext | None
    maximum: int = MAXIMUM_CONNECTIONS
    per_peer: int = MAXIMUM_PER_PEER
    patience: float = PATIENCE
    counters: Counters = field(default_factory=Counters)
    _said: Availability | None = None
    _said_at: float = 0.0
    _places: dict[_Place, None] = field(default_factory=dict)
    _peers: Counter[str] = field(default_factory=Counter)
    _acceptors: list[asyncio.Task[None]] = field(default_factory=list)

    def listen(self, site: Site, listener: socket.socket) -> None:
        """Begins to accept on a listening socket."""
        listener.setblocking(False)
        self._acceptors.append(asyncio.create_task(self._accept(site, listener), name=f"accept {site}"))

    def say(self, said: Availability) -> None:
        """Whether clients can be served, as of now."""
        self._said, self._said_at = said, asyncio.get_running_loop().time()

    def availability(self) -> Availability:
        """What the web probe says now."""
        return current(self._said, asyncio.get_running_loop().time() - self._said_at)

    @property
    def connections(self) -> int:
        return len(self._places)

    async def close(self) -> None:
        """Ends everything."""
        tasks = [*self._acceptors, *(place.task for place in self._places if place.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, site: Site, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:  # no descriptor is left, or the peer has gone already
                log.warning("site=%s accept: %s", site, error)
                await asyncio.sleep(ACCEPT_AGAIN)
                continue
            self._admit(site, connection, str(address[0]))

    def _admit(self, site: Site, connection: socket.socket, peer: str) -> None:
        self.counters.accepted += 1
        if self._peers[peer] >= self.per_peer:
            self.counters.crowded_out += 1
            connection.close()
            return
        if len(self._places) >= self.maximum:
            self._make_room()
        place = _Place(peer, Exchange(asyncio.get_running_loop().time(), self.patience))
        self._places[place] = None
        self._peers[peer] += 1
        place.task = asyncio.create_task(self._serve(site, connection, place))
        place.task.add_done_callback(lambda _task: self._leave(place, connection))

    def _make_room(self) -> None:
        """Ends the oldest connection whose request is not complete, or the oldest of all."""
        oldest = next((place for place in self._places if not place.exchange.complete), next(iter(self._places)))
        self.counters.evicted += 1
        self._forget(oldest)
        if oldest.task is not None:
            oldest.task.cancel()

    def _leave(self, place: _Place, connection: socket.socket) -> None:
        self._forget(place)
        connection.close()

    def _forget(self, place: _Place) -> None:
        if place not in self._places:
            return
        del self._places[place]
        self._peers[place.peer] -= 1
        if not self._peers[place.peer]:
            del self._peers[place.peer]

    async def _serve(self, site: Site, connection: socket.socket, place: _Place) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_READ)
        protocol = asyncio.StreamReaderProtocol(reader)
        exchange = place.exchange
        transport: asyncio.WriteTransport | None = None
        try:
            async with asyncio.timeout_at(exchange.deadline):
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol,
                    connection,
                    ssl=self.context if site is Site.NLS else None,
                    ssl_handshake_timeout=self.patience if site is Site.NLS else None,
                )
                while not exchange.complete:
                    data = await reader.read(_READ)
                    exchange.receive(data)
                    if not data and not exchange.complete:
                        self.counters.ended_early += 1
                        return
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            writer.write(self._answer(site, exchange))
            async with asyncio.timeout(LINGER):
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except TimeoutError:
            self.counters.timed_out += 1
        except ssl.SSLError:
            self.counters.tls_failed += 1
        except OSError:
            self.counters.ended_early += 1
        finally:
            if transport is not None:
                with contextlib.suppress(Exception):
                    transport.abort()

    def _answer(self, site: Site, exchange: Exchange) -> bytes:
        date = formatdate(usegmt=True)
        if exchange.request is None:
            assert exchange.refusal is not None
            self.counters.refused += 1
            return exchange.answer(exchange.refusal, date)
        self.counters.answered += 1
        return exchange.answer(page(site, exchange.request, self.availability()), date)
