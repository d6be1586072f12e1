"""Answers for the VIPs of one interface: ARP and neighbour discovery. Sans-IO: frames and `now` in, frames out.

Every server answers every question with the same content, so it does not matter whose answer is last: the body names
the cluster MAC, only the Ethernet source differs. The kernel itself stays silent about VIPs, because they are on the
loopback device (IPv4: arp_ignore).

When the kernel's eBPF program answers, what is left is what it leaves: duplicate address detection, solicitations
without a link-layer address, and strangers who claim a VIP.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from portico.balancing.nlb import wire
from portico.balancing.nlb.plan import Address, NicPlan

DEFEND_INTERVAL = 10.0
"""Seconds between two defences of an address (RFC 5227 section 2.4): two that defend against each other must not
flood."""

_MAX_EVENTS = 64

_WITH_ONE_OPTION = b"\x00\x20"
"""The payload length of the only solicitations that the program in the kernel takes: with nothing but the address."""


@dataclass(frozen=True)
class AddressConflict:
    """A stranger claimed a VIP."""

    address: Address
    mac: bytes


class Responder:
    """What one interface answers.

    Attributes:
        answered: answers given. Bounded events are in `conflicts`; the oldest go first.
    """

    def __init__(self, nic: NicPlan, *, kernel_answers: bool = False, router: bool = False) -> None:
        """`router`: whether routes lead to the VIPs of this interface, which advertisements then say (the R flag)."""
        self.nic = nic
        self.kernel_answers = kernel_answers
        self.router = router
        self.answered = 0
        self.conflicts: deque[AddressConflict] = deque(maxlen=_MAX_EVENTS)
        self._cluster_mac, self._source = nic.cluster_mac, nic.source_mac
        self._vips = frozenset(nic.vips)
        self._defended: dict[Address, float] = {}

    def receive(self, frame: bytes, now: float) -> list[bytes]:
        """The frames that answer one that the interface received. `now` in seconds of any steady clock."""
        arp = wire.parse_arp(frame)
        if arp is not None:
            return self._arp(arp, now)
        message = wire.parse_neighbour(frame)
        if isinstance(message, wire.Solicitation):
            return self._solicitation(message, frame)
        if isinstance(message, wire.Advertisement):
            stranger = message.link_layer or frame[6:12]
            if message.target in self._vips and stranger != self._cluster_mac:
                return self._claimed(message.target, stranger, now)
        return []

    def announce(self) -> list[bytes]:
        """Frames that tell everybody on the network at once: after the cluster MAC has changed, or the VIPs came."""
        return [self._announcement(vip) for vip in self.nic.vips]

    def give_back(self) -> list[bytes]:
        """Frames that tell everybody that the VIPs are this interface's own addresses now: neighbours would go on
        sending to the cluster MAC, which nobody hears any more."""
        own = self.nic.mac
        return [
            wire.Arp(1, own, vip, wire.UNKNOWN, vip).frame(wire.BROADCAST, own)
            if isinstance(vip, IPv4Address)
            else wire.group_frame(wire.Advertisement(vip, wire.ALL_NODES, vip, own, router=self.router), own)
            for vip in self.nic.vips
        ]

    def _arp(self, arp: wire.Arp, now: float) -> list[bytes]:
        if arp.sender in self._vips:
            # Our own and the other servers' answers and announcements come by here too.
            return [] if arp.sender_mac == self._cluster_mac else self._claimed(arp.sender, arp.sender_mac, now)
        if arp.operation != 1 or arp.target not in self._vips or self.kernel_answers:
            return []
        self.answered += 1
        answer = wire.Arp(2, self._cluster_mac, arp.target, arp.sender_mac, arp.sender)
        return [answer.frame(arp.sender_mac, self._source)]

    def _solicitation(self, message: wire.Solicitation, frame: bytes) -> list[bytes]:
        if message.target not in self._vips or message.source in self._vips:
            return []
        if message.source == wire.UNSPECIFIED:
            # Somebody is about to take the address; telling all nodes is how they learn that it is taken.
            self.answered += 1
            return [self._advertise(message.target)]
        if self.kernel_answers and message.link_layer is not None and frame[18:20] == _WITH_ONE_OPTION:
            return []
        self.answered += 1
        answer = wire.Advertisement(
            message.target, message.source, message.target, self._cluster_mac, router=self.router, solicited=True
        )
        return [answer.frame(message.link_layer or frame[6:12], self._source)]

    def _claimed(self, address: Address, stranger: bytes, now: float) -> list[bytes]:
        self.conflicts.append(AddressConflict(address, stranger))
        last = self._defended.get(address)
        if last is not None and now - last < DEFEND_INTERVAL:
            return []
        self._defended[address] = now
        return [self._announcement(address)]

    def _announcement(self, vip: Address) -> bytes:
        if isinstance(vip, IPv4Address):
            announcement = wire.Arp(1, self._cluster_mac, vip, wire.UNKNOWN, vip)
            return announcement.frame(wire.BROADCAST, self._source)
        return self._advertise(vip)

    def _advertise(self, vip: IPv6Address) -> bytes:
        message = wire.Advertisement(vip, wire.ALL_NODES, vip, self._cluster_mac, router=self.router)
        return wire.group_frame(message, self._source)
