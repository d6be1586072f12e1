"""Load balancing, the addresses: virtual and dedicated ones, of all servers and on this machine's interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface

from portico.settings.addresses import Address, AddressPlan
from portico.settings.facts import Facts
from portico.settings.load_balancing import ClusterServer, LoadBalancing
from portico.settings.localise import dedicated_by_interface, localise, single_interface
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem

HostAddress = IPv4Interface | IPv6Interface

VIP_MISSING = CATALOGUE.add(
    "LB_VIP_MISSING",
    what="The cluster has no virtual address on the {side} side",
    why="{purpose}",
    resolution="Add the address that {holder}",
    example="load_balancing: {internet_virtual_addresses: [], ...}",
)
DIP_MISSING = CATALOGUE.add(
    "LB_DIP_MISSING",
    what="A server has no dedicated address beside a virtual one",
    why="{server} has no DIP in {network}, the network of the {side} virtual address {vip}, so nothing of its own "
    "could leave from there",
    resolution="Give {server} a free address of {network} in {key}",
    example="load_balancing: {internal_virtual_addresses: [10.0.0.2/24], servers: [{name: da1, "
    "internal_dedicated_addresses: []}]}",
)
DIP_LENGTH = CATALOGUE.add(
    "LB_PREFIX_LENGTH",
    what="A dedicated and a virtual address say different things about their network",
    why="{dip} of {server} lies in the network of {vip}, but has another prefix length",
    resolution="Write both with the length that the network has",
    example="load_balancing: {internet_virtual_addresses: [203.0.113.11/24], servers: [{..., "
    "internet_dedicated_addresses: [203.0.113.12/25]}]}",
)
DIP_WITHOUT_VIP = CATALOGUE.add(
    "LB_DIP_WITHOUT_VIP",
    what="A dedicated address belongs to no virtual one",
    why="{dip} of {server} is in no network of the {side} virtual addresses ({present})",
    resolution="{resolution}",
    example='load_balancing: {servers: [{..., internal_dedicated_addresses: [10.0.0.12/24, "fd00::12/64"]}]}   # only '
    "IPv4 VIPs",
)
ADDRESS_TWICE = CATALOGUE.add(
    "LB_ADDRESS_TWICE",
    what="An address is given twice",
    why="{address} is in {first} already",
    resolution="Every server needs addresses of its own; remove one of the two",
    example="load_balancing: {servers: [{name: da1, internet_dedicated_addresses: [203.0.113.12/24]}, {name: da2, "
    "internet_dedicated_addresses: [203.0.113.12/24]}]}",
)
DIP_IS_VIP = CATALOGUE.add(
    "LB_DIP_IS_VIP",
    what="A dedicated address is virtual too",
    why="{address} of {server} is a virtual address, which all servers have",
    resolution="Existing addresses become the virtual ones so that clients find the cluster; give {server} a new one",
    example="load_balancing: {internet_virtual_addresses: [203.0.113.11/24], servers: [{..., "
    "internet_dedicated_addresses: [203.0.113.11/24]}]}",
)
DNS64_ADDRESS = CATALOGUE.add(
    "LB_DNS64_ADDRESS",
    what="The DNS64 address cannot be a virtual or dedicated address",
    why="{address} is the address of DNS64, which every server has inside its tunnel device",
    resolution="Remove it. A side that has IPv4 addresses only needs no IPv6 address here",
    example='load_balancing: {internal_virtual_addresses: [10.0.0.2/24, "fd7c:1a2b:3c4d:3333::1/64"]}',
)
OWN_PREFIX = CATALOGUE.add(
    "LB_ADDRESS_OF_CLIENTS",
    what="A virtual or dedicated address lies in a prefix of the tunnel",
    why="{address} is in {prefix}, whose addresses clients and NAT64 have",
    resolution="Use an address of the network that the interface is in",
    example='load_balancing: {internal_virtual_addresses: ["fd7c:1a2b:3c4d:1000::1/64"]}',
)
SINGLE_LISTS = CATALOGUE.add(
    "LB_SINGLE_INTERFACE",
    what="A server with a single interface has different addresses for the two sides",
    why="{interface} of {server} is on both sides, and {what}",
    resolution="Leave the list of the Internet side empty, or write the same addresses in both",
    example="server: {internet_interface: eth1, internal_interface: eth1}   # and different lists",
)
IN_USE = CATALOGUE.add(
    "LB_ADDRESS_IN_USE",
    what="A dedicated address is in use",
    why="the machine with the MAC address {mac} answers for {address}",
    resolution="Choose a free address; the machine is found in the switch's table of MAC addresses",
    example="load_balancing: {servers: [{..., internet_dedicated_addresses: [203.0.113.12/24]}]}   # a printer has it",
)
VIP_IN_USE = CATALOGUE.add(
    "LB_VIP_IN_USE",
    what="Another machine has a virtual address",
    why="the machine with the MAC address {mac}, which is no server of the cluster, answers for {address}",
    resolution="Take the address from it; the switch's table of MAC addresses says where it is",
    example="load_balancing: {internet_virtual_addresses: [203.0.113.11/24]}   # a router has it",
)
BOTH_PLUMBED = CATALOGUE.add(
    "LB_BOTH_ON_INTERFACE",
    what="A virtual and a dedicated address are on the interface already",
    why="{interface} has both {vip} and {dip}, so it cannot be told which of them was the server's own",
    resolution="Remove the new address: ip addr del {dip} dev {interface}; it is added when load balancing is enabled",
    example="load_balancing: {...}   # eth0 has 203.0.113.11/24 and 203.0.113.12/24",
)
INTERFACE_NETWORK = CATALOGUE.add(
    "LB_INTERFACE_NETWORK",
    what="An address does not fit the network of its interface",
    why="{address} is to be on {interface}, which is in: {present}",
    resolution="Use an address of that network with its prefix length",
    example="load_balancing: {servers: [{..., internet_dedicated_addresses: [198.51.100.12/24]}]}   # eth0 has "
    "203.0.113.11/24",
)
TEMPORARY = CATALOGUE.add(
    "LB_VIP_TEMPORARY",
    what="A virtual address is not a static one",
    why="{interface} has {address} from DHCP or a router, which give it again or take it back as they like",
    resolution="Configure it statically on this machine, then enable load balancing",
    example="load_balancing: {internet_virtual_addresses: [203.0.113.11/24]}   # eth0 has it from DHCP",
)


NO_IPV6 = CATALOGUE.add(
    "LB_NO_IPV6_VIP",
    severity="warning",
    what="The cluster has no IPv6 address on the intranet, although this server has one",
    why="{address} on {interface} stays an address of this server alone, so IPv6 hosts and routers of the intranet "
    "reach the clients of no other server",
    resolution="Make {address} an internal virtual address, and give every server an IPv6 DIP in its network",
    example="load_balancing: {internal_virtual_addresses: [10.0.0.2/24]}   # eth1 has fd7c:1a2b:3c4d:1::2/64 too",
)


@dataclass(frozen=True)
class _Side:
    """One side of the cluster: the words for it and its addresses."""

    name: str
    virtual_key: str
    dedicated_key: str
    virtual: list[HostAddress]

    def dedicated(self, server: ClusterServer) -> list[HostAddress]:
        found: list[HostAddress] = getattr(server, self.dedicated_key)
        return found


def _sides(balancing: LoadBalancing) -> tuple[_Side, _Side]:
    virtual, dedicated = "virtual_addresses", "dedicated_addresses"
    return (
        _Side("Internet", f"internet_{virtual}", f"internet_{dedicated}", balancing.internet_virtual_addresses),
        _Side("internal", f"internal_{virtual}", f"internal_{dedicated}", balancing.internal_virtual_addresses),
    )


def virtual_addresses(settings: Settings, facts: Facts) -> Iterator[Problem]:
    balancing = settings.load_balancing
    if balancing is None or not balancing.servers:
        return
    internet, internal = _sides(balancing)
    single = [server for server in balancing.servers if _is_single(settings, server)]
    if not balancing.internal_virtual_addresses:
        yield VIP_MISSING.problem(
            f"load_balancing.{internal.virtual_key}",
            side=internal.name,
            purpose="the intranet's routers and hosts would not find the cluster",
            holder="the first server's internal interface has",
        )
    if not balancing.internet_virtual_addresses and len(single) < len(balancing.servers):
        yield VIP_MISSING.problem(
            f"load_balancing.{internet.virtual_key}",
            side=internet.name,
            purpose="clients would not find the cluster",
            holder="the ConnectTo name stands for",
        )
    if single and internet.virtual and set(internet.virtual) != set(internal.virtual):
        yield SINGLE_LISTS.problem(
            f"load_balancing.{internet.virtual_key}",
            server=single[0].name,
            interface=single[0].internal_interface or settings.server.internal_interface,
            what="the virtual addresses differ",
        )


def dedicated_addresses(settings: Settings, facts: Facts) -> Iterator[Problem]:
    balancing = settings.load_balancing
    if balancing is None:
        return
    virtual = {vip.ip for vip in balancing.virtual_addresses}
    for index, server in enumerate(balancing.servers):
        path = f"load_balancing.servers[{index}]"
        single = _is_single(settings, server)
        if single and server.internet_dedicated_addresses:
            internet, internal = server.internet_dedicated_addresses, server.internal_dedicated_addresses
            if set(internet) != set(internal):
                yield SINGLE_LISTS.problem(
                    f"{path}.internet_dedicated_addresses",
                    server=server.name,
                    interface=server.internal_interface or settings.server.internal_interface,
                    what="the dedicated addresses differ",
                )
        for side in _sides(balancing)[1 if single else 0 :]:
            yield from _one_side(path, server, side)
        for key in ("internet_dedicated_addresses", "internal_dedicated_addresses"):
            for number, dip in enumerate(getattr(server, key)):
                if dip.ip in virtual:
                    yield DIP_IS_VIP.problem(f"{path}.{key}[{number}]", address=dip.ip, server=server.name)


def _one_side(path: str, server: ClusterServer, side: _Side) -> Iterator[Problem]:
    """Each VIP has a DIP of its network on every server, and each DIP a VIP."""
    dedicated = side.dedicated(server)
    networks = {vip.network: vip for vip in reversed(side.virtual)}
    longer: set[HostAddress] = set()
    for number, dip in enumerate(dedicated):
        here = f"{path}.{side.dedicated_key}[{number}]"
        if dip.network in networks:
            continue
        # Networks of different versions never contain each other's addresses.
        vip = next((vip for vip in side.virtual if dip.ip in vip.network or vip.ip in dip.network), None)
        if vip is not None:
            longer.add(vip)
            yield DIP_LENGTH.problem(here, dip=dip, server=server.name, vip=vip)
            continue
        only_other = all(vip.version != dip.version for vip in side.virtual)
        resolution = (
            f"Remove it: the {side.name} side has no IPv{dip.version} virtual address"
            if only_other
            else "Use an address of one of these networks, or remove it"
        )
        present = ", ".join(map(str, side.virtual)) or "there are none"
        yield DIP_WITHOUT_VIP.problem(
            here, dip=dip, server=server.name, side=side.name, present=present, resolution=resolution
        )
    there = {dip.network for dip in dedicated}
    for network, vip in networks.items():
        if network not in there and vip not in longer:
            yield DIP_MISSING.problem(
                f"{path}.{side.dedicated_key}",
                server=server.name,
                network=network,
                side=side.name,
                vip=vip.ip,
                key=side.dedicated_key,
            )


def unique(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """No address twice, none of the tunnel's."""
    balancing = settings.load_balancing
    if balancing is None:
        return
    tunnel = _Tunnel(settings)
    seen: dict[Address, tuple[int | None, str, str]] = {}
    for owner, side, path, address in _listed(balancing):
        yield from tunnel.judge(path, address.ip)
        first_owner, first_side, first = seen.setdefault(address.ip, (owner, side, path))
        if first == path or (owner is None) != (first_owner is None):  # a DIP that is a VIP is told as that
            continue
        holders = balancing.servers if owner is None else [balancing.servers[owner]]
        same_holder = owner == first_owner and side != first_side
        if not (same_holder and any(_is_single(settings, server) for server in holders)):
            yield ADDRESS_TWICE.problem(path, address=address.ip, first=first)


class _Tunnel:
    """Addresses that are the tunnel's and never an interface's."""

    def __init__(self, settings: Settings) -> None:
        organisation = settings.deployment.organisation_prefix
        plan = AddressPlan.of(organisation) if organisation.prefixlen == 48 else None
        self.dns64: IPv6Address | None = settings.dns64.address or (plan.dns64 if plan is not None else None)
        if settings.dns64.state == "disabled":
            self.dns64 = None
        clients = settings.ip_https.client_prefix or (plan.client_cluster if plan is not None else None)
        self.prefixes = [prefix for prefix in (clients, plan.nat64 if plan is not None else None) if prefix is not None]

    def judge(self, path: str, address: Address) -> Iterator[Problem]:
        if address == self.dns64:
            yield DNS64_ADDRESS.problem(path, address=address)
        for prefix in self.prefixes:
            if address in prefix:
                yield OWN_PREFIX.problem(path, address=address, prefix=prefix)


def _listed(balancing: LoadBalancing) -> Iterator[tuple[int | None, str, str, HostAddress]]:
    """Every address of the section: its server (None: all), side, path, itself."""
    for side in _sides(balancing):
        for number, address in enumerate(side.virtual):
            yield None, side.name, f"load_balancing.{side.virtual_key}[{number}]", address
    for index, server in enumerate(balancing.servers):
        for side in _sides(balancing):
            for number, address in enumerate(side.dedicated(server)):
                yield index, side.name, f"load_balancing.servers[{index}].{side.dedicated_key}[{number}]", address


def machine(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """This machine's own addresses on its interfaces, as the administrator has them."""
    balancing = settings.load_balancing
    name = own_name(settings, facts)
    if balancing is None or name is None or facts.interfaces is None:
        return
    local = localise(settings, name)
    index = next(number for number, server in enumerate(balancing.servers) if server.name == name)
    own = balancing.servers[index]
    sides = list(_sides(balancing))
    interfaces = [local.server.internet_interface, local.server.internal_interface]
    if single_interface(local):
        sides, interfaces = sides[1:], interfaces[1:]
    for side, interface in zip(sides, interfaces, strict=True):
        path = f"load_balancing.servers[{index}].{side.dedicated_key}"
        yield from _on_interface(facts, interface, side, side.dedicated(own), path)
        for vip in side.virtual:
            if vip.ip in facts.in_use:
                where = f"load_balancing.{side.virtual_key}"
                yield VIP_IN_USE.problem(where, address=vip.ip, mac=facts.in_use[vip.ip])
    yield from _ipv6_left_out(settings, facts, local.server.internal_interface)
    for interface, dedicated in dedicated_by_interface(local).items():
        for dip in dedicated:
            if dip.ip in facts.in_use:
                key = "internal" if interface == local.server.internal_interface else "internet"
                yield IN_USE.problem(
                    f"load_balancing.servers[{index}].{key}_dedicated_addresses",
                    address=dip.ip,
                    mac=facts.in_use[dip.ip],
                )


def _ipv6_left_out(settings: Settings, facts: Facts, name: str) -> Iterator[Problem]:
    interface, balancing = facts.interface(name), settings.load_balancing
    if interface is None or balancing is None or any(v.version == 6 for v in balancing.internal_virtual_addresses):
        return
    dns64 = _Tunnel(settings).dns64
    for address in interface.addresses:
        known = address.ip == dns64 or address.ip in interface.temporary or address.ip.is_link_local
        if address.version == 6 and not known:
            yield NO_IPV6.problem(
                "load_balancing.internal_virtual_addresses", address=address.ip, interface=interface.name
            )
            return


def _on_interface(facts: Facts, name: str, side: _Side, dedicated: list[HostAddress], path: str) -> Iterator[Problem]:
    interface = facts.interface(name)
    if interface is None:
        return  # the rules about the machine tell
    present = {address.ip: address for address in interface.addresses}
    for vip in side.virtual:
        if vip.ip in interface.temporary:
            yield TEMPORARY.problem(f"load_balancing.{side.virtual_key}", interface=name, address=vip.ip)
    for version in (4, 6):
        vips = [vip for vip in side.virtual if vip.version == version and vip.ip in present]
        dips = [dip for dip in dedicated if dip.version == version and dip.ip in present]
        if vips and dips:
            yield BOTH_PLUMBED.problem(path, interface=name, vip=vips[0], dip=dips[0])
    networks = {a.network for a in interface.addresses if not a.ip.is_link_local}
    for where, addresses in ((f"load_balancing.{side.virtual_key}", side.virtual), (path, dedicated)):
        for address in addresses:
            same = {network for network in networks if network.version == address.version}
            if same and address.network not in same:
                shown = ", ".join(sorted(map(str, same)))
                yield INTERFACE_NETWORK.problem(where, address=address, interface=name, present=shown)


def own_name(settings: Settings, facts: Facts) -> str | None:
    """The entry of the cluster that this machine is judged as; None when there is none.

    Without a name of its own (a document judged away from any machine) that is the server the section `server` names.
    """
    balancing = settings.load_balancing
    if balancing is None or not balancing.servers:
        return None
    name = facts.own_name if facts.own_name is not None else settings.server.name
    if balancing.server(name) is not None:
        return name
    return balancing.servers[0].name if facts.own_name is None else None


def _is_single(settings: Settings, server: ClusterServer) -> bool:
    internet = server.internet_interface or settings.server.internet_interface
    return internet == (server.internal_interface or settings.server.internal_interface)


RULES = (virtual_addresses, dedicated_addresses, unique, machine)
