"""What happens to flows when buckets move, agents stall, and packets come that have no ports: both filters."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from portico.balancing.nlb import wire
from portico.balancing.nlb.bpf import FastFilter
from portico.balancing.nlb.filter import Filter, PortableFilter
from portico.balancing.nlb.hash import busy_slots, slot_of
from portico.balancing.nlb.plan import Address, Affinity, Owned, Rule, Share

from .namespace import isolated
from .nlb_network import (
    PORT,
    SEED,
    VIP4,
    Network,
    Server,
    Service,
    Sniffer,
    ask,
    client_socket,
    connect,
    framed,
    inside,
    ipv4_packet,
    network,
    owner_of,
    packet,
    sender,
    strangers,
    thirds,
    udp,
    until,
    vip_for,
)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

FILTERS: dict[str, Callable[[], Filter]] = {"nftables": PortableFilter, "eBPF": FastFilter}
both_filters = pytest.mark.parametrize("filter_name", FILTERS)

SOURCES: list[Address] = [IPv4Address(f"198.18.{n}.{n * 7 % 250 + 1}") for n in range(80)]
SOURCES += [IPv6Address(f"2001:2:0:{n:x}::{n + 1:x}") for n in range(40)]


def half(first: int) -> Share:
    return Share(owned=frozenset(range(first, first + 30)))


def session(net: Network, source: Address) -> socket.socket:
    """A UDP session with the VIP."""
    item = client_socket(net.client, source, socket.SOCK_DGRAM)
    item.connect((str(vip_for(source)), PORT))
    return item


@both_filters
@isolated
def test_a_join_kills_no_flow(filter_name: str) -> None:
    with network() as net:
        make = FILTERS[filter_name]
        servers = [net.add_server(make, share) for share in (half(0), half(30), Share())]
        for server in servers:
            Service(server.host, server.number)
        flows = [connect(net.client, source) for source in SOURCES]
        assert [who for who, _ in flows] == [owner_of(servers, source) for source in SOURCES]
        sessions = [session(net, source) for source in SOURCES]
        assert [ask(item) for item in sessions] == [who for who, _ in flows]

        # The third joins and takes ten buckets of each. Those who give go first.
        taken = [frozenset(range(20, 30)), frozenset(range(50, 60))]
        sources = [(source, 0) for source in SOURCES]
        held = busy_slots(sources, taken[0] | taken[1], "single", SEED)
        for server, gone in zip(servers, taken, strict=False):
            server.own(Share(owned=server.owned.default.owned - gone, dirty=gone, held=held))
        servers[2].own(Share(owned=taken[0] | taken[1], quiet=taken[0] | taken[1], held=held))
        moved = [source for source in SOURCES if owner_of(servers, source) == 3]
        assert len(moved) > 20

        assert [ask(connection) for _, connection in flows] == [who for who, _ in flows]
        assert [ask(item) for item in sessions] == [who for who, _ in flows], "a UDP session changed its server"
        for source in moved:
            answer, connection = connect(net.client, source)
            assert answer == 3, "a new connection of a moved client goes to its new server"
            connection.close()
        fresh = [source for source, _ in strangers(4, 200, 3) if slot_of(source, 0, "single", SEED) not in held]
        for source in [source for source in fresh if owner_of(servers, source) == 3][:20]:
            assert ask(session(net, source)) == 3, "a new session in an idle slot goes to the new server"
        assert servers[0].filter.counters()["eth0"].kept > 0
        assert servers[2].filter.counters()["eth0"].hushed > 0

        # The last flow has ended: nothing is dirty or quiet any more.
        for server in servers:
            server.own(Share(owned=server.owned.default.owned))
        for source in SOURCES:
            answer, connection = connect(net.client, source)
            assert answer == owner_of(servers, source)
            connection.close()


@both_filters
@isolated
def test_flows_of_a_dead_server_are_reset_at_once(filter_name: str) -> None:
    with network() as net:
        make = FILTERS[filter_name]
        servers = [net.add_server(make, share) for share in (half(0), half(30))]
        for server in servers:
            Service(server.host, server.number)
        flows = [(source, *connect(net.client, source)) for source in SOURCES]
        servers[1].host.command("ip", "link", "set", "eth0", "down")
        servers[0].own(Share(owned=frozenset(range(60))))
        for _, who, connection in flows:
            assert ask(connection) == (1 if who == 1 else "reset")


@both_filters
@isolated
def test_a_stalled_agent_loses_its_buckets(filter_name: str) -> None:
    with network() as net:
        server = net.add_server(FILTERS[filter_name], Share.all(), lease_ms=400)
        Service(server.host, 1)
        item = session(net, SOURCES[0])
        item.settimeout(0.1)
        for _ in range(30):
            server.filter.renew()
            assert ask(item) == 1
        until("the lease's end", lambda: ask(item) == "silent")
        assert ask(item) == "silent"
        assert server.filter.counters()["eth0"].lease > 0
        server.filter.renew()
        assert ask(item) == 1
        server.filter.surrender()
        assert ask(item) == "silent"


@both_filters
@isolated
def test_icmp_errors_reach_the_server_of_the_flow(filter_name: str) -> None:
    """A router on the way, whose address hashes to another server, says that a packet was too big."""
    with network() as net:
        servers = [net.add_server(FILTERS[filter_name], share) for share in thirds()]
        for server in servers:
            Service(server.host, server.number)
            server.host.command("sysctl", "-qw", "net.ipv4.route.min_pmtu=552")
        source = IPv4Address("198.18.44.44")
        sniffer = Sniffer(net.client)
        who, connection = connect(net.client, source)
        answers = [f for f in sniffer.frames() if f[26:30] == VIP4.packed and f[30:34] == source.packed and f[23] == 6]
        sequence = int.from_bytes(answers[-1][38:42], "big") + int.from_bytes(answers[-1][16:18], "big") - 52
        router = next(
            address for n in range(1, 250) if owner_of(servers, address := IPv4Address(f"192.0.2.{n}")) != who
        )
        ports = struct.pack("!HHI", PORT, connection.getsockname()[1], sequence)
        quoted = ipv4_packet(VIP4, source, 6, ports + bytes(12))
        message = struct.pack("!BBHHH", 3, 4, 0, 0, 900) + quoted[:28]
        message = message[:2] + struct.pack("!H", wire.checksum(message)) + message[4:]
        with sender(net.client) as send:
            cluster = servers[0].nic.cluster_mac
            send(framed(net.mac(net.client), cluster, ipv4_packet(router, VIP4, 1, message)))

        def told() -> list[int]:
            text = ("ip", "route", "get", str(source), "from", str(VIP4))
            return [server.number for server in servers if "mtu 900" in server.host.command(*text)]

        until("the smaller path MTU", lambda: told() == [who])
        assert all(server.filter.counters()["eth0"].errors == 1 for server in servers)
        assert ask(connection) == who


@both_filters
@pytest.mark.parametrize("affinity", ["single", "network", "none"])
@isolated
def test_fragments_of_a_datagram_meet(filter_name: str, affinity: Affinity) -> None:
    """The second fragment has no ports, so no fragment is judged by its port."""
    with network() as net:
        servers = [net.add_server(FILTERS[filter_name], share, rules=(Rule(affinity=affinity),)) for share in thirds()]
        services = [Service(server.host, server.number) for server in servers]
        for source in SOURCES[:30] + SOURCES[-30:]:
            item = session(net, source)
            item.send(b"?" + bytes(2900))
            assert item.recv(4096)
        assert sum(len(service.seen) for service in services) == 60
        assert all(service.seen for service in services)


@both_filters
@isolated
def test_esp_and_ike_of_a_client_meet(filter_name: str) -> None:
    """IKE, ESP in UDP and plain ESP, although another rule has its buckets elsewhere."""
    with network() as net:
        rules = (
            Rule(protocols=frozenset({"tcp"}), ports=(443, 443)),
            Rule(protocols=frozenset({"udp"}), ports=(500, 4500)),
        )
        servers = [net.add_server(FILTERS[filter_name], share, rules=rules) for share in thirds()]
        for server in servers:
            ike = Share(owned=frozenset((n * 3 + server.number) % 60 for n in range(20)))
            server.owned = Owned(2, (server.owned.rules[0], ike))
            server.filter.own(server.owned)
        ports = [_Receiver(server) for server in servers]
        clients = [address for version in (4, 6) for address, _ in strangers(version, 60, 5)]
        with sender(net.client) as send:
            mac, cluster = net.mac(net.client), servers[0].nic.cluster_mac
            for source in clients:
                vip = vip_for(source)
                for port in (500, 4500):
                    send(framed(mac, cluster, packet(source, vip, 17, udp(source, vip, port, port, b"x"))))
                send(framed(mac, cluster, packet(source, vip, 50, bytes(40))))
        until("all of them", lambda: sum(len(item.take()) for item in ports) >= 3 * len(clients))
        for server, item in zip(servers, ports, strict=True):
            mine = [source for source in clients if owner_of(servers, source, rule=1) == server.number]
            assert Counter(item.got) == Counter((s, kind) for s in mine for kind in ("500", "4500", "esp"))


@both_filters
@isolated
def test_what_no_rule_covers_goes_to_the_default_host(filter_name: str) -> None:
    with network() as net:
        rules = (
            Rule(protocols=frozenset({"tcp"}), ports=(PORT, PORT)),
            Rule(protocols=frozenset({"tcp"}), ports=(PORT + 1, PORT + 1), mode="disabled"),
        )
        servers = [net.add_server(FILTERS[filter_name], share, rules=rules) for share in thirds()]
        for server, share in zip(servers, thirds(), strict=True):
            server.owned = Owned(2, (share, Share()), Share.all() if server.number == 2 else Share())
            server.filter.own(server.owned)
            Service(server.host, server.number)
            Service(server.host, server.number, PORT + 1)
        for source in SOURCES[:10] + SOURCES[-10:]:
            assert connect(net.client, source)[0] == owner_of(servers, source)
            assert ask(session(net, source)) == 2, "no rule covers UDP"
        closed = client_socket(net.client, SOURCES[0], socket.SOCK_STREAM, timeout=0.3)
        with pytest.raises(TimeoutError):
            closed.connect((str(VIP4), PORT + 1))
        shown = net.client.command("ping", "-c", "3", "-i", "0.05", "-W", "1", "-I", "198.18.9.9", str(VIP4))
        assert shown.count("bytes from") == 3, shown
        assert "DUP" not in shown


@both_filters
@isolated
def test_no_packet_is_lost_while_ownership_is_replaced(filter_name: str) -> None:
    with network() as net:
        server = net.add_server(FILTERS[filter_name], Share.all())
        service = Service(server.host, 1)
        source = IPv4Address("198.18.1.1")
        frame = framed(
            net.mac(net.client), server.nic.cluster_mac, packet(source, VIP4, 17, udp(source, VIP4, 999, PORT, b"x"))
        )
        bucket = slot_of(source, 0, "single", SEED) // 64
        shares = [Share(owned=frozenset(range(60)), quiet=frozenset(range(n, 60, n + 2)) - {bucket}) for n in range(10)]
        with sender(net.client) as send:
            for n in range(2000):
                send(frame)
                if n % 4 == 0:
                    server.own(shares[n % len(shares)])
        until("every packet's arrival", lambda: len(service.seen) >= 2000)


class _Receiver:
    """Takes IKE, ESP in UDP and ESP on a server."""

    def __init__(self, server: Server) -> None:
        self.got: list[tuple[Address, str]] = []
        self._sockets: list[tuple[socket.socket, str]] = []
        for family, anything in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            with inside(server.host):
                for port in (500, 4500):
                    item = socket.socket(family, socket.SOCK_DGRAM)
                    if family == socket.AF_INET6:
                        item.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    item.bind((anything, port))
                    self._sockets.append((item, str(port)))
                self._sockets.append((socket.socket(family, socket.SOCK_RAW, 50), "esp"))
        for item, _ in self._sockets:
            item.setblocking(False)

    def take(self) -> list[tuple[Address, str]]:
        for item, kind in self._sockets:
            while True:
                try:
                    text = re.sub("%.*", "", item.recvfrom(2048)[1][0])
                except BlockingIOError:
                    break
                address: Address = IPv6Address(text) if ":" in text else IPv4Address(text)
                self.got.append((address, kind))
        return self.got
