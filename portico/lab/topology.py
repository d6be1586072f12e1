"""The deployment the lab builds, as data.

                         internet  203.0.113.1, 2001:db8:ffff::1   public DNS, www.example.org, the Internet's router
                            |
    ======+=================+==============+====================  inet   203.0.113.0/24, 2001:db8:ffff::/64
          | eth0 .101                      | eth0 .11, ::11
        nat1  masquerade                  da1   the Remote Access server, da.example.net
          | eth1 .1                        | eth1 .2, ::2
    ======+======  home1                   |                      192.168.1.0/24
          | eth0 .10                       |
       client1                             |
                                           |
    ======+============+============+======+=====+==============  corp   10.0.0.0/24, fd7c:1a2b:3c4d:1::/64
          | .53, ::53  | .4         | ::6        | .9, ::9
         dns          app4         app6         mgmt
      BIND for      IPv4 only    IPv6 only    management host
    corp.example.net

Every bridge lives in a namespace of its own (`switch`), so that nothing of a lab shows up among the machine's
interfaces. Addresses are those of RFC 5737 and RFC 3849 outside and private ones inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

ORGANISATION_PREFIX = "fd7c:1a2b:3c4d::/48"
CORP_DOMAIN = "corp.example.net"
CONNECT_TO = "da.example.net"
NAT64_PREFIX = "fd7c:1a2b:3c4d:7777::/96"
CLIENT_PREFIXES = "fd7c:1a2b:3c4d:1000::/59"
PUBLIC_DNS = "203.0.113.1"
CORP_DNS = "10.0.0.53"


@dataclass(frozen=True)
class Interface:
    """One network card: its name inside the host, the bridge it is plugged into, its addresses."""

    name: str
    network: str
    addresses: tuple[str, ...]

    def parsed(self) -> list[IPv4Interface | IPv6Interface]:
        return [ip_interface(text) for text in self.addresses]


@dataclass(frozen=True)
class Host:
    """One computer.

    Attributes:
        routes: (destination, gateway) pairs.
        forwarding: a router.
        masquerade: the interface behind whose address everything from the others is hidden.
        nameservers: what /etc/resolv.conf holds at first.
        services: names of modules in `portico.lab.services`, started in this order.
    """

    name: str
    interfaces: tuple[Interface, ...]
    routes: tuple[tuple[str, str], ...] = ()
    forwarding: bool = False
    masquerade: str | None = None
    nameservers: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    about: str = ""

    def address(self, version: int = 4, interface: str | None = None) -> str:
        """The first address of a version, without its prefix length.

        Raises:
            LookupError: the host has none.
        """
        for card in self.interfaces:
            if interface in (None, card.name):
                for parsed in card.parsed():
                    if parsed.version == version:
                        return str(parsed.ip)
        raise LookupError(f"{self.name} has no IPv{version} address")


@dataclass(frozen=True)
class Topology:
    networks: tuple[str, ...]
    hosts: tuple[Host, ...] = field(default_factory=tuple)

    def host(self, name: str) -> Host:
        """The host of that name.

        Raises:
            LookupError: there is none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise LookupError(f"no host {name}; there are {', '.join(host.name for host in self.hosts)}")

    def servers(self) -> list[str]:
        """Names of the Remote Access servers."""
        return [host.name for host in self.hosts if host.name.startswith("da")]

    def clients(self) -> list[str]:
        """Names of the remote computers."""
        return [host.name for host in self.hosts if host.name.startswith("client")]


def one_server() -> Topology:
    """One server with two cards, one remote client behind a NAT."""
    to_clients = (CLIENT_PREFIXES, "fd7c:1a2b:3c4d:1::2")
    return Topology(
        networks=("inet", "home1", "corp"),
        hosts=(
            Host(
                "internet",
                (Interface("eth0", "inet", ("203.0.113.1/24", "2001:db8:ffff::1/64")),),
                forwarding=True,
                nameservers=("127.0.0.1",),
                services=("public_dns", "nginx"),
                about="public DNS and a public web server",
            ),
            Host(
                "nat1",
                (
                    Interface("eth0", "inet", ("203.0.113.101/24",)),
                    Interface("eth1", "home1", ("192.168.1.1/24",)),
                ),
                routes=(("default", "203.0.113.1"),),
                forwarding=True,
                masquerade="eth0",
                nameservers=(PUBLIC_DNS,),
                about="a home router that masquerades",
            ),
            Host(
                "client1",
                (Interface("eth0", "home1", ("192.168.1.10/24",)),),
                routes=(("default", "192.168.1.1"),),
                nameservers=(PUBLIC_DNS,),
                about="the remote computer",
            ),
            Host(
                "da1",
                (
                    Interface("eth0", "inet", ("203.0.113.11/24", "2001:db8:ffff::11/64")),
                    Interface("eth1", "corp", ("10.0.0.2/24", "fd7c:1a2b:3c4d:1::2/64")),
                ),
                routes=(("default", "203.0.113.1"), ("::/0", "2001:db8:ffff::1")),
                nameservers=(CORP_DNS,),
                about="the Remote Access server",
            ),
            Host(
                "dns",
                (Interface("eth0", "corp", ("10.0.0.53/24", "fd7c:1a2b:3c4d:1::53/64")),),
                routes=(to_clients,),
                nameservers=("127.0.0.1",),
                services=("corporate_dns",),
                about="BIND, authoritative for corp.example.net",
            ),
            Host(
                "app4",
                (Interface("eth0", "corp", ("10.0.0.4/24",)),),
                nameservers=(CORP_DNS,),
                services=("nginx",),
                about="a web server that has only IPv4",
            ),
            Host(
                "app6",
                (Interface("eth0", "corp", ("fd7c:1a2b:3c4d:1::6/64",)),),
                routes=(to_clients,),
                nameservers=("fd7c:1a2b:3c4d:1::53",),
                services=("nginx",),
                about="a web server that has only IPv6",
            ),
            Host(
                "mgmt",
                (Interface("eth0", "corp", ("10.0.0.9/24", "fd7c:1a2b:3c4d:1::9/64")),),
                routes=(to_clients,),
                nameservers=(CORP_DNS,),
                about="where administrators sit",
            ),
        ),
    )
