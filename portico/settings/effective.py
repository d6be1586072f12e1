"""The settings with every derived value filled in, and where each came from. Pure.

With load balancing this is about one server: the document has been localised (`portico.settings.localise`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any, Literal

from portico.settings.addresses import (
    DEFAULT_POOL_PORTS,
    EVERY_IPV4,
    SERVER_CLIENT_PREFIX_LENGTH,
    Address,
    AddressPlan,
    AddressPortPool,
    PrefixMapping,
    server_prefix,
)
from portico.settings.facts import Facts
from portico.settings.localise import balanced_facts, default_client_prefix, own_server
from portico.settings.located import internal_addresses, nls_url
from portico.settings.model import Settings


@dataclass(frozen=True)
class Derived:
    """A value and its origin, as `portico settings show --effective` prints it."""

    path: str
    value: Any
    origin: str

    def as_dict(self) -> dict[str, Any]:
        value = self.value
        if isinstance(value, list | tuple):
            shown: Any = [str(item) for item in value]
        else:
            shown = value if value is None or isinstance(value, bool | int) else str(value)
        return {"path": self.path, "value": shown, "origin": self.origin}


@dataclass(frozen=True)
class Binding:
    """A static binding with the address it really has."""

    protocol: Literal["tcp", "udp"]
    client: IPv6Address
    client_port: int
    address: IPv4Address
    port: int


@dataclass(frozen=True)
class Effective:
    """What the server really uses.

    Attributes:
        client_prefix: the whole client prefix, /64 or /59; `link_prefix` the /64 of it this server advertises, which
            all servers share when client addresses roam.
        routes: what clients are told to send through the tunnel (RFC 4191 route information).
        gateway_addresses: this server's own addresses on the IP-HTTPS link.
        nat64_mappings: which prefix stands for which IPv4 addresses; empty while NAT64 is disabled.
        nat64_prefixes: the prefixes of those, each once.
        static_bindings: with their addresses filled in; those without an address that is known are left out.
        dns64_mappings: what DNS64 synthesises with; empty while it is disabled or NAT64 is.
        internal_ipv4: NAT64's source; None while it is neither set nor known.
        internal_addresses: where the intranet reaches this server; with load balancing the VIPs, then its DIPs.
        nls_url: what clients fetch to know that they are inside; None without a network location server.
        url: what clients dial.
    """

    plan: AddressPlan
    client_prefix: IPv6Network
    link_prefix: IPv6Network
    intranet_prefixes: tuple[IPv6Network, ...]
    nat64_mappings: tuple[PrefixMapping, ...]
    nat64_prefixes: tuple[IPv6Network, ...]
    nat64_pool: tuple[AddressPortPool, ...]
    static_bindings: tuple[Binding, ...]
    dns64_mappings: tuple[PrefixMapping, ...]
    dns64_address: IPv6Address | None
    tunnel_endpoints: tuple[IPv6Address, IPv6Address]
    gateway_addresses: tuple[IPv6Address, ...]
    routes: tuple[IPv6Network, ...]
    internal_ipv4: IPv4Address | None
    workers: int
    url: str
    single_interface: bool
    derived: tuple[Derived, ...]
    internal_addresses: tuple[Address, ...] = ()
    nls_url: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Path to {value, origin}, for `settings show --effective`."""
        return {
            item.path: {key: value for key, value in item.as_dict().items() if key != "path"} for item in self.derived
        }


def effective(settings: Settings, facts: Facts | None = None) -> Effective:
    """Derives everything. Values that only the machine knows are None (or 1 worker) when the facts lack them.

    Raises:
        ValueError: a prefix has a length nothing can be derived from (not /48, not /59 or /64); `verify` reports it as
            a problem and never raises.
    """
    facts = balanced_facts(settings, facts if facts is not None else Facts())
    plan = AddressPlan.of(settings.deployment.organisation_prefix)
    derived: list[Derived] = []

    def pick(path: str, given: Any, otherwise: Any, origin: str) -> Any:
        value = given if given is not None else otherwise
        derived.append(Derived(path, value, "set" if given is not None else origin))
        return value

    of_organisation = "from deployment.organisation_prefix"
    client_prefix: IPv6Network = pick(
        "ip_https.client_prefix", settings.ip_https.client_prefix, default_client_prefix(settings), of_organisation
    )
    link_prefix = _link_prefix(settings, client_prefix, pick)
    intranet = tuple(
        pick("addresses.intranet_prefixes", settings.addresses.intranet_prefixes, [plan.intranet], of_organisation)
    )
    internal_ipv4 = _internal_ipv4(settings, facts)
    pick("server.internal_ipv4", settings.server.internal_ipv4, internal_ipv4, _origin_of_internal(settings))

    nat64, dns64 = settings.nat64, settings.dns64
    mappings: tuple[PrefixMapping, ...] = ()
    pool: tuple[AddressPortPool, ...] = ()
    static: tuple[Binding, ...] = ()
    if nat64.state == "enabled":
        if not nat64.prefix_mapping:
            pick("nat64.prefix", nat64.prefix, plan.nat64, of_organisation)
        whole = [PrefixMapping(nat64.prefix or plan.nat64, EVERY_IPV4)]
        mappings = tuple(pick("nat64.prefix_mapping", nat64.prefix_mapping or None, whole, "from nat64.prefix"))
        default = [AddressPortPool(internal_ipv4, *DEFAULT_POOL_PORTS)] if internal_ipv4 is not None else []
        given = nat64.ipv4_address_port_pool or None
        pool = tuple(pick("nat64.ipv4_address_port_pool", given, default, "from server.internal_ipv4"))
        for index, binding in enumerate(nat64.static_bindings):
            address = binding.address
            if address is None and pool:
                path = f"nat64.static_bindings[{index}].address"
                address = pick(path, None, pool[0].address, "first address of the pool")
            if address is not None:
                static += (Binding(binding.protocol, binding.client, binding.client_port, address, binding.port),)
        pick("nat64.max_sessions", nat64.max_sessions, 2 * nat64.max_bindings, "twice nat64.max_bindings")
        per_client, origin = 4 * nat64.max_bindings_per_client, "four times nat64.max_bindings_per_client"
        pick("nat64.max_sessions_per_client", nat64.max_sessions_per_client, per_client, origin)
    dns64_address: IPv6Address | None = None
    synthesis: tuple[PrefixMapping, ...] = ()
    if dns64.state == "enabled":
        dns64_address = pick("dns64.address", dns64.address, plan.dns64, of_organisation)
        if mappings:
            synthesis = tuple(
                pick("dns64.prefix_mapping", dns64.prefix_mapping or None, mappings, "from nat64.prefix_mapping")
            )

    endpoints = (link_prefix.network_address + 1, link_prefix.network_address + 2)
    pick("addresses.tunnel_endpoints", None, endpoints, "from ip_https.client_prefix")
    own = (*endpoints, *((dns64_address,) if dns64_address is not None else ()))
    workers: int = pick("server.workers", settings.server.workers, facts.processors or 1, "one per processor core")
    url = connect_url(settings.deployment.connect_to, settings.ip_https.port)
    pick("ip_https.url", None, url, "from deployment.connect_to and ip_https.port")
    location_url = nls_url(settings)
    pick("network_location_server.url", settings.network_location_server.url, location_url, "a page of the servers")
    prefixes = tuple(dict.fromkeys(mapping.prefix for mapping in mappings))
    routes = _routes(plan.organisation, intranet, prefixes, dns64_address, client_prefix)
    pick("ip_https.routes", None, routes, "what clients are told to send through the tunnel")
    return Effective(
        plan=plan,
        client_prefix=client_prefix,
        link_prefix=link_prefix,
        intranet_prefixes=intranet,
        nat64_mappings=mappings,
        nat64_prefixes=prefixes,
        nat64_pool=pool,
        static_bindings=static,
        dns64_mappings=synthesis,
        dns64_address=dns64_address,
        tunnel_endpoints=endpoints,
        gateway_addresses=own,
        routes=routes,
        internal_ipv4=internal_ipv4,
        workers=workers,
        url=url,
        single_interface=settings.server.internet_interface == settings.server.internal_interface,
        derived=tuple(derived),
        internal_addresses=internal_addresses(settings, facts, internal_ipv4),
        nls_url=location_url,
    )


def connect_url(connect_to: str, port: int) -> str:
    """`https://host:port/IPHTTPS`, with an IPv6 address in brackets (RFC 3986 section 3.2.2)."""
    host = f"[{connect_to}]" if ":" in connect_to else connect_to
    return f"https://{host}:{port}/IPHTTPS"


def base_url(connect_to: str, port: int) -> str:
    """`https://host:port`, the form an enrolment token carries."""
    return connect_url(connect_to, port).removesuffix("/IPHTTPS")


def _routes(
    organisation: IPv6Network,
    intranet: tuple[IPv6Network, ...],
    nat64: tuple[IPv6Network, ...],
    dns64: IPv6Address | None,
    client_prefix: IPv6Network,
) -> tuple[IPv6Network, ...]:
    """The organisation prefix and whatever lies outside it; one route per prefix, none inside another.

    The organisation /48 is one route for all that is derived from it: a client needs no other when a prefix is added.
    """
    wanted = [organisation, *intranet, *nat64]
    if client_prefix.prefixlen < SERVER_CLIENT_PREFIX_LENGTH:  # a /64 is on the link
        wanted.append(client_prefix)
    if dns64 is not None:
        wanted.append(IPv6Network((dns64, 128)))
    kept = [
        network
        for network in dict.fromkeys(wanted)
        if not any(network != other and network.subnet_of(other) for other in wanted)
    ]
    return tuple(kept)


def _link_prefix(
    settings: Settings, client_prefix: IPv6Network, pick: Callable[[str, Any, Any, str], Any]
) -> IPv6Network:
    own, balancing = own_server(settings), settings.load_balancing
    if balancing is None or own is None:
        return server_prefix(client_prefix, 0)
    per_server = balancing.client_addresses == "per-server"
    prefix = server_prefix(client_prefix, own.prefix_index if per_server else 0)
    origin = "this server's /64 of the client prefix" if per_server else "shared by all servers: addresses roam"
    pick("ip_https.server_prefix", None, prefix, origin)
    return prefix


def _internal_ipv4(settings: Settings, facts: Facts) -> IPv4Address | None:
    if settings.server.internal_ipv4 is not None:
        return settings.server.internal_ipv4
    interface = facts.interface(settings.server.internal_interface)
    if interface is None:
        return None
    usable = [address for address in interface.ipv4 if not address.is_link_local and not address.is_loopback]
    return usable[0] if usable else None


def _origin_of_internal(settings: Settings) -> str:
    return f"first IPv4 address of {settings.server.internal_interface}"
