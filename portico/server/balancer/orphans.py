"""Connections of a dead server: their clients are made to notice at once.

A client that sends gets a reset from its new server's kernel, which knows nothing of the connection. One that is idle
says nothing, so it is asked: a bare acknowledgement with a sequence number out of its window, from the address it
talked to, makes it acknowledge (RFC 9293 section 3.10.7.4), and that gets the reset, with numbers that fit. A NAT
router that watches sequence numbers drops the question; its idle clients notice by their own keep-alives.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from portico.cluster.holdings import Holding, Outer
from portico.errors import NotPermitted, PorticoError, Unavailable
from portico.server.balancer.resets import Resets, segment

Address = IPv4Address | IPv6Address

LIMIT = 50_000
"""Connections waiting to be asked about."""
BATCH = 250
INTERVAL = 0.02
"""Seconds between batches: 12,500 questions a second, of 54 bytes."""
PATIENCE = 3.0
"""Seconds after which a bucket that nobody gave us is somebody else's."""

_ACK = 0x10


def question(outer: Outer) -> bytes:
    """The IP packet that makes the client of a connection acknowledge. Pure.

    Sequence and acknowledgement number 0: in nobody's window but by a chance of one in 65,536 (64 KiB of 4 GiB), where
    it means nothing either.
    """
    return segment(outer, 0, 0, _ACK)


@dataclass
class Counters:
    asked: int = 0
    """Questions sent."""
    not_ours: int = 0
    """Connections whose bucket another server got."""
    dropped: int = 0
    """Not asked about: too many waited."""
    failed: int = 0
    """The kernel did not take the packet."""


class Orphans:
    """What has to be asked about, in order, a bounded number at a time. Sans-IO."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.resets = Resets(LIMIT)
        self._waiting: deque[tuple[Outer, float]] = deque()
        self._elsewhere: deque[tuple[Outer, float]] = deque()
        """Whose bucket was another server's when last looked at."""

    def add(self, holdings: Iterable[Holding], vips: Iterable[Address], now: float) -> None:
        """Connections of a server that died.

        Args:
            vips: the entrance's addresses: a server knows who dialled, but not always which of them.
        """
        entrances = tuple(vips)
        watched: list[Outer] = []
        for outer in {holding.outer for holding in holdings if holding.outer is not None}:
            for vip in entrances:
                if vip.version != outer.client.version:
                    continue
                if len(self) >= LIMIT:
                    self.counters.dropped += 1
                    continue
                meant = Outer(outer.client, outer.client_port, vip, outer.vip_port)
                watched.append(meant)
                self._waiting.append((meant, now + PATIENCE))
        self.resets.watch(watched, now)

    def due(self, ours: Callable[[Outer], bool], now: float) -> list[bytes]:
        """At most a batch of packets about connections whose bucket is ours. Call it again after INTERVAL.

        What belongs to somebody else is not looked at again before `moved`.
        """
        while self._elsewhere and self._elsewhere[0][1] <= now:
            self._elsewhere.popleft()
            self.counters.not_ours += 1
        packets: list[bytes] = []
        for _ in range(min(len(self._waiting), 4 * BATCH)):
            if len(packets) == BATCH:
                break
            outer, until = self._waiting.popleft()
            if ours(outer):
                packets.append(question(outer))
            elif now < until:
                self._elsewhere.append((outer, until))
            else:
                self.counters.not_ours += 1
        self.counters.asked += len(packets)
        return packets

    def moved(self) -> None:
        """Buckets have other owners."""
        self._waiting.extend(self._elsewhere)
        self._elsewhere.clear()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._elsewhere)


class RawSender:
    """Sends whole IP packets. Needs CAP_NET_RAW.

    Raises:
        NotPermitted, Unavailable: no raw socket can be had.
    """

    def __init__(self) -> None:
        try:
            self._sockets = {
                4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
                6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
            }
        except OSError as error:
            raise _failed(error) from None
        for item in self._sockets.values():
            item.setblocking(False)

    def send(self, packet: bytes) -> bool:
        """False when the kernel does not take it: the buffer is full, or there is no route."""
        version = packet[0] >> 4
        target: Address = IPv4Address(packet[16:20]) if version == 4 else IPv6Address(packet[24:40])
        try:
            self._sockets[version].sendto(packet, (str(target), 0))
        except OSError:
            return False
        return True

    def close(self) -> None:
        for item in self._sockets.values():
            item.close()


def _failed(error: OSError) -> PorticoError:
    why = error.strerror or str(error)
    if isinstance(error, PermissionError):
        return NotPermitted("Raw packets cannot be sent", why=why, resolution="It needs root (CAP_NET_RAW)")
    return Unavailable("Raw packets cannot be sent", why=why)
