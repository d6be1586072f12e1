"""Slots in use stay with the server that has them when their buckets move: UDP and ESP, and clients under extended
affinity. Both filters, real packets; what was in use is asked of the kernel."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address

import pytest

from portico.balancing.nlb.bpf import FastFilter
from portico.balancing.nlb.filter import Filter, PortableFilter
from portico.balancing.nlb.hash import slot_of
from portico.balancing.nlb.plan import Address, Rule, Share

from .namespace import isolated
from .nlb_network import (
    PORT,
    SEED,
    Network,
    Server,
    Service,
    ask,
    client_socket,
    connect,
    framed,
    inside,
    network,
    owner_of,
    packet,
    sender,
    strangers,
    until,
    vip_for,
)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

FILTERS: dict[str, Callable[[], Filter]] = {"nftables": PortableFilter, "eBPF": FastFilter}
both_filters = pytest.mark.parametrize("filter_name", FILTERS)

ESP, ICMP = 50, 1
SOURCES: list[Address] = [IPv4Address(f"198.18.{n}.{n * 7 % 250 + 1}") for n in range(60)]
SOURCES += [IPv6Address(f"2001:2:0:{n:x}::{n + 1:x}") for n in range(30)]
IKE: list[Address] = [IPv4Address(f"198.19.{n}.{n * 5 % 250 + 1}") for n in range(40)]
IKE += [IPv6Address(f"2001:2:9:{n:x}::{n + 1:x}") for n in range(20)]
MOVED = frozenset(range(60))


def slots(sources: Iterable[Address]) -> set[int]:
    return {slot_of(source, 0, "single", SEED) for source in sources}


def move(servers: list[Server], *, lingering: bool = True) -> frozenset[int]:
    """Everything of the first server to the second, but what is in use; as two agents would do it."""
    first, second = servers
    held = first.filter.busy(0, lingering=lingering)
    first.own(Share(dirty=MOVED, held=held))
    second.own(Share(owned=MOVED, quiet=MOVED, held=held))
    return held


def pair(net: Network, filter_name: str, rule: Rule) -> list[Server]:
    servers = [net.add_server(FILTERS[filter_name], share, rules=(rule,)) for share in (Share.all(), Share())]
    for server in servers:
        Service(server.host, server.number)
    return servers


class Esp:
    """What arrives of protocol 50 at a server, by source."""

    def __init__(self, server: Server) -> None:
        self.got: set[Address] = set()
        self._sockets = []
        with inside(server.host):
            for family in (socket.AF_INET, socket.AF_INET6):
                item = socket.socket(family, socket.SOCK_RAW, ESP)
                item.setblocking(False)
                self._sockets.append(item)

    def take(self) -> set[Address]:
        for item in self._sockets:
            while True:
                try:
                    _, peer = item.recvfrom(2048)
                except BlockingIOError:
                    break
                make = IPv4Address if item.family == socket.AF_INET else IPv6Address
                self.got.add(make(peer[0]))
        return self.got


@both_filters
@isolated
def test_udp_and_esp_of_a_living_server_stay_when_buckets_move(filter_name: str) -> None:
    with network() as net:
        servers = pair(net, filter_name, Rule())
        arrived = [Esp(server) for server in servers]
        mac, cluster = net.mac(net.client), servers[0].nic.cluster_mac

        def send(sources: list[Address], protocol: int) -> None:
            with sender(net.client) as out:
                for source in sources:
                    out(framed(mac, cluster, packet(source, vip_for(source), protocol, bytes(40))))

        sessions = [client_socket(net.client, source, socket.SOCK_DGRAM) for source in SOURCES]
        for session, source in zip(sessions, SOURCES, strict=True):
            session.connect((str(vip_for(source)), PORT))
            assert ask(session) == 1
        send(IKE, ESP)
        until("the first server to have all ESP", lambda: arrived[0].take() == set(IKE))
        pinging = [source for source, _ in strangers(4, 50, 8)]
        accepted = servers[0].filter.counters()["eth0"].accepted
        send(pinging, ICMP)
        until("the pings' arrival", lambda: servers[0].filter.counters()["eth0"].accepted >= accepted + 50)
        _, connection = connect(net.client, SOURCES[0])

        held = move(servers)
        assert held == slots(SOURCES) | slots(IKE), "neither pings nor TCP make a slot one in use"

        assert [ask(session) for session in sessions] == [1] * len(sessions), "a UDP session changed its server"
        for item in arrived:
            item.got.clear()
        fresh = [s for version in (4, 6) for s, _ in strangers(version, 60, 9) if not slots([s]) & held]
        send([*IKE, *fresh], ESP)
        until("all ESP", lambda: sum(len(item.take()) for item in arrived) >= len(IKE) + len(fresh))
        assert arrived[0].got == set(IKE) and arrived[1].got == set(fresh), "each packet at exactly one server"
        assert ask(connection) == 1, "TCP stays by its socket"
        assert connect(net.client, SOURCES[0])[0] == 2, "and begins at the new owner, whatever slot it is in"

        # Idle: the former owner lets go of them first, then the new one takes them.
        servers[0].own(Share(dirty=MOVED))
        servers[1].own(Share(owned=MOVED, quiet=MOVED))
        assert [ask(session) for session in sessions] == [2] * len(sessions)
        assert servers[1].filter.busy(0) >= slots(SOURCES), "where they are in use now"


@both_filters
@isolated
def test_extended_affinity_brings_clients_back_to_the_server_they_had(filter_name: str) -> None:
    with network() as net:
        servers = pair(net, filter_name, Rule(linger=2.0))
        for source in SOURCES:
            answer, connection = connect(net.client, source)
            assert answer == 1
            connection.close()
        held = move(servers)
        assert held <= slots(SOURCES), "nobody else was here"
        mine = [source for source in SOURCES if slots([source]) <= held]
        for source in mine[:10]:
            answer, connection = connect(net.client, source)
            assert answer == 1, "a client that left comes back to its server"
            connection.close()
        fresh = [source for source, _ in strangers(4, 60, 9) if not slots([source]) & held][:20]
        for source in fresh:
            answer, connection = connect(net.client, source)
            assert answer == 2, "who was not here begins at the new owner"
            connection.close()
        until("its end", lambda: not servers[0].filter.busy(0))
        move(servers)
        for source in mine[:10]:
            answer, connection = connect(net.client, source)
            assert answer == 2, "too long ago"
            connection.close()
        owner = owner_of([servers[1]], SOURCES[0])
        assert owner == 2 and servers[1].filter.busy(0, lingering=False) == frozenset(), "a drain keeps sessions only"
