"""The presence of a server on the network of one interface: it hears the cluster MAC, and answers for the VIPs.

The only part of address resolution that opens sockets and asks a clock. Driven by its descriptor: the agent calls
`ready` when it is readable.
"""

from __future__ import annotations

import time
from ipaddress import IPv6Address

from portico.balancing.nlb import mac
from portico.balancing.nlb.packet import ADDRESS_RESOLUTION, PacketSocket
from portico.balancing.nlb.plan import NicPlan
from portico.balancing.nlb.responder import Responder


class Presence:
    """Open sockets of one interface. Closing them undoes everything they did to it."""

    def __init__(self, nic: NicPlan, *, kernel_answers: bool = False) -> None:
        """Opens it. Raises NotPermitted, Unavailable."""
        self.nic = nic
        self.responder = Responder(nic, kernel_answers=kernel_answers, router=nic.side == "internal")
        self.socket = PacketSocket(nic.interface, ADDRESS_RESOLUTION)
        try:
            if nic.acceptance == "promiscuous":
                self.socket.accept_mac("promiscuous")
            elif not nic.takeover:
                self.socket.accept_mac("unicast" if nic.mode == "unicast" else "multicast", nic.cluster_mac)
            for vip in nic.vips:
                if isinstance(vip, IPv6Address):
                    # Solicitations go to this group; snooping switches pass it only to members.
                    self.socket.join_ipv6(mac.solicited_node_group(vip))
        except BaseException:
            self.socket.close()
            raise

    def fileno(self) -> int:
        return self.socket.fileno()

    def ready(self) -> None:
        """Answers what waits."""
        now = time.monotonic()
        for frame in self.socket.receive():
            self.socket.send(self.responder.receive(frame, now))

    def announce(self) -> None:
        """Tells the network where the VIPs are."""
        self.socket.send(self.responder.announce())

    def close(self) -> None:
        self.socket.close()
