"""Membership of the group whose Ethernet address is the cluster MAC of IGMP mode. Sans-IO: frames and `now` in, frames
and the next time out.

Reports are IGMPv2 (RFC 2236), sent on the server's own clock, and never left out because another server has just
reported: a switch learns the port of each report, and each server needs its own. The kernel's own membership follows
the rules for hosts, where one report speaks for all of them, so it is not used.

IPv6 needs nothing here. The cluster MAC of IGMP mode is an IPv4 group's, whatever VIP the frames are for, and switches
that prune by MAC learn it from these reports. Neighbour solicitations go to groups of their own, which the kernel
reports (MLD) because `Presence` joins them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address

from portico.balancing.nlb.wire import IPV4, checksum, ethernet

REPORT_INTERVAL = 60.0
"""Seconds between reports without being asked, as Windows does. Switches forget a port after 260 s (RFC 2236 section
8.4)."""

UNSOLICITED_INTERVAL = 10.0
"""The first report is repeated once after this (RFC 2236 section 8.10): it may be lost."""

ALL_HOSTS = IPv4Address("224.0.0.1")
ALL_ROUTERS = IPv4Address("224.0.0.2")

_QUERY, _REPORT, _LEAVE = 0x11, 0x16, 0x17
_ROUTER_ALERT = b"\x94\x04\x00\x00"


class Membership:
    """One server's membership on one interface.

    `jitter` gives a number from 0 to 1: answers to a query are spread over the time the querier allows.
    """

    def __init__(self, group: IPv4Address, source: IPv4Address, mac: bytes, jitter: Callable[[], float]) -> None:
        """`source` is the interface's own IPv4 address, 0.0.0.0 when it has none (RFC 4541 section 2.1.1, 3)."""
        self.group, self.source, self.mac = group, source, mac
        self.reports = 0
        self._jitter = jitter
        self._joined = False
        self._next: float | None = None

    def join(self, now: float) -> list[bytes]:
        """Starts; returns the first report."""
        self._joined = True
        self._next = now + UNSOLICITED_INTERVAL
        return [self._report()]

    def receive(self, frame: bytes, now: float) -> None:
        """Takes a frame from the interface; a query brings the next report forward."""
        allowed = self._query(frame) if self._joined else None
        if allowed is not None:
            assert self._next is not None
            self._next = min(self._next, now + allowed * self._jitter())

    def next_time(self) -> float | None:
        """When `poll` has something to do; None after leaving."""
        return self._next

    def poll(self, now: float) -> list[bytes]:
        """The reports that are due."""
        if self._next is None or now < self._next:
            return []
        self._next = now + REPORT_INTERVAL
        return [self._report()]

    def leave(self) -> list[bytes]:
        """Ends it; returns the leave message. The buckets must be with others by then."""
        if not self._joined:
            return []
        self._joined, self._next = False, None
        return [self._frame(_LEAVE, ALL_ROUTERS)]

    def _query(self, frame: bytes) -> float | None:
        """The seconds a query allows for the answer; None when the frame is no query about this group."""
        if len(frame) < 34 or frame[12:14] != b"\x08\x00" or frame[14] >> 4 != 4 or frame[23] != 2:
            return None
        head, total = (frame[14] & 0xF) * 4, int.from_bytes(frame[16:18], "big")
        message = frame[14 + head : 14 + total]
        if head < 20 or len(message) < 8 or message[0] != _QUERY or checksum(message) != 0:
            return None
        if message[4:8] not in (bytes(4), self.group.packed):
            return None
        if message[1] == 0:
            return UNSOLICITED_INTERVAL  # IGMPv1 says no time
        if len(message) >= 12 and message[1] >= 128:  # IGMPv3: a floating-point code (RFC 3376 section 4.1.1)
            return float(((message[1] & 0xF) | 0x10) << ((message[1] >> 4 & 7) + 3)) / 10
        return message[1] / 10

    def _report(self) -> bytes:
        self.reports += 1
        return self._frame(_REPORT, self.group)

    def _frame(self, kind: int, destination: IPv4Address) -> bytes:
        message = struct.pack("!BBH", kind, 0, 0) + self.group.packed
        message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
        head = struct.pack("!BBHHHBBH4s4s", 0x46, 0xC0, 32, 0, 0x4000, 1, 2, 0, self.source.packed, destination.packed)
        head += _ROUTER_ALERT
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        ethernet_group = b"\x01\x00\x5e" + bytes([destination.packed[1] & 0x7F]) + destination.packed[2:]
        return ethernet(ethernet_group, self.mac, IPV4, head + message)
