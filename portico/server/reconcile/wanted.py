"""What the kernel should look like, as data. Pure: derived from the settings, compared with what is observed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Literal

TUNNEL = "portico-iphttps"
"""TUN device of the IP-HTTPS clients: inner IPv6."""

TRANSLATOR = "portico-nat64"
"""TUN device of NAT64: IPv4 only."""

TRANSLATOR_ADDRESS = IPv4Interface("192.0.0.8/32")
"""The IPv4 dummy address (RFC 7600 section 6) on the translator. With an address the kernel's loose reverse path check
takes the pool's (local) source from there; without one it refuses whenever `conf/all/rp_filter` is on."""

NAT64_TABLE = 6464
"""Routing table that leads to the translator, and the number its packets are marked with."""

NAT64_MARK = 0x6464
STEER_PREFERENCE = 100
LOCAL_PREFERENCE = 200
MAIN_TABLE = 254
LOCAL_TABLE = 255


_ONE = {
    "devices": "device",
    "addresses": "address",
    "host_addresses": "address",
    "routes": "route",
    "rules": "rule",
    "sysctls": "sysctl",
    "nftables": "nftables",
    "files": "file",
}


@dataclass(frozen=True)
class Change:
    """One thing to do to the kernel, named so that an administrator recognises it.

    Attributes:
        part: which reconciler does it.
        action: what happens to the subject.
        subject: `fd00::1/64 on portico-iphttps`, `net/ipv6/conf/all/forwarding`.
        before, after: the values, where there are any.
        key: what the part needs to do it; not shown.
    """

    part: str
    action: Literal["add", "remove", "set"]
    subject: str
    before: str | None = None
    after: str | None = None
    key: object = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        values = ""
        if self.after is not None:
            values = f": {self.before} -> {self.after}" if self.before is not None else f": {self.after}"
        return f"{self.action} {_ONE[self.part]} {self.subject}{values}"

    def as_dict(self) -> dict[str, str | None]:
        return {
            "part": self.part,
            "action": self.action,
            "subject": self.subject,
            "before": self.before,
            "after": self.after,
        }


@dataclass(frozen=True)
class Device:
    """A TUN device: one queue per worker."""

    name: str
    mtu: int
    queues: int


@dataclass(frozen=True)
class DeviceAddress:
    interface: str
    address: IPv4Interface | IPv6Interface

    def __str__(self) -> str:
        return f"{self.address} on {self.interface}"


HostAddress = IPv4Interface | IPv6Interface


@dataclass(frozen=True)
class HostAddresses:
    """What load balancing changes of an interface of the machine; its other addresses stay as they are.

    Attributes:
        present: addresses it has beside those, the first of a family being the source of the server's connections.
        absent: addresses that are elsewhere (the VIPs on an interface whose DIPs are `present`).
    """

    interface: str
    present: tuple[HostAddress, ...]
    absent: tuple[IPv4Address | IPv6Address, ...] = ()


@dataclass(frozen=True, order=True)
class Route:
    """A route to a device. `destination` in CIDR form; `default` for the whole of the family."""

    family: Literal[4, 6]
    table: int
    destination: str
    interface: str

    def __str__(self) -> str:
        return f"{self.destination} dev {self.interface} table {self.table}"


@dataclass(frozen=True)
class Pool:
    """An IPv4 address of this machine and the inclusive port range NAT64 uses on it."""

    address: IPv4Address
    first: int
    last: int


@dataclass(frozen=True, order=True)
class StaticPort:
    """A port of an IPv4 address that always stands for a client's port."""

    address: IPv4Address
    protocol: Literal["tcp", "udp"]
    port: int


@dataclass(frozen=True)
class LocationFilter:
    """Where the pages are.

    Attributes:
        own: addresses of this server that the pages are listened for on.
        all_servers: those of every server of the cluster: a client of this one must not reach another's either.
        nls_port, web_probe_port: None when the servers have no such page.
    """

    own: tuple[IPv4Address | IPv6Address, ...] = ()
    all_servers: tuple[IPv4Address | IPv6Address, ...] = ()
    nls_port: int | None = None
    web_probe_port: int | None = None

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(sorted({port for port in (self.nls_port, self.web_probe_port) if port is not None}))


@dataclass(frozen=True)
class LevelFilter:
    """What clients reach before their user has authenticated; everything else waits for it.

    Attributes:
        management: IPv6 addresses of management servers.
        hosts: their IPv4 addresses, reached through NAT64.
    """

    management: tuple[IPv6Address, ...] = ()
    hosts: tuple[IPv4Address, ...] = ()


@dataclass(frozen=True)
class Filter:
    """Who may talk to whom through the tunnel device.

    Attributes:
        destinations: what clients may reach; None is everything on the intranet's side.
        sources: who on the intranet may open connections to clients; None is everybody, empty is nobody.
        own_prefixes: what must never appear on the Internet interface.
        pools: NAT64 pools; empty when NAT64 is disabled.
        statics: ports of NAT64's static bindings.
        openers: IPv4 hosts that may open connections to clients through static bindings; None is everybody, empty is
            nobody.
        dns64_interfaces: whose hosts may ask DNS64, besides clients and the server itself.
        other_clients: the prefix of all servers' clients, when only a part of it is this server's.
        levels: None when a client reaches everything at once.
        closed: families the machine did not forward before Portico turned it on for its own devices (IPv6: at all,
            IPv4: from the internal interface); nothing but Portico's own traffic is forwarded in them.
    """

    internet_interface: str
    internal_interface: str
    client_prefix: IPv6Network
    dns64_address: IPv6Address | None
    own_prefixes: tuple[IPv6Network, ...]
    pools: tuple[Pool, ...]
    destinations: tuple[IPv4Network | IPv6Network, ...] | None
    sources: tuple[IPv6Network, ...] | None
    client_to_client: bool
    closed: frozenset[Literal[4, 6]] = frozenset()
    statics: tuple[StaticPort, ...] = ()
    openers: tuple[IPv4Network, ...] | None = None
    dns64_interfaces: tuple[str, ...] = ()
    other_clients: IPv6Network | None = None
    location: LocationFilter = LocationFilter()
    levels: LevelFilter | None = None

    @property
    def single_interface(self) -> bool:
        return self.internet_interface == self.internal_interface

    @property
    def outside(self) -> str | None:
        """The Internet interface; None where it is the intranet's too."""
        return None if self.single_interface else self.internet_interface


@dataclass(frozen=True)
class Wanted:
    """The whole of it."""

    devices: tuple[Device, ...]
    addresses: tuple[DeviceAddress, ...]
    routes: tuple[Route, ...]
    steer: bool
    """Whether replies to NAT64's pool are steered to the translator by policy routing."""
    sysctls: Mapping[str, str]
    """Path below /proc/sys to value."""
    reserved_ports: tuple[tuple[int, int], ...]
    filter: Filter
    host_addresses: tuple[HostAddresses, ...] = ()
