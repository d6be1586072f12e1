"""What the network around the servers sees: switches, bystanders, strangers and routers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Network

import pytest

from portico.balancing.nlb import mac, wire
from portico.balancing.nlb.bpf import FastFilter
from portico.balancing.nlb.filter import Filter, PortableFilter
from portico.balancing.nlb.igmp import Membership
from portico.balancing.nlb.plan import BalancingPlan, Mode, NicPlan, Owned, Rule, Share
from portico.balancing.nlb.probe import address_in_use
from portico.server.balancer.takeover import HardwareAddresses, permanent_mac

from .namespace import command, isolated
from .nlb_network import (
    PORT,
    SEED,
    VIP4,
    VIP6,
    Network,
    Server,
    Service,
    Sniffer,
    connect,
    framed,
    inside,
    ipv6_packet,
    network,
    owner_of,
    sender,
    strangers,
    thirds,
    udp,
    until,
)

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

FILTERS: dict[str, Callable[[], Filter]] = {"nftables": PortableFilter, "eBPF": FastFilter}
both_filters = pytest.mark.parametrize("filter_name", FILTERS)


def serve(net: Network, filter_name: str, mode: Mode, *, takeover: bool = False) -> list[Server]:
    servers = [net.add_server(FILTERS[filter_name], share, mode=mode, takeover=takeover) for share in thirds()]
    for server in servers:
        Service(server.host, server.number)
    return servers


def connections(net: Network, servers: list[Server], count: int = 30) -> list[bool]:
    """Whether clients reach their server, IPv4 and IPv6."""
    good = []
    for version in (4, 6):
        for source, _ in strangers(version, count, 2):
            answer, connection = connect(net.client, source)
            good.append(answer == owner_of(servers, source))
            connection.close()
    return good


@both_filters
@pytest.mark.parametrize("takeover", [False, True])
@isolated
def test_the_switch_learns_nothing_in_unicast(filter_name: str, takeover: bool) -> None:
    with network() as net:
        servers = serve(net, filter_name, "unicast", takeover=takeover)
        assert all(connections(net, servers))
        for server in servers:
            server.presence.announce()
        assert all(connections(net, servers, 5))
        learned = net.learned()
        assert mac.text(servers[0].nic.cluster_mac) not in learned
        assert {mac.text(server.nic.source_mac) for server in servers} <= learned
        before = {server.number: server.filter.counters()["eth0"].seen for server in servers}
        assert len(set(before.values())) == 1, f"all servers see the same frames: {before}"


@both_filters
@isolated
def test_a_router_among_the_servers_passes_nothing_on(filter_name: str) -> None:
    """In takeover all servers have one hardware address, and all of them route."""
    with network() as net:
        servers = serve(net, filter_name, "unicast", takeover=True)
        for server in servers:
            server.host.command("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for address in ("203.0.113.11", "2001:db8:113::12"):
            shown = net.client.command("ping", "-c", "3", "-i", "0.1", "-W", "1", address)
            assert shown.count("bytes from") == 3, shown
            assert "DUP" not in shown
            assert "Redirect" not in shown
        assert any(server.filter.counters()["eth0"].stray for server in servers)


SNOOPING = """
table bridge snooping {{
  set members {{ type ifname; flags timeout; }}
  chain learn {{
    type filter hook prerouting priority 0;
    ip protocol igmp @th,0,8 0x16 @th,32,32 {group} update @members {{ iifname timeout 260s }}
    ip protocol igmp @th,0,8 0x17 @th,32,32 {group} delete @members {{ iifname }}
  }}
  chain forward {{
    type filter hook forward priority 0;
    ether daddr {cluster} oifname != @members drop
  }}
}}
"""
"""A switch that prunes by hardware address: it passes the cluster MAC only to ports that reported the group."""


@both_filters
@isolated
def test_a_non_member_port_sees_no_igmp_frame(filter_name: str) -> None:
    with network() as net:
        servers = serve(net, filter_name, "igmp")
        group, cluster = mac.igmp_group(VIP4), servers[0].nic.cluster_mac
        command("nft", SNOOPING.format(group=f"{int(group):#x}", cluster=mac.text(cluster)))
        assert not any(connections(net, servers, 2)), "nobody is a member yet"
        memberships = []
        for server in servers:
            own = IPv4Address(f"203.0.113.{10 + server.number}")
            memberships.append(Membership(group, own, server.nic.mac, lambda: 0.5))
            server.presence.sockets[0].send(memberships[-1].join(0.0))
        until("the switch's learning", lambda: command("nft", "list set bridge snooping members").count("expires") == 3)
        sniffer, members = Sniffer(net.bystander), [Sniffer(server.host) for server in servers]
        assert all(connections(net, servers))
        assert not [frame for frame in sniffer.frames() if frame[:6] == cluster]
        assert all(any(frame[:6] == cluster for frame in member.frames()) for member in members)
        # A server that leaves is pruned at once.
        servers[2].presence.sockets[0].send(memberships[2].leave())
        until("the switch's learning", lambda: command("nft", "list set bridge snooping members").count("expires") == 2)
        members[2].frames()
        connections(net, servers, 3)
        assert not [frame for frame in members[2].frames() if frame[:6] == cluster]


@isolated
def test_tshark_reads_the_reports() -> None:
    """The dissector is somebody else's opinion of the frames."""
    with network() as net:
        host = net.server_host(1)
        membership = Membership(IPv4Address("239.255.113.10"), IPv4Address("203.0.113.11"), net.mac(host), lambda: 0.0)
        capture = net.bystander.popen(
            *("tshark", "-l", "-i", "eth0", "-f", "igmp", "-c", "2", "-T", "fields"),
            *("-e", "igmp.type", "-e", "igmp.maddr", "-e", "igmp.checksum.status", "-e", "ip.opt.ra", "-e", "ip.dst"),
        )
        assert capture.stdout is not None
        end = time.monotonic() + 20.0
        with sender(host) as send:
            while capture.poll() is None and time.monotonic() < end:
                for frame in (*membership.join(0.0), *membership.leave()):
                    send(frame)
                time.sleep(0.3)
        lines = capture.stdout.read().decode().split()
        assert lines[:5] == ["0x16", "239.255.113.10", "1", "0", "239.255.113.10"]
        assert lines[5:] == ["0x17", "239.255.113.10", "1", "0", "224.0.0.2"]


@both_filters
@isolated
def test_a_stranger_cannot_take_the_vip(filter_name: str) -> None:
    with network() as net:
        servers = serve(net, filter_name, "unicast")
        cluster = servers[0].nic.cluster_mac
        net.bystander.command("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=1")
        net.bystander.command("ip", "-6", "addr", "add", f"{VIP6}/64", "dev", "eth0")
        until(
            "duplicate address detection",
            lambda: "dadfailed" in net.bystander.command("ip", "-6", "addr", "show", "dev", "eth0"),
        )
        net.bystander.command("ip", "-6", "addr", "del", f"{VIP6}/64", "dev", "eth0")
        with inside(net.bystander):
            assert address_in_use("eth0", VIP4) == cluster, "who asks before taking it (RFC 5227) is told"
            assert address_in_use("eth0", VIP6) == cluster
        # One that does not ask: the router believes it for as long as it takes us to contradict.
        stranger = net.mac(net.bystander)
        assert all(connections(net, servers, 2))
        with sender(net.bystander) as send:
            send(wire.Arp(1, stranger, VIP4, wire.UNKNOWN, VIP4).frame(wire.BROADCAST, stranger))
            claim = wire.Advertisement(VIP6, wire.ALL_NODES, VIP6, stranger)
            send(wire.group_frame(claim, stranger))
        for vip in (VIP4, VIP6):
            shown = ("ip", "neigh", "show", str(vip), "dev", "eth0")
            until("the defence", lambda shown=shown: mac.text(cluster) in net.client.command(*shown))  # type: ignore[misc]
        assert all(connections(net, servers, 2))
        for server in servers:
            claimed = {(conflict.address, conflict.mac) for conflict in server.presence.responder.conflicts}
            assert claimed == {(VIP4, stranger), (VIP6, stranger)}


@isolated
def test_dip_in_use_is_found() -> None:
    with network() as net:
        host = net.server_host(1)
        with inside(host):
            for address in (IPv4Address("203.0.113.200"), IPv6Address("2001:db8:113::200")):
                assert address_in_use("eth0", address) == net.mac(net.bystander)
            for free in (IPv4Address("203.0.113.99"), IPv6Address("2001:db8:113::99")):
                assert address_in_use("eth0", free) is None


@both_filters
@isolated
def test_neighbours_are_probed_and_answered(filter_name: str) -> None:
    """Unreachability detection asks by unicast, to the cluster MAC."""
    with network() as net:
        servers = serve(net, filter_name, "multicast")
        assert all(connections(net, servers, 3))
        for vip in (VIP4, VIP6):
            net.client.command("ip", "neigh", "change", str(vip), "dev", "eth0", "nud", "probe")
            shown = ("ip", "neigh", "show", str(vip), "dev", "eth0")
            until("the answer", lambda shown=shown: "REACHABLE" in net.client.command(*shown))  # type: ignore[misc]
        if filter_name == "eBPF":
            assert all(server.filter.counters()["eth0"].arp > 0 for server in servers)
            assert all(server.filter.counters()["eth0"].nd > 0 for server in servers)


CLIENTS = IPv6Network("2001:2:0:ffe0::/59")
INTRANET = IPv6Address("2001:db8:113::5")


def receivers(servers: list[Server]) -> list[Callable[[], list[str]]]:
    """What each server lets pass for clients, taken where the tunnel would be."""
    taken = []
    for server in servers:
        with inside(server.host):
            server.host.command("ip", "-6", "route", "add", "local", str(CLIENTS), "dev", "lo")
            item = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            item.setsockopt(socket.IPPROTO_IPV6, 49, 1)  # IPV6_RECVPKTINFO
            item.bind(("::", PORT))
            item.setblocking(False)
        taken.append(_taker(item))
    return taken


def _taker(item: socket.socket) -> Callable[[], list[str]]:
    """A function that returns the destinations of everything the socket has got so far."""
    got: list[str] = []

    def take() -> list[str]:
        while True:
            try:
                _, ancillary, _, _ = item.recvmsg(100, 100)
            except BlockingIOError:
                return got
            got.append(str(IPv6Address(ancillary[0][2][:16])))

    return take


@both_filters
@isolated
def test_intranet_packets_reach_the_server_that_holds_the_client(filter_name: str) -> None:
    """Clients keep their addresses wherever they are: the set of held clients decides, not a hash."""
    with network() as net:
        servers = [
            net.add_server(FILTERS[filter_name], share, side="internal", client_prefix=CLIENTS, lease_ms=60_000)
            for share in thirds()
        ]
        addresses = [CLIENTS.network_address + (n << 64) + 0xABC + n for n in range(30)]
        took = receivers(servers)
        for server in servers:
            server.filter.change_clients(add=addresses[server.number - 1 :: 3])
        client, cluster = net.mac(net.client), servers[0].nic.cluster_mac

        def ask_all() -> None:
            with sender(net.client) as send:
                for address in addresses:
                    datagram = udp(INTRANET, address, 1234, PORT, b"x")
                    send(framed(client, cluster, ipv6_packet(INTRANET, address, 17, datagram)))

        ask_all()
        until("all packets", lambda: sum(len(take()) for take in took) >= 30)
        for server, take in zip(servers, took, strict=True):
            assert sorted(take()) == sorted(map(str, addresses[server.number - 1 :: 3]))
            take().clear()
        # All of the third's clients are with the first now.
        servers[2].filter.change_clients(remove=addresses[2::3])
        servers[0].filter.change_clients(add=addresses[2::3])
        ask_all()
        until("all packets", lambda: sum(len(take()) for take in took) >= 30)
        assert [len(take()) for take in took] == [20, 10, 0]
        # Framed for one server it is that server's, whoever holds the client: servers pass such packets on.
        with sender(net.client) as send:
            datagram = udp(INTRANET, addresses[0], 1234, PORT, b"x")
            send(framed(client, servers[2].nic.mac, ipv6_packet(INTRANET, addresses[0], 17, datagram)))
        until("the packet", lambda: took[2]() == [str(addresses[0])])
        servers[0].filter.surrender()
        took[0]().clear()
        ask_all()
        until("the others' packets", lambda: len(took[1]()) == 20)
        assert not took[0](), "a server without a lease takes nothing for its clients either"


@both_filters
@isolated
def test_each_server_takes_packets_for_its_own_prefix(filter_name: str) -> None:
    with network() as net:
        prefixes = list(CLIENTS.subnets(new_prefix=64))
        servers = [
            net.add_server(
                *(FILTERS[filter_name], share),
                side="internal",
                client_prefix=CLIENTS,
                server_prefix=prefixes[n],
            )
            for n, share in enumerate(thirds())
        ]
        addresses = [prefix.network_address + 5 for prefix in prefixes[:4]]
        took = receivers(servers)
        with sender(net.client) as send:
            for address in addresses:
                datagram = udp(INTRANET, address, 1234, PORT, b"x")
                packet = ipv6_packet(INTRANET, address, 17, datagram)
                send(framed(net.mac(net.client), servers[0].nic.cluster_mac, packet))
        until("three packets", lambda: sum(len(take()) for take in took) >= 3)
        assert [take() for take in took] == [[str(address)] for address in addresses[:3]]
        assert all(server.filter.counters()["eth0"].elsewhere >= 2 for server in servers)


@both_filters
@isolated
def test_what_is_not_for_a_vip_is_not_touched(filter_name: str) -> None:
    with network() as net:
        server = net.add_server(FILTERS[filter_name], Share())
        shown = net.client.command("ping", "-c", "2", "-i", "0.1", "-W", "1", "203.0.113.11")
        assert shown.count("bytes from") == 2
        shown = net.client.command("ping", "-c", "2", "-i", "0.1", "-W", "1", "2001:db8:113::11")
        assert shown.count("bytes from") == 2
        assert not any(server.filter.counters()["eth0"].dropped.values())


@isolated
def test_an_interface_that_was_taken_over_gets_its_own_address_back() -> None:
    """Also from the next process, where the device knows what it was made with; the frames of none of this teach the
    switch the cluster MAC."""
    with network() as net:
        host = net.attach("server1", f"{VIP4}/24", "203.0.113.21/24")
        own = net.mac(host)
        nic = NicPlan(
            "eth0", "external", own, (VIP4,), dips=(IPv4Interface("203.0.113.21/24"),), priority=3, takeover=True
        )
        plan = BalancingPlan((nic,), (Rule(),), SEED, lease_ms=60_000)
        with inside(host):
            sniffer = Sniffer(net.client)
            hardware = HardwareAddresses()
            assert hardware.own("eth0") == own
            filter_ = FastFilter()
            filter_.install(plan, Owned(1, (Share.all(),), Share.all()))
            hardware.take(plan.nics)
            assert net.mac(host) == nic.cluster_mac and hardware.own("eth0") == own
            hardware.take(plan.nics)  # nothing is left to take
            hardware.give_back(plan.nics)
            assert net.mac(host) == nic.cluster_mac, "the plan takes it over"
            another = HardwareAddresses()
            assert permanent_mac("eth0") is None
            assert another.own("eth0") == nic.cluster_mac, "a virtual device knows no other"
            hardware.give_back(plan.nics, everything=True)
            assert net.mac(host) == own
            filter_.remove()
        dip = nic.dips[0].ip.packed
        told = [frame for frame in sniffer.frames() if frame[12:14] == b"\x08\x06" and frame[28:32] == dip]
        assert [(frame[6:12], frame[22:28]) for frame in told] == [(nic.source_mac, nic.cluster_mac), (own, own)]
        assert nic.cluster_mac.hex(":") not in net.learned()
