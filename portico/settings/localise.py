"""One document for all servers, and what one of them reads in it. Pure.

Everything that depends on the machine (derived values, the kernel, the gateway's configuration) is made from the
localised document, where the section `server` is the machine's own.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, IPv6Network

from portico.errors import NotFound
from portico.settings.addresses import Address, AddressPlan, AddressPortPool
from portico.settings.facts import Facts, Interface
from portico.settings.load_balancing import ClusterServer, LoadBalancing
from portico.settings.model import Server, Settings, StaticBinding

HostAddress = IPv4Interface | IPv6Interface
LOOPBACK = "lo"


def localise(settings: Settings, own_name: str) -> Settings:
    """The document as the server of that name reads it; without load balancing the document itself.

    `server` gets the name, interfaces and internal IPv4 address of the server. Where NAT64's pool or a static binding
    names an internal VIP, the server's own DIP stands in its place: answers to a VIP could reach any server.

    Raises:
        NotFound: code NOT_IN_CLUSTER; the cluster has no server of this name.
    """
    balancing = settings.load_balancing
    if balancing is None:
        return settings
    own = balancing.server(own_name)
    if own is None:
        raise NotFound(
            f"{own_name} is not a server of this cluster",
            why=f"load_balancing.servers has: {', '.join(server.name for server in balancing.servers) or 'none'}",
            resolution="Add it from a server of the cluster: portico lb add, or correct the name of this machine",
            code="NOT_IN_CLUSTER",
        )
    server = settings.server
    dedicated = _ipv4(own.internal_dedicated_addresses)
    local = Server(
        name=own.name,
        internet_interface=own.internet_interface or server.internet_interface,
        internal_interface=own.internal_interface or server.internal_interface,
        internal_ipv4=dedicated[0] if dedicated else None,
        workers=server.workers,
    )
    instead = _stand_ins(balancing, own)
    pool = [
        AddressPortPool(instead.get(entry.address, entry.address), entry.first, entry.last)
        for entry in settings.nat64.ipv4_address_port_pool
    ]
    statics = [_own_binding(binding, instead) for binding in settings.nat64.static_bindings]
    nat64 = settings.nat64.model_copy(update={"ipv4_address_port_pool": pool, "static_bindings": statics})
    return settings.model_copy(update={"server": local, "nat64": nat64})


def own_server(local: Settings) -> ClusterServer | None:
    """The cluster's entry of the machine a document was localised for; None without load balancing."""
    return local.load_balancing.server(local.server.name) if local.load_balancing is not None else None


def default_client_prefix(settings: Settings) -> IPv6Network | None:
    """The client prefix when none is set: P:1000::/64, with load balancing P:1000::/59; None without a /48."""
    organisation = settings.deployment.organisation_prefix
    if organisation.prefixlen != 48:
        return None
    plan = AddressPlan.of(organisation)
    return plan.client if settings.load_balancing is None else plan.client_cluster


def single_interface(local: Settings) -> bool:
    return local.server.internet_interface == local.server.internal_interface


def dedicated_by_interface(local: Settings) -> dict[str, list[HostAddress]]:
    """The machine's own DIPs by interface, each once; empty without load balancing."""
    own = own_server(local)
    if own is None:
        return {}
    found: dict[str, list[HostAddress]] = {}
    sides = (
        (local.server.internet_interface, own.internet_dedicated_addresses),
        (local.server.internal_interface, own.internal_dedicated_addresses),
    )
    for interface, addresses in sides:
        held = found.setdefault(interface, [])
        held += [address for address in addresses if address not in held]
    return found


def virtual_addresses(settings: Settings) -> tuple[Address, ...]:
    """All VIPs, each once; empty without load balancing."""
    balancing = settings.load_balancing
    return tuple(dict.fromkeys(vip.ip for vip in balancing.virtual_addresses)) if balancing is not None else ()


def balanced_facts(local: Settings, facts: Facts) -> Facts:
    """The machine as it will be when the document is in force: VIPs on `lo`, DIPs on the interfaces.

    Args:
        facts: the interfaces as the administrator has them.
    """
    if facts.interfaces is None or local.load_balancing is None:
        return facts
    virtual = set(virtual_addresses(local))
    interfaces = dict(facts.interfaces)
    for name, dedicated in dedicated_by_interface(local).items():
        interface = interfaces.get(name)
        if interface is None:
            continue
        kept = [address for address in interface.addresses if address.ip not in virtual]
        present = {address.ip for address in kept}
        added = [address for address in dedicated if address.ip not in present]
        interfaces[name] = replace(interface, addresses=(*added, *kept))
    loopback = interfaces.get(LOOPBACK, Interface(LOOPBACK))
    there = {address.ip for address in loopback.addresses}
    hosts = tuple(host_address(address) for address in virtual_addresses(local) if address not in there)
    interfaces[LOOPBACK] = replace(loopback, addresses=(*loopback.addresses, *hosts))
    return replace(facts, interfaces=interfaces)


def host_address(address: Address) -> HostAddress:
    """The address alone: /32 or /128."""
    return IPv4Interface(address) if isinstance(address, IPv4Address) else IPv6Interface(address)


def _own_binding(binding: StaticBinding, instead: dict[IPv4Address, IPv4Address]) -> StaticBinding:
    if binding.address is None or binding.address not in instead:
        return binding
    return binding.model_copy(update={"address": instead[binding.address]})


def _stand_ins(balancing: LoadBalancing, own: ClusterServer) -> dict[IPv4Address, IPv4Address]:
    """Internal IPv4 VIP to the DIP that stands for it: the DIP of the same place in its list, or the first."""
    dedicated = _ipv4(own.internal_dedicated_addresses)
    if not dedicated:
        return {}
    virtual = _ipv4(balancing.internal_virtual_addresses)
    return {vip: dedicated[index if index < len(dedicated) else 0] for index, vip in enumerate(virtual)}


def _ipv4(addresses: list[HostAddress]) -> list[IPv4Address]:
    return [address.ip for address in addresses if isinstance(address, IPv4Interface)]
