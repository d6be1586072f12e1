"""A flood of segments of connections that nobody knows makes no flood of resets."""

from __future__ import annotations

import os
import random
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest

from portico.balancing.nlb import wire
from portico.balancing.nlb.filter import PortableFilter
from portico.balancing.nlb.nft import open_nftables
from portico.balancing.nlb.plan import Address, Share
from portico.balancing.nlb.reset_limit import BURST, RATE, TABLE, ResetLimit

from .namespace import isolated
from .nlb_network import VIP4, VIP6, framed, inside, network, packet, sender, until, vip_for

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


def orphan(source: Address, port: int) -> bytes:
    """A bare acknowledgement of a connection that nobody has."""
    vip = vip_for(source)
    head = struct.pack("!HHIIBBHHH", port, 9, 1, 1, 5 << 4, 0x10, 1024, 0, 0)
    pseudo = source.packed + vip.packed + struct.pack("!II", len(head), 6)
    return packet(source, vip, 6, head[:16] + struct.pack("!H", wire.checksum(pseudo + head)) + head[18:])


@isolated
def test_a_flood_of_orphaned_segments_makes_no_flood_of_resets() -> None:
    with network() as net:
        server = net.add_server(PortableFilter, Share.all())
        with inside(server.host):
            limit = ResetLimit()
            limit.install((VIP4, VIP6))
            nft = open_nftables()
        client_mac, cluster_mac = net.mac(net.client), server.nic.cluster_mac
        rng = random.Random(1)
        sources: list[Address] = [IPv4Address("198.18.7.7"), IPv6Address("2001:2::7")]
        frames = [
            framed(client_mac, cluster_mac, orphan(source, port)) for source in sources for port in range(1024, 3024)
        ]
        with sender(net.client) as send:
            for frame in frames[:10]:
                send(frame)
            until("a reset for each", lambda: limit.counters() == {"sent": 10, "limited": 0})
            # The limit in force is that of every server; here it is one that any machine exceeds.
            text = nft.run(f"list table inet {TABLE}")
            assert f"limit rate over {RATE}/second burst {BURST} packets" in text
            nft.run(f"flush chain inet {TABLE} bounded\n")
            nft.run(
                f"add rule inet {TABLE} bounded limit rate over 1/hour burst 50 packets counter name limited drop\n"
                f"add rule inet {TABLE} bounded counter name sent accept\n"
            )
            rng.shuffle(frames)
            for frame in frames[:500]:
                send(frame)
            until("all to be counted", lambda: sum(limit.counters().values()) == 510)
        assert limit.counters()["sent"] in range(60, 63), "the burst, and no more"
        nft.run(f"delete table inet {TABLE}\n")
        assert not limit.keep() and limit.keep()
        limit.remove()
        assert TABLE not in server.host.command("nft", "list", "tables")
