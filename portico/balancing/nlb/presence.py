"""The presence of a server on the network of one interface: it hears the cluster MAC, answers for the VIPs, and in IGMP
mode reports its membership.

The only part of address resolution that opens sockets and asks a clock. The agent calls `ready` when one of `sockets`
is readable, and at `next_time`.
"""

from __future__ import annotations

import random
import time
from ipaddress import IPv4Address, IPv6Address

from portico.balancing.nlb import mac
from portico.balancing.nlb.igmp import Membership
from portico.balancing.nlb.packet import ADDRESS_RESOLUTION, IGMP, PacketSocket
from portico.balancing.nlb.plan import NicPlan
from portico.balancing.nlb.responder import Responder


class Presence:
    """Open sockets of one interface. Closing them undoes everything they did to it."""

    def __init__(self, nic: NicPlan, *, kernel_answers: bool = False) -> None:
        """Opens it; in IGMP mode the first report goes out. Raises NotPermitted, Unavailable."""
        self.nic = nic
        self.responder = Responder(nic, kernel_answers=kernel_answers, router=nic.side == "internal")
        self.membership: Membership | None = None
        self.sockets = [PacketSocket(nic.interface, ADDRESS_RESOLUTION)]
        try:
            self._hear(nic)
            if nic.mode == "igmp":
                self.sockets.append(PacketSocket(nic.interface, IGMP))
                own = next((a for a in nic.dedicated if isinstance(a, IPv4Address)), IPv4Address(0))
                group = mac.igmp_group(nic.primary)
                self.membership = Membership(group, own, nic.mac, random.SystemRandom().random)
                self.sockets[1].send(self.membership.join(time.monotonic()))
        except BaseException:
            self.close()
            raise

    def ready(self) -> None:
        """Answers what waits, and sends what is due."""
        now = time.monotonic()
        for frame in self.sockets[0].receive():
            self.sockets[0].send(self.responder.receive(frame, now))
        if self.membership is not None:
            for frame in self.sockets[1].receive():
                self.membership.receive(frame, now)
            self.sockets[1].send(self.membership.poll(now))

    def next_time(self) -> float | None:
        """When `ready` has something to do without being asked, on time.monotonic(); None when there is nothing."""
        return self.membership.next_time() if self.membership is not None else None

    def announce(self) -> None:
        """Tells the network where the VIPs are."""
        self.sockets[0].send(self.responder.announce())

    def give_back(self) -> None:
        """Tells the network that the VIPs are this interface's own addresses now."""
        self.sockets[0].send(self.responder.give_back())

    def leave(self) -> None:
        """Tells a snooping switch that this server takes nothing more. The buckets must be with others by then."""
        if self.membership is not None:
            self.sockets[1].send(self.membership.leave())

    def close(self) -> None:
        for item in self.sockets:
            item.close()

    def _hear(self, nic: NicPlan) -> None:
        listener = self.sockets[0]
        if nic.acceptance == "promiscuous":
            listener.accept_mac("promiscuous")
        elif not nic.takeover:
            listener.accept_mac("unicast" if nic.mode == "unicast" else "multicast", nic.cluster_mac)
        for vip in nic.vips:
            if isinstance(vip, IPv6Address):
                # Solicitations go to this group; snooping switches pass it only to members.
                listener.join_ipv6(mac.solicited_node_group(vip))
