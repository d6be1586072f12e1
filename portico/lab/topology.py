"""The deployment the lab builds, as data: one to eight servers, one to eight remote clients.

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

With several servers, da2 (.22, ::22 on both networks), da3 (.23, ::23) and so on stand beside da1, and two more hosts:

    crowd --- 192.0.2.0/24 --- internet     every address of 198.18.0.0/15, 198.51.100.0/24, 2001:db8:c0::/48 is its own
    bystander                               on inet and corp, member of nothing: sees what the switches flood

da1's addresses become the VIPs when load balancing is enabled; its dedicated addresses are then .21, ::21. Client N is
behind natN (.100 + N) in its own network homeN, 192.168.N.0/24.

Every bridge lives in a namespace of its own (`switch`), so that nothing of a lab shows up among the machine's
interfaces. Addresses are those of RFC 5737, RFC 3849 and RFC 2544 outside and private ones inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface, ip_interface, ip_network

from portico.errors import InvalidInput

ORGANISATION_PREFIX = "fd7c:1a2b:3c4d::/48"
CORP_DOMAIN = "corp.example.net"
CONNECT_TO = "da.example.net"
NAT64_PREFIX = "fd7c:1a2b:3c4d:7777::/96"
CLIENT_PREFIXES = "fd7c:1a2b:3c4d:1000::/59"
PUBLIC_DNS = "203.0.113.1"
CORP_DNS = "10.0.0.53"

MAX_SERVERS = 8
MAX_CLIENTS = 8
VIRTUAL = {
    "eth0": ("203.0.113.11/24", "2001:db8:ffff::11/64"),
    "eth1": ("10.0.0.2/24", "fd7c:1a2b:3c4d:1::2/64"),
}
"""Addresses of the entrance, by interface: da1's own until load balancing makes them VIPs."""
CROWD_PREFIXES = ("198.18.0.0/15", "198.51.100.0/24", "2001:db8:c0::/48")
"""What the crowd owns: it may send from any address in them."""

_TO_CLIENTS = (CLIENT_PREFIXES, "fd7c:1a2b:3c4d:1::2")


class Switch(StrEnum):
    """How the switches between the servers treat multicast frames."""

    PLAIN = "plain"
    """Floods them, as a Linux bridge does."""
    PRUNING = "pruning"
    """Sends 01-00-5E-7F-... only to ports whose host reported that group by IGMP."""


@dataclass(frozen=True)
class Interface:
    """One network card: its name inside the host, the bridge it is plugged into, its addresses.

    Attributes:
        mcast_flood: the switch sends multicast frames nobody asked for to this port, too.
    """

    name: str
    network: str
    addresses: tuple[str, ...]
    mcast_flood: bool = True

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
        owns: whole prefixes whose every address is the host's own.
        strict: refuses ARP and neighbour discovery answers that name a multicast hardware address, as many routers do.
    """

    name: str
    interfaces: tuple[Interface, ...]
    routes: tuple[tuple[str, str], ...] = ()
    forwarding: bool = False
    masquerade: str | None = None
    nameservers: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    about: str = ""
    owns: tuple[str, ...] = ()
    strict: bool = False

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
    """All hosts and the switches between them.

    Attributes:
        pruning: networks whose switch prunes by hardware address.
    """

    networks: tuple[str, ...]
    hosts: tuple[Host, ...] = field(default_factory=tuple)
    pruning: tuple[str, ...] = ()

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

    def cards(self, network: str) -> list[tuple[Host, Interface]]:
        """Who is plugged into a network, and with which card."""
        return [(host, card) for host in self.hosts for card in host.interfaces if card.network == network]


def dedicated(number: int) -> dict[str, tuple[str, ...]]:
    """The dedicated addresses (DIPs) of server `daNUMBER`, by interface, with prefix lengths."""
    last = 20 + number
    return {
        "eth0": (f"203.0.113.{last}/24", f"2001:db8:ffff::{last}/64"),
        "eth1": (f"10.0.0.{last}/24", f"fd7c:1a2b:3c4d:1::{last}/64"),
    }


def crowd_sources(count: int, version: int = 4) -> list[str]:
    """Addresses of the crowd to send from; IPv6 ones are each in a /64 of its own, as remote networks are.

    Raises:
        ValueError: the crowd has fewer.
    """
    if version == 6:
        network = ip_network(CROWD_PREFIXES[2])
        step = 1 << 64
        available = 1 << 16
    else:
        network = ip_network(CROWD_PREFIXES[0])
        step = 1
        available = network.num_addresses - 2
    if count > available:
        raise ValueError(f"the crowd has {available} addresses, not {count}")
    return [str(network[index * step + 1]) for index in range(count)]


def one_server() -> Topology:
    """One server with two cards, one remote client behind a NAT."""
    return build()


def build(
    servers: int = 1, clients: int = 1, *, switch: Switch = Switch.PLAIN, strict_router: bool = False
) -> Topology:
    """A deployment with `servers` Remote Access servers and `clients` remote computers.

    Whatever is more than one server on plain switches comes with the crowd and the bystander.

    Raises:
        InvalidInput: a number is out of range.
    """
    for what, number, most in (("servers", servers, MAX_SERVERS), ("clients", clients, MAX_CLIENTS)):
        if not 1 <= number <= most:
            raise InvalidInput(
                f"A lab with {number} {what} cannot be started",
                why=f"it has 1 to {most} {what}",
                resolution=f"Say --{what} with a number from 1 to {most}",
            )
    more = servers > 1 or switch is not Switch.PLAIN or strict_router
    homes = [computer for number in range(1, clients + 1) for computer in _home(number, strict_router)]
    return Topology(
        networks=("inet", *(f"home{number}" for number in range(1, clients + 1)), "corp", *(("far",) if more else ())),
        hosts=(
            _internet(more, strict_router),
            *homes,
            *(_server(number) for number in range(1, servers + 1)),
            *_intranet(strict_router),
            *((_CROWD, _BYSTANDER) if more else ()),
        ),
        pruning=("inet", "corp") if switch is Switch.PRUNING else (),
    )


_CROWD = Host(
    "crowd",
    (Interface("eth0", "far", ("192.0.2.2/24", "2001:db8:fffe::2/64")),),
    routes=(("default", "192.0.2.1"), ("::/0", "2001:db8:fffe::1")),
    nameservers=(PUBLIC_DNS,),
    about="thousands of addresses on the Internet",
    owns=CROWD_PREFIXES,
)

_BYSTANDER = Host(
    "bystander",
    (
        Interface("eth0", "inet", ("203.0.113.60/24", "2001:db8:ffff::60/64")),
        Interface("eth1", "corp", ("10.0.0.60/24", "fd7c:1a2b:3c4d:1::60/64")),
    ),
    nameservers=(CORP_DNS,),
    about="sees what the switches flood",
)


def _internet(crowd: bool, strict: bool) -> Host:
    cards = [Interface("eth0", "inet", ("203.0.113.1/24", "2001:db8:ffff::1/64"))]
    routes: list[tuple[str, str]] = []
    if crowd:
        cards.append(Interface("eth1", "far", ("192.0.2.1/24", "2001:db8:fffe::1/64")))
        routes += [(prefix, "2001:db8:fffe::2" if ":" in prefix else "192.0.2.2") for prefix in CROWD_PREFIXES]
    return Host(
        "internet",
        tuple(cards),
        routes=tuple(routes),
        forwarding=True,
        nameservers=("127.0.0.1",),
        services=("public_dns", "nginx"),
        about="public DNS and a public web server",
        strict=strict,
    )


def _home(number: int, strict: bool) -> tuple[Host, Host]:
    # Beside a strict router the entrance is reached through it alone, as from anywhere else on the Internet.
    entrance = ((f"{VIRTUAL['eth0'][0].split('/')[0]}/32", "203.0.113.1"),) if strict else ()
    nat = Host(
        f"nat{number}",
        (
            Interface("eth0", "inet", (f"203.0.113.{100 + number}/24",)),
            Interface("eth1", f"home{number}", (f"192.168.{number}.1/24",)),
        ),
        routes=(("default", "203.0.113.1"), *entrance),
        forwarding=True,
        masquerade="eth0",
        nameservers=(PUBLIC_DNS,),
        about="a home router that masquerades",
    )
    client = Host(
        f"client{number}",
        (Interface("eth0", f"home{number}", (f"192.168.{number}.10/24",)),),
        routes=(("default", f"192.168.{number}.1"),),
        nameservers=(PUBLIC_DNS,),
        about="the remote computer" if number == 1 else "a remote computer",
    )
    return nat, client


def _server(number: int) -> Host:
    addresses = VIRTUAL if number == 1 else dedicated(number)
    return Host(
        f"da{number}",
        (Interface("eth0", "inet", addresses["eth0"]), Interface("eth1", "corp", addresses["eth1"])),
        routes=(("default", "203.0.113.1"), ("::/0", "2001:db8:ffff::1")),
        nameservers=(CORP_DNS,),
        about="the Remote Access server" if number == 1 else "a Remote Access server",
    )


def _intranet(strict: bool) -> tuple[Host, ...]:
    """The corporate network. Its hosts route the client prefix themselves: they are the strict routers there."""
    return (
        Host(
            "dns",
            (Interface("eth0", "corp", ("10.0.0.53/24", "fd7c:1a2b:3c4d:1::53/64")),),
            routes=(_TO_CLIENTS,),
            nameservers=("127.0.0.1",),
            services=("corporate_dns",),
            about="BIND, authoritative for corp.example.net",
            strict=strict,
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
            routes=(_TO_CLIENTS,),
            nameservers=("fd7c:1a2b:3c4d:1::53",),
            services=("nginx",),
            about="a web server that has only IPv6",
            strict=strict,
        ),
        Host(
            "mgmt",
            (Interface("eth0", "corp", ("10.0.0.9/24", "fd7c:1a2b:3c4d:1::9/64")),),
            routes=(_TO_CLIENTS,),
            nameservers=(CORP_DNS,),
            about="where administrators sit",
            strict=strict,
        ),
    )
