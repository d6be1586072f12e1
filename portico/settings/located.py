"""What follows from the sections about location and corporate DNS: names, URLs, ports. Pure.

Where a function takes a localised document (`portico.settings.localise`), it says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from portico.settings.addresses import Address, PrefixMapping, embed_ipv4, mapping_of
from portico.settings.facts import Facts
from portico.settings.localise import own_server, single_interface
from portico.settings.location import (
    CORP_CONNECTIVITY_LABEL,
    NLS_LABEL,
    NLS_PORT,
    SINGLE_ADAPTER_NLS_PORT,
    WEB_PROBE_LABEL,
)
from portico.settings.model import Settings


def corp_connectivity_name(settings: Settings) -> str:
    """The name that clients resolve, and never connect to, to learn whether a way in works."""
    return f"{CORP_CONNECTIVITY_LABEL}.{settings.deployment.domain}"


def corp_connectivity_addresses(settings: Settings, nat64_mappings: Iterable[PrefixMapping]) -> tuple[Address, ...]:
    """What that name has: ::1 where the intranet has IPv6; else 127.0.0.1 and the address that NAT64 makes of it.

    Clients ask through DNS64, which would make the second of the first; it is there for those that ask elsewhere.
    """
    if native_ipv6(settings):
        return (IPv6Address("::1"),)
    loopback = IPv4Address("127.0.0.1")
    mapping = mapping_of(nat64_mappings, loopback)
    return (loopback, embed_ipv4(mapping.prefix, loopback)) if mapping is not None else (loopback,)


def web_probe_name(settings: Settings) -> str:
    return settings.web_probe.name or f"{WEB_PROBE_LABEL}.{settings.deployment.domain}"


def serves_nls(settings: Settings) -> bool:
    """Whether the servers themselves are the network location server."""
    return settings.network_location_server.state == "enabled" and settings.network_location_server.url is None


def nls_name(settings: Settings) -> str | None:
    """The host name of the network location server; None without one."""
    section = settings.network_location_server
    if section.state == "disabled":
        return None
    if section.url is not None:
        return urlsplit(section.url).hostname
    return section.name or f"{NLS_LABEL}.{settings.deployment.domain}"


def nls_port(local: Settings) -> int:
    """The port of the servers' own page, of a localised document."""
    default = SINGLE_ADAPTER_NLS_PORT if single_interface(local) else NLS_PORT
    return local.network_location_server.port or default


def nls_url(local: Settings) -> str | None:
    """What clients fetch, of a localised document; None without a network location server."""
    name = nls_name(local)
    if name is None or local.network_location_server.url is not None:
        return local.network_location_server.url if name is not None else None
    port = nls_port(local)
    return f"https://{name}/" if port == NLS_PORT else f"https://{name}:{port}/"


def zone(settings: Settings) -> str:
    """The zone of the records."""
    return settings.corporate_dns.zone or settings.deployment.domain


def within_zone(name: str, of: str) -> bool:
    name, of = name.lower(), of.lower()
    return name == of or name.endswith(f".{of}")


def native_ipv6(settings: Settings) -> bool:
    """Whether the intranet has IPv6 of its own, so that clients need no address made from an IPv4 one."""
    if settings.corporate_dns.native_ipv6 is not None:
        return settings.corporate_dns.native_ipv6
    return settings.nat64.state == "disabled" or not settings.dns64.only_send_a_query


def internal_addresses(local: Settings, facts: Facts, internal_ipv4: IPv4Address | None) -> tuple[Address, ...]:
    """The server's own addresses on the intranet, of a localised document, those that clients are told of first.

    With load balancing the VIPs, then the server's DIPs. Otherwise the IPv4 address in use and the lasting IPv6
    addresses of the interface.
    """
    own, balancing = own_server(local), local.load_balancing
    if balancing is not None and own is not None:
        found = [*balancing.internal_virtual_addresses, *own.internal_dedicated_addresses]
        return tuple(dict.fromkeys(address.ip for address in found))
    interface = facts.interface(local.server.internal_interface)
    addresses: list[Address] = [internal_ipv4] if internal_ipv4 is not None else []
    if interface is not None:
        addresses += [
            address.ip
            for address in interface.addresses
            if address.version == 6 and not address.ip.is_link_local and address.ip not in interface.temporary
        ]
    return tuple(dict.fromkeys(addresses))


def advertised_addresses(local: Settings, internal: tuple[Address, ...]) -> tuple[Address, ...]:
    """Those of `internal_addresses` that DNS names point to: the VIPs, or without load balancing all of them."""
    if local.load_balancing is None:
        return internal
    virtual = {address.ip for address in local.load_balancing.internal_virtual_addresses}
    return tuple(address for address in internal if address in virtual)


def all_internal_addresses(local: Settings, internal: tuple[Address, ...]) -> tuple[Address, ...]:
    """The addresses of every server of the cluster on the intranet, VIPs among them."""
    if local.load_balancing is None:
        return internal
    found = [*local.load_balancing.internal_virtual_addresses]
    for server in local.load_balancing.servers:
        found += server.internal_dedicated_addresses
    return tuple(dict.fromkeys(address.ip for address in found))
