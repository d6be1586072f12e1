"""Which server takes a packet: real packets through a switch to three servers, for both filters."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

import pytest

from portico.balancing.nlb.bpf import FastFilter
from portico.balancing.nlb.filter import Filter, PortableFilter
from portico.balancing.nlb.plan import Affinity, Mode, Rule

from .namespace import isolated
from .nlb_network import (
    PORT,
    Service,
    connect,
    deliver,
    framed,
    network,
    owner_of,
    packet,
    sender,
    spread,
    strangers,
    thirds,
    udp,
    vip_for,
)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

FILTERS: dict[str, Callable[[], Filter]] = {"nftables": PortableFilter, "eBPF": FastFilter}
CASES: list[tuple[Mode, bool, Affinity]] = [
    ("unicast", False, "single"),
    ("unicast", True, "single"),
    ("multicast", False, "single"),
    ("igmp", False, "single"),
    ("unicast", False, "none"),
    ("unicast", False, "network"),
]


@pytest.mark.parametrize("filter_name", FILTERS)
@pytest.mark.parametrize(("mode", "takeover", "affinity"), CASES)
@isolated
def test_every_packet_is_accepted_by_exactly_one_server(
    filter_name: str, mode: Mode, takeover: bool, affinity: Affinity
) -> None:
    rules = (Rule(affinity=affinity),)
    with network() as net:
        servers = [
            net.add_server(FILTERS[filter_name], share, mode=mode, takeover=takeover, rules=rules) for share in thirds()
        ]
        services = [Service(server.host, server.number) for server in servers]
        client_mac, cluster_mac = net.mac(net.client), servers[0].nic.cluster_mac
        for version in (4, 6):
            clients = strangers(version, 10_000, 1)
            frames = []
            for source, port in clients:
                vip = vip_for(source)
                datagram = udp(source, vip, port, PORT, b"x")
                frames.append(framed(client_mac, cluster_mac, packet(source, vip, 17, datagram)))
            with sender(net.client) as send:
                deliver(send, frames, lambda: sum(len(service.seen) for service in services))
            got = Counter(item for service in services for item in service.seen)
            assert got == Counter(clients), "a packet reached nobody, or two servers"
            wrong = [
                (service.number, source, port)
                for service in services
                for source, port in service.seen
                if owner_of(servers, source, port) != service.number
            ]
            assert not wrong, f"not where user space says: {wrong[:5]}"
            spread(servers, Counter({s.number: len(s.seen) for s in services}), len(clients))
            for server in servers:
                counters = server.filter.counters()["eth0"]
                assert counters.seen == counters.accepted + counters.foreign
            for service in services:
                service.seen.clear()
            # Address resolution and answers: connections from some of them.
            for source, _ in clients[:30]:
                answer, connection = connect(net.client, source)
                assert answer == owner_of(servers, source, connection.getsockname()[1])
                connection.close()
