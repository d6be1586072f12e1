"""From settings to the kernel that they mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Literal, TypeVar

from portico.server.reconcile.wanted import (
    MAIN_TABLE,
    NAT64_TABLE,
    TRANSLATOR,
    TRANSLATOR_ADDRESS,
    TUNNEL,
    Device,
    DeviceAddress,
    Filter,
    HostAddresses,
    LevelFilter,
    LocationFilter,
    Pool,
    Route,
    StaticPort,
    Wanted,
)
from portico.settings.addresses import Network
from portico.settings.effective import Effective
from portico.settings.localise import LOOPBACK, dedicated_by_interface, host_address, virtual_addresses
from portico.settings.located import all_internal_addresses, nls_port, serves_nls
from portico.settings.model import ManageOut, Settings
from portico.transition.addressing import tunnel_addresses
from portico.transition.iphttps import MTU

NAT64_MTU = 1500

N = TypeVar("N", IPv4Network | IPv6Network, IPv4Network, IPv6Network)


def desired_kernel(
    settings: Settings,
    values: Effective,
    *,
    closed: frozenset[Literal[4, 6]],
    accepts_advertisements: tuple[str, ...] = (),
) -> Wanted:
    """What this server's kernel should hold.

    Args:
        settings: as this machine reads them (`portico.settings.localise`).
        closed: families the machine does not forward by itself, see `Filter.closed`.
        accepts_advertisements: interfaces that take their routes from router advertisements now. A forwarding machine
            ignores those unless told otherwise, and would lose its default route.
    """
    nat64 = bool(values.nat64_mappings and values.nat64_pool)
    internal = settings.server.internal_interface
    devices = [Device(TUNNEL, MTU, values.workers)]
    addresses = [DeviceAddress(TUNNEL, IPv6Interface((a.address, a.prefix_length))) for a in tunnel_addresses(values)]
    routes = [Route(6, MAIN_TABLE, str(values.link_prefix), TUNNEL)]
    sysctls = {f"net/ipv6/conf/{name}/accept_ra": "2" for name in accepts_advertisements}
    sysctls |= {
        f"net/ipv6/conf/{TUNNEL}/accept_ra": "0",
        f"net/ipv6/conf/{TUNNEL}/accept_redirects": "0",
        "net/ipv6/conf/all/forwarding": "1",
    }
    if nat64:
        devices.append(Device(TRANSLATOR, NAT64_MTU, values.workers))
        addresses.append(DeviceAddress(TRANSLATOR, TRANSLATOR_ADDRESS))
        routes.append(Route(4, NAT64_TABLE, "default", TRANSLATOR))
        sysctls |= {
            f"net/ipv4/conf/{TRANSLATOR}/accept_local": "1",
            # The kernel uses the larger of this and conf/all: loose, whatever the machine has there.
            f"net/ipv4/conf/{TRANSLATOR}/rp_filter": "2",
            f"net/ipv4/conf/{TRANSLATOR}/forwarding": "1",
            # Only these two interfaces forward; the machine as a whole need not.
            f"net/ipv4/conf/{internal}/forwarding": "1",
        }
    moved = host_addresses(settings)
    # Without it an interface that loses the first address of a network loses all others of that network too.
    sysctls |= {
        f"net/ipv4/conf/{item.interface}/promote_secondaries": "1" for item in moved if item.interface != LOOPBACK
    }
    for item in moved:
        if item.interface != LOOPBACK:
            # VIPs are on lo: what is said about them says the balancer, with the cluster's MAC address.
            sysctls |= {
                f"net/ipv4/conf/{item.interface}/arp_ignore": "1",
                f"net/ipv4/conf/{item.interface}/arp_announce": "2",
            }
    pools = tuple(Pool(p.address, p.first, p.last) for p in values.nat64_pool) if nat64 else ()
    statics = tuple(StaticPort(b.address, b.protocol, b.port) for b in values.static_bindings) if nat64 else ()
    reserved = {*((pool.first, pool.last) for pool in pools), *((static.port, static.port) for static in statics)}
    return Wanted(
        devices=tuple(devices),
        addresses=tuple(addresses),
        routes=tuple(routes),
        steer=nat64,
        sysctls=sysctls,
        reserved_ports=tuple(sorted(reserved)),
        filter=Filter(
            internet_interface=settings.server.internet_interface,
            internal_interface=internal,
            client_prefix=values.link_prefix,
            dns64_address=values.dns64_address,
            own_prefixes=_own_prefixes(values),
            pools=pools,
            destinations=_destinations(settings),
            sources=_sources(settings),
            client_to_client=settings.access.client_to_client,
            other_clients=values.client_prefix if settings.load_balancing is not None else None,
            closed=closed,
            statics=tuple(sorted(statics)),
            openers=_openers(settings),
            dns64_interfaces=tuple(dict.fromkeys(settings.dns64.accept_interface)),
            location=_location(settings, values),
            levels=_levels(settings),
        ),
        host_addresses=moved,
    )


def _location(settings: Settings, values: Effective) -> LocationFilter:
    return LocationFilter(
        own=values.internal_addresses,
        all_servers=all_internal_addresses(settings, values.internal_addresses),
        nls_port=nls_port(settings) if serves_nls(settings) else None,
        web_probe_port=settings.web_probe.port if settings.web_probe.state == "enabled" else None,
    )


def _levels(settings: Settings) -> LevelFilter | None:
    if settings.access.user_authentication == "none":
        return None
    addresses = {address for server in settings.management_servers for address in server.addresses}
    return LevelFilter(
        management=tuple(sorted(address for address in addresses if isinstance(address, IPv6Address))),
        hosts=tuple(sorted(address for address in addresses if isinstance(address, IPv4Address))),
    )


def host_addresses(settings: Settings) -> tuple[HostAddresses, ...]:
    """The VIPs on `lo` and the DIPs on the interfaces; nothing without load balancing.

    On `lo` no server answers the whole network's questions for them by itself, and they are local on every server.
    """
    virtual = virtual_addresses(settings)
    if not virtual:
        return ()
    interfaces = dedicated_by_interface(settings)
    return (
        HostAddresses(LOOPBACK, tuple(host_address(address) for address in virtual)),
        *(HostAddresses(name, tuple(dedicated), virtual) for name, dedicated in interfaces.items()),
    )


def kept_addresses(settings: Settings) -> tuple[HostAddresses, ...]:
    """What a server that stops leaves on its interfaces: among others its DIPs, because those answer for the VIPs."""
    balancing = settings.load_balancing
    if balancing is None or len(balancing.servers) < 2:
        return ()
    return tuple(item for item in host_addresses(settings) if item.interface != LOOPBACK)


def _own_prefixes(values: Effective) -> tuple[IPv6Network, ...]:
    prefixes = [values.client_prefix]
    if values.dns64_address is not None:
        prefixes.append(IPv6Network((values.dns64_address, 128)))
    prefixes += values.nat64_prefixes
    return _disjoint(prefixes)


def _disjoint(networks: Iterable[N]) -> tuple[N, ...]:
    """Without prefixes that lie in another one: nftables refuses overlapping intervals."""
    unique = list(dict.fromkeys(networks))
    return tuple(n for n in unique if not any(n != o and n.version == o.version and _inside(n, o) for o in unique))


def _inside(network: Network, other: Network) -> bool:
    return other.prefixlen <= network.prefixlen and network.network_address in other


def _destinations(settings: Settings) -> tuple[Network, ...] | None:
    if "any" in settings.access.intranet:
        return None
    return _disjoint([network for network in settings.access.intranet if not isinstance(network, str)])


def _sources(settings: Settings) -> tuple[IPv6Network, ...] | None:
    manage_out = settings.access.manage_out
    if isinstance(manage_out, ManageOut):
        return _disjoint([network for network in manage_out.sources if isinstance(network, IPv6Network)])
    return None if manage_out else ()


def _openers(settings: Settings) -> tuple[IPv4Network, ...] | None:
    manage_out = settings.access.manage_out
    if isinstance(manage_out, ManageOut):
        return _disjoint([network for network in manage_out.sources if isinstance(network, IPv4Network)])
    return None if manage_out else ()
