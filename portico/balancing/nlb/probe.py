"""Is this address in use elsewhere? Asked before a DIP is taken.

IPv4: ARP probes (RFC 5227 section 2.1.1), with an unset sender so that nobody's cache changes. IPv6: the solicitations
of duplicate address detection (RFC 4862 section 5.4.2). `AddressProbe` is sans-IO; `address_in_use` is its shell.
"""

from __future__ import annotations

import select
import time
from ipaddress import IPv4Address

from portico.balancing.nlb import wire
from portico.balancing.nlb.mac import solicited_node_group
from portico.balancing.nlb.packet import ADDRESS_RESOLUTION, PacketSocket
from portico.balancing.nlb.plan import Address

PROBES = 3
INTERVAL = 0.3
"""Seconds between probes and after the last one. RFC 5227 waits 1 to 2 s, for hosts that are just starting; hosts that
run answer within milliseconds, and what starts later finds the address in use itself."""


class AddressProbe:
    """Probes one address.

    Attributes:
        holder: the hardware address of who has it, once somebody said so.
        done: whether it is known, or all probes went unanswered.
    """

    def __init__(self, address: Address, mac: bytes, ignored: frozenset[bytes] = frozenset()) -> None:
        """`mac` is the asking interface's own; `ignored` are those of hosts that may have the address.

        Where some may have it, probes of others count for nothing: those hosts may be asking the same just now.
        """
        self.address, self.mac = address, mac
        self._shared = bool(ignored)
        self._known = ignored | {mac}
        self.holder: bytes | None = None
        self.done = False
        self._sent = 0
        self._next = 0.0

    def poll(self, now: float) -> list[bytes]:
        """The probes that are due."""
        if self.done or (self._sent and now < self._next):
            return []
        if self._sent == PROBES:
            self.done = True
            return []
        self._sent += 1
        self._next = now + INTERVAL
        return [self._frame()]

    def next_time(self) -> float:
        """When `poll` has something to do."""
        return self._next

    def receive(self, frame: bytes) -> None:
        """Takes a frame from the interface."""
        holder = self._holder(frame)
        if holder is not None and holder not in self._known and not self.done:
            self.holder, self.done = holder, True

    def _frame(self) -> bytes:
        if isinstance(self.address, IPv4Address):
            return wire.Arp(1, self.mac, wire.ANY_IPV4, wire.UNKNOWN, self.address).frame(wire.BROADCAST, self.mac)
        group = solicited_node_group(self.address)
        return wire.group_frame(wire.Solicitation(wire.UNSPECIFIED, group, self.address, None), self.mac)

    def _holder(self, frame: bytes) -> bytes | None:
        """Who the frame says has the address, or is about to take it too."""
        if isinstance(self.address, IPv4Address):
            arp = wire.parse_arp(frame)
            if arp is None:
                return None
            probing = arp.operation == 1 and arp.sender == wire.ANY_IPV4 and arp.target == self.address
            return arp.sender_mac if arp.sender == self.address or (probing and not self._shared) else None
        message = wire.parse_neighbour(frame)
        if message is None or message.target != self.address:
            return None
        if isinstance(message, wire.Advertisement):
            return message.link_layer or frame[6:12]
        return frame[6:12] if message.source == wire.UNSPECIFIED and not self._shared else None


def address_in_use(interface: str, address: Address, ignored: frozenset[bytes] = frozenset()) -> bytes | None:
    """The hardware address of another host on the interface's network that has the address; None when nobody answers.

    Blocks for up to a second. Needs CAP_NET_RAW. Answers with hardware addresses of `ignored` do not count.

    Raises:
        NotPermitted, Unavailable: the interface cannot be used.
    """
    listener = PacketSocket(interface, ADDRESS_RESOLUTION)
    try:
        probe = AddressProbe(address, listener.mac, ignored)
        if not isinstance(address, IPv4Address):
            listener.join_ipv6(wire.ALL_NODES)
        while not probe.done:
            now = time.monotonic()
            listener.send(probe.poll(now))
            if probe.done:
                break
            if select.select([listener], [], [], max(0.0, probe.next_time() - now))[0]:
                for frame in listener.receive():
                    probe.receive(frame)
        return probe.holder
    finally:
        listener.close()
