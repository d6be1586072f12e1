"""The section `load_balancing`: the servers that share one entrance, their addresses, and who takes which packet."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from portico.settings.kinds import HostAddress, InterfaceName, Section, ShortName, State, VirtualAddress
from portico.settings.remote_access import Range

MAXIMUM_SERVERS: Final = 8
"""Of network load balancing, as on Windows."""

MAXIMUM_EXTERNAL_SERVERS: Final = 32
"""Behind an external load balancer: as many as a /59 has /64s."""

LEASE_HEARTBEATS: Final = 3
"""A server that was not told to go on for so many heartbeat periods stops accepting packets by itself."""

Mode = Literal["unicast", "multicast", "igmp_multicast", "external"]


class PortRule(Section):
    """Which server takes the packets to some ports."""

    virtual_address: VirtualAddress = Field(default="all", description="one virtual address, or `all` of them")
    protocol: Literal["tcp", "udp", "both"] = Field(default="both", description="protocol of the ports")
    first_port: int = Field(default=0, ge=0, le=65_535, description="first port of the range")
    last_port: int = Field(default=65_535, ge=0, le=65_535, description="last port of the range, included")
    mode: Literal["multiple", "single", "disabled"] = Field(
        default="multiple",
        description="multiple: clients are spread by weight; single: the started server with the lowest priority "
        "number takes all; disabled: nobody does",
    )
    affinity: Literal["none", "single", "network"] = Field(
        default="single",
        description="what stays on one server: a connection, a client address, or all clients of a network "
        "(IPv4 /24, IPv6 /64)",
    )
    timeout_minutes: int = Field(
        default=0,
        ge=0,
        le=240,
        description="extended affinity: so long after its last connection a client comes back to its server; 0: none",
    )


class ClusterServer(Section):
    """One server of the cluster."""

    name: ShortName = Field(description="name of the server")
    priority: int = Field(ge=1, le=32, description="unique; the lowest of the started servers is the default host")
    weight: int = Field(default=50, ge=0, le=100, description="load weight: its share is weight / sum of weights")
    state: Literal["started", "stopped", "suspended"] = Field(
        default="started",
        description="what it is to be; suspended: stopped, and it stays so until it is resumed",
    )
    internet_interface: InterfaceName | None = Field(default=None, description="null: `server.internet_interface`")
    internal_interface: InterfaceName | None = Field(default=None, description="null: `server.internal_interface`")
    internet_dedicated_addresses: list[HostAddress] = Field(
        default_factory=list, max_length=16, description="DIPs: its own addresses on the Internet interface"
    )
    internal_dedicated_addresses: list[HostAddress] = Field(
        default_factory=list,
        max_length=16,
        description="the same on the internal interface; a single-NIC server has its DIPs only here",
    )
    server_prefix_index: Annotated[int, Field(ge=0, le=31)] | None = Field(
        default=None,
        description="which /64 of the client prefix is its own with `client_addresses: per-server`; "
        "null: `priority` - 1",
    )
    vpn_ip_address_ranges: list[Range] = Field(
        default_factory=list, max_length=64, description="'first,last' IPv4 address: its static pool of the client VPN"
    )

    @property
    def dedicated_addresses(self) -> list[HostAddress]:
        """Of both sides."""
        return [*self.internet_dedicated_addresses, *self.internal_dedicated_addresses]

    @property
    def prefix_index(self) -> int:
        """Which /64 of the /59 is this server's."""
        return self.server_prefix_index if self.server_prefix_index is not None else self.priority - 1


def _everything() -> list[PortRule]:
    return [PortRule()]


class LoadBalancing(Section):
    """Network load balancing: several servers behave as one."""

    mode: Mode = Field(
        default="unicast",
        description="which MAC address the virtual addresses have, see `portico lb mode`; external: a load balancer "
        "in front, which this version does not support",
    )
    takeover: bool = Field(
        default=False,
        description="unicast only: the interfaces themselves get the cluster MAC, and frames leave with a masked "
        "source as on Windows; for virtual NICs that hear only the address that is theirs",
    )
    internet_virtual_addresses: list[HostAddress] = Field(
        default_factory=list, max_length=16, description="VIPs that clients reach, with the length of their network"
    )
    internal_virtual_addresses: list[HostAddress] = Field(
        default_factory=list,
        max_length=16,
        description="VIPs on the intranet; a single-NIC server has its VIPs only here",
    )
    client_addresses: Literal["roaming", "per-server"] = Field(
        default="roaming",
        description="roaming: a client keeps its address on whichever server it is; "
        "per-server: each server gives addresses of its own /64",
    )
    port_rules: list[PortRule] = Field(
        default_factory=_everything,
        max_length=32,
        description="see below; packets that no rule covers go to the default host. "
        "Default: one rule, all addresses and ports, multiple, single affinity",
    )
    heartbeat_milliseconds: int = Field(
        default=100, ge=20, le=10_000, description="period of the heartbeats between the servers"
    )
    missed_heartbeats: int = Field(
        default=4, ge=1, le=100, description="a server that is silent for so many periods is gone"
    )
    filter: Literal["automatic", "nftables", "ebpf"] = Field(
        default="automatic",
        description="what drops packets of other servers; automatic: eBPF where the kernel takes it",
    )
    tls_termination: State = Field(
        default="disabled", description="whether an external load balancer ends TLS; cannot be enabled"
    )
    servers: list[ClusterServer] = Field(default_factory=list, max_length=64, description="the servers, see below")

    @property
    def virtual_addresses(self) -> list[HostAddress]:
        """Of both sides."""
        return [*self.internet_virtual_addresses, *self.internal_virtual_addresses]

    def server(self, name: str) -> ClusterServer | None:
        """The server of that name, None when it is not in the cluster."""
        return next((server for server in self.servers if server.name == name), None)
