"""Servers under load balancing on one switch, in namespaces of the test's own process.

         +------------- switch (br0, this namespace) --------------+
         |         |         |               |                     |
      server1   server2   server3          client              bystander
203.0.113.11      .12       .13     203.0.113.1, and the         .200
VIPs 203.0.113.10, 2001:db8:113::10   Internet behind it
     on every server's loopback       198.18.0.0/15, 2001:2::/48
"""

from __future__ import annotations

import ctypes
import os
import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal

from portico.balancing.nlb import wire
from portico.balancing.nlb.filter import Filter
from portico.balancing.nlb.hash import bucket_of
from portico.balancing.nlb.plan import BUCKETS, Address, BalancingPlan, Mode, NicPlan, Owned, Rule, Share
from portico.balancing.nlb.presence import Presence

from .namespace import Neighbour, command

VIP4, VIP6 = IPv4Address("203.0.113.10"), IPv6Address("2001:db8:113::10")
SEED = 0x5EED_CAFE
PORT = 8080

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(host: Neighbour | None) -> Iterator[None]:
    """What the block opens belongs to the namespace of a host, in this thread."""
    if host is None:
        yield
        return
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{host.pid}/ns/net", os.O_RDONLY)
    try:
        _enter(there)
        yield
    finally:
        _enter(here)
        os.close(here)
        os.close(there)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def until(what: str, condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Waits for a condition."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {timeout} s"
        time.sleep(0.01)


@dataclass
class Server:
    """A server of the cluster."""

    number: int
    host: Neighbour
    nic: NicPlan
    filter: Filter
    presence: Presence
    plan: BalancingPlan
    owned: Owned
    services: list[Service] = field(default_factory=list)

    def own(self, share: Share) -> None:
        self.owned = Owned(self.owned.version + 1, (share,), share)
        self.filter.own(self.owned)


class Network:
    """The switch and everybody on it."""

    def __init__(self) -> None:
        self.closing: list[Callable[[], object]] = []
        self.servers: list[Server] = []
        command("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        command("ip", "link", "set", "br0", "up")
        self.client = self.attach("client", "203.0.113.1/24", "2001:db8:113::1/64")
        self.client.command("ip", "route", "add", "local", "198.18.0.0/15", "dev", "lo")
        self.client.command("ip", "-6", "route", "add", "local", "2001:2::/48", "dev", "lo")
        self.bystander = self.attach("bystander", "203.0.113.200/24", "2001:db8:113::200/64")

    def attach(self, name: str, *addresses: str) -> Neighbour:
        """A host with eth0 on port `name` of the switch."""
        host = Neighbour()
        self.closing.append(host.close)
        host.command("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0")
        host.command("ip", "link", "set", "lo", "up")
        command("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", host.pid)
        command("ip", "link", "set", name, "master", "br0", "up")
        host.command("ip", "link", "set", "eth0", "up")
        for address in addresses:
            host.command("ip", "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        return host

    def mac(self, host: Neighbour, interface: str = "eth0") -> bytes:
        with inside(host), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as probe:
            probe.bind((interface, 0))
            found: bytes = probe.getsockname()[4]
            return found

    def server_host(self, number: int) -> Neighbour:
        """A host that can be a server: its addresses, VIPs on the loopback device, silent about them."""
        host = self.attach(f"server{number}", f"203.0.113.{10 + number}/24", f"2001:db8:113::{10 + number}/64")
        host.command("ip", "addr", "add", f"{VIP4}/32", "dev", "lo")
        host.command("ip", "-6", "addr", "add", f"{VIP6}/128", "dev", "lo", "nodad")
        host.command("ip", "route", "add", "default", "via", "203.0.113.1")
        host.command("ip", "-6", "route", "add", "default", "via", "2001:db8:113::1")
        host.command("sysctl", "-qw", "net.ipv4.conf.eth0.arp_ignore=1", "net.ipv4.conf.eth0.arp_announce=2")
        return host

    def add_server(
        self,
        make: Callable[[], Filter],
        share: Share,
        *,
        mode: Mode = "unicast",
        takeover: bool = False,
        rules: Sequence[Rule] = (Rule(),),
        lease_ms: int = 60_000,
        side: Literal["external", "internal"] = "external",
        host: Neighbour | None = None,
        **more: Any,
    ) -> Server:
        """A server that owns a share of every rule."""
        number = len(self.servers) + 1
        host = host or self.server_host(number)
        link_local = IPv6Address(
            host.command("ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link").split()[3][:-3]
        )
        nic = NicPlan(
            "eth0",
            side,
            self.mac(host),
            (VIP4, VIP6),
            own=(IPv4Address(f"203.0.113.{10 + number}"), IPv6Address(f"2001:db8:113::{10 + number}"), link_local),
            mode=mode,
            priority=number,
            takeover=takeover,
        )
        plan = BalancingPlan((nic,), tuple(rules), SEED, lease_ms=lease_ms, **more)
        owned = Owned(1, tuple(share for _ in rules), share)
        with inside(host):
            filter_ = make()
            filter_.install(plan, owned)
            if takeover:
                # Behind the mask only: one frame with the cluster MAC as its source, and the switch has learned it.
                command("ip", "link", "set", "eth0", "address", nic.cluster_mac.hex(":"))
            presence = Presence(nic, kernel_answers=filter_.answers)
        server = Server(number, host, nic, filter_, presence, plan, owned)
        self.servers.append(server)
        threading.Thread(target=_serve, args=(presence,), daemon=True).start()
        return server

    def close(self) -> None:
        for action in reversed(self.closing):
            action()

    def learned(self) -> set[str]:
        """The hardware addresses the switch has learned."""
        lines = command("bridge", "fdb", "show", "br", "br0").splitlines()
        return {line.split()[0] for line in lines if "permanent" not in line}


def _serve(presence: Presence) -> None:
    """Answers as the agent's loop does."""
    with selectors.DefaultSelector() as selector:
        for item in presence.sockets:
            selector.register(item, selectors.EVENT_READ)
        while True:
            selector.select()
            presence.ready()


@contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        made.close()


def thirds() -> list[Share]:
    return [Share(owned=frozenset(range(n * 20, n * 20 + 20))) for n in range(3)]


def owner_of(servers: Sequence[Server], source: Address, port: int = 0, rule: int = 0) -> int:
    """Which server (from 1) user space says a packet belongs to."""
    affinity = servers[0].plan.rules[rule].affinity
    bucket = bucket_of(source, port, affinity, SEED)
    found = [server.number for server in servers if bucket in server.owned.rules[rule].owned]
    assert len(found) == 1, f"bucket {bucket} is owned by {found}"
    return found[0]


class Service:
    """TCP and UDP on the VIPs of one server: says the server's number and remembers who asked (UDP)."""

    def __init__(self, host: Neighbour, number: int, port: int = PORT) -> None:
        self.number = number
        self.seen: list[tuple[Address, int]] = []
        self._selector = selectors.DefaultSelector()
        with inside(host):
            tcp = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            udp = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
        tcp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        tcp.bind(("::", port))
        tcp.listen(512)
        self._selector.register(tcp, selectors.EVENT_READ, "accept")
        for item, vip in zip(udp, (VIP4, VIP6), strict=True):
            item.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
            item.bind((str(vip), port))
            self._selector.register(item, selectors.EVENT_READ, "udp")
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                item = key.fileobj
                assert isinstance(item, socket.socket)
                try:
                    self._serve(item, key.data)
                except OSError:
                    if key.data == "tcp":
                        self._selector.unregister(item)
                        item.close()

    def _serve(self, item: socket.socket, what: str) -> None:
        if what == "accept":
            self._selector.register(item.accept()[0], selectors.EVENT_READ, "tcp")
        elif what == "tcp":
            if not item.recv(4096):
                raise ConnectionError
            item.sendall(b"%d" % self.number)
        else:
            data, peer = item.recvfrom(65535)
            address = IPv4Address(peer[0]) if item.family == socket.AF_INET else IPv6Address(peer[0])
            self.seen.append((address, peer[1]))
            if data[:1] == b"?":
                item.sendto(b"%d" % self.number, peer)


def client_socket(client: Neighbour, source: Address, kind: int, port: int = 0, timeout: float = 3.0) -> socket.socket:
    """A socket of the client's network with any address of the Internet behind it."""
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    with inside(client):
        item = socket.socket(family, kind)
    item.setsockopt(*((socket.IPPROTO_IP, 15) if source.version == 4 else (socket.IPPROTO_IPV6, 78)), 1)  # FREEBIND
    item.settimeout(timeout)
    item.bind((str(source), port))
    return item


def vip_for(source: Address) -> Address:
    return VIP4 if source.version == 4 else VIP6


def ask(connection: socket.socket) -> int | str:
    """The number of the server behind a connection, or what happened to it."""
    try:
        connection.sendall(b"?")
        answer = connection.recv(16)
        return int(answer) if answer else "closed"
    except ConnectionError:
        return "reset"
    except TimeoutError:
        return "silent"


def connect(client: Neighbour, source: Address, port: int = PORT) -> tuple[int | str, socket.socket]:
    """Connects to the VIP and asks once."""
    connection = client_socket(client, source, socket.SOCK_STREAM)
    try:
        connection.connect((str(vip_for(source)), port))
    except TimeoutError:
        return "silent", connection
    except ConnectionError:
        return "reset", connection
    return ask(connection), connection


def ipv4_packet(
    source: IPv4Address, destination: IPv4Address, protocol: int, payload: bytes, fragment: int = 0
) -> bytes:
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0, source.packed, destination.packed
    )
    return head[:10] + struct.pack("!H", wire.checksum(head)) + head[12:] + payload


def ipv6_packet(source: IPv6Address, destination: IPv6Address, protocol: int, payload: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + source.packed + destination.packed + payload


def packet(source: Address, destination: Address, protocol: int, payload: bytes) -> bytes:
    if isinstance(source, IPv4Address):
        assert isinstance(destination, IPv4Address)
        return ipv4_packet(source, destination, protocol, payload)
    assert isinstance(destination, IPv6Address)
    return ipv6_packet(source, destination, protocol, payload)


def udp(source: Address, destination: Address, sport: int, dport: int, data: bytes = b"") -> bytes:
    """A UDP datagram with its checksum."""
    length = 8 + len(data)
    head = struct.pack("!HHHH", sport, dport, length, 0)
    pseudo = source.packed + destination.packed + struct.pack("!II", length, 17)
    total = wire.checksum(pseudo + head + data) or 0xFFFF
    return head[:6] + struct.pack("!H", total) + data


def framed(client: bytes, destination: bytes, ip_packet: bytes) -> bytes:
    return wire.ethernet(destination, client, wire.IPV4 if ip_packet[0] >> 4 == 4 else wire.IPV6, ip_packet)


@contextmanager
def sender(host: Neighbour) -> Iterator[Callable[[bytes], object]]:
    """Sends frames from a host's eth0."""
    with inside(host):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        raw.bind(("eth0", 0))
    with raw:
        yield raw.send


class Sniffer:
    """Keeps what the wire brings to a host, promiscuous."""

    def __init__(self, host: Neighbour) -> None:
        with inside(host):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._socket.bind(("eth0", 3))
            index = socket.if_nametoindex("eth0")
        self._socket.setsockopt(263, 1, struct.pack("iHH8s", index, 1, 0, b""))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
        self._socket.setblocking(False)

    def frames(self) -> list[bytes]:
        found: list[bytes] = []
        while True:
            try:
                frame, address = self._socket.recvfrom(2048)
            except BlockingIOError:
                return found
            if address[2] != 4:
                found.append(frame)


def deliver(send: Callable[[bytes], object], frames: Sequence[bytes], arrived: Callable[[], int]) -> None:
    """Sends frames, each of which counts once in `arrived`, no faster than they are taken: the backlog of a CPU is
    1000 packets, and a switch that floods makes several of each."""
    for start in range(0, len(frames), 100):
        chunk = frames[start : start + 100]
        goal = arrived() + len(chunk)
        for frame in chunk:
            send(frame)
        until("every packet's arrival", partial(_reached, arrived, goal))


def _reached(count: Callable[[], int], goal: int) -> bool:
    return count() >= goal


def strangers(version: int, count: int, seed: int) -> list[tuple[Address, int]]:
    """Different clients with ports, from the networks behind the client's router. The same ones for the same seed."""
    rng = random.Random(f"{version}-{seed}")
    found: dict[tuple[Address, int], None] = {}
    while len(found) < count:
        if version == 4:
            address: Address = IPv4Address(int(IPv4Address("198.18.0.0")) + rng.randrange(1, 1 << 17))
        else:
            address = IPv6Address(int(IPv6Address("2001:2::")) + rng.getrandbits(80))
        found[address, rng.randrange(1024, 65536)] = None
    return list(found)


def spread(servers: Sequence[Server], owners: Counter[int], total: int) -> None:
    """Every server has its share, within 10 %."""
    for server in servers:
        fair = total * len(server.owned.rules[0].owned) / BUCKETS
        assert abs(owners[server.number] - fair) <= fair * 0.1, f"{dict(owners)} of {total}"
