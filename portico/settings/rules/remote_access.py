"""Parts of Remote Access that this version does not have, and what rules out each other with load balancing.

Two kinds of rules: whatever a document switches on and nothing would do is refused (NOT_SUPPORTED), and beside that
the rules that hold for it on Windows, so that a document is told both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Final

from portico.settings.addresses import CLUSTER_CLIENT_PREFIX_LENGTH, SERVER_CLIENT_PREFIX_LENGTH
from portico.settings.facts import Facts
from portico.settings.load_balancing import ClusterServer, LoadBalancing
from portico.settings.model import ManageOut, Settings
from portico.settings.problems import CATALOGUE, Problem
from portico.settings.remote_access import AddressRange, overlapping

NOT_SUPPORTED = CATALOGUE.add(
    "NOT_SUPPORTED",
    what="{feature} is not supported in this version",
    why="{setting} asks for it, and nothing would be done about it",
    resolution="{instead}",
    example="teredo: {state: enabled}",
)
VPN_PREFIX_LENGTH = CATALOGUE.add(
    "VPN_PREFIX_LENGTH",
    what="The IPv6 prefix of VPN clients must be exactly a /{length}",
    why="{prefix} is a /{found}; {reason}",
    resolution="Set vpn.ipv6_prefix to a /{length}, or to null",
    example='vpn: {ipv6_prefix: "fd7c:1a2b:3c4d:2000::/64"}   # and load_balancing is set',
)
VPN_DHCP = CATALOGUE.add(
    "VPN_DHCP_IN_CLUSTER",
    what="VPN clients of a cluster cannot have addresses from DHCP",
    why="vpn.ip_address_assignment is dhcp, and the intranet would not know which server has a client",
    resolution="Set it to static, and give every server its vpn_ip_address_ranges",
    example="vpn: {state: enabled, ip_address_assignment: dhcp}   # and load_balancing is set",
)
VPN_NO_POOL = CATALOGUE.add(
    "VPN_POOL_MISSING",
    what="A server has no addresses for VPN clients",
    why="VPN is on with static pools, and {server} has none",
    resolution="Give it a range of free addresses in {setting}",
    example="vpn: {state: enabled}   # and no pool",
)
VPN_OVERLAP = CATALOGUE.add(
    "VPN_POOL_OVERLAP",
    what="Two pools of VPN addresses overlap",
    why="{first} ({first_range}) and {second} ({second_range}) share addresses, and a packet finds one server only",
    resolution="Make the pools of all servers disjoint",
    example='load_balancing: {servers: [{name: da1, vpn_ip_address_ranges: ["10.1.0.10,10.1.0.99"]}, {name: da2, '
    'vpn_ip_address_ranges: ["10.1.0.50,10.1.0.150"]}]}',
)
VPN_UNUSED = CATALOGUE.add(
    "VPN_POOL_UNUSED",
    what="There is a pool for VPN clients, but no VPN",
    why="{setting} is set, and vpn.state is disabled",
    resolution="Remove the pool",
    example='load_balancing: {servers: [{name: da1, vpn_ip_address_ranges: ["10.1.0.10,10.1.0.99"]}]}',
)
VPN_WRONG_PLACE = CATALOGUE.add(
    "VPN_POOL_OF_CLUSTER",
    what="A cluster has no pool of VPN addresses in common",
    why="vpn.ip_address_ranges is set, and every server needs a pool of its own",
    resolution="Move the ranges to vpn_ip_address_ranges of the servers, disjoint",
    example='vpn: {ip_address_ranges: ["10.1.0.10,10.1.0.99"]}   # and load_balancing is set',
)
VPN_TAKEN = CATALOGUE.add(
    "VPN_POOL_TAKEN",
    what="A pool of VPN addresses holds an address that a server has",
    why="{address} is {holder}, and lies in {range}",
    resolution="Take it out of the range",
    example="load_balancing: {internal_virtual_addresses: [10.0.0.2/24], servers: [{name: da1, vpn_ip_address_ranges: "
    '["10.0.0.1,10.0.0.99"]}]}',
)
TEREDO_EXTERNAL = CATALOGUE.add(
    "TEREDO_EXTERNAL_MANAGE_OUT",
    what="Teredo cannot be on behind an external load balancer with manage out",
    why="the balancer sends an answer of a Teredo client to any server, and a connection from the intranet to a client "
    "must stay on one",
    resolution="Set teredo.state to disabled, or access.manage_out to false",
    example="load_balancing: {mode: external, ...}   # with teredo: {state: enabled} and access: {manage_out: true}",
)
TEREDO_ADDRESSES = CATALOGUE.add(
    "TEREDO_ADDRESSES",
    what="Teredo needs two consecutive public IPv4 addresses",
    why="the {side} of {where} are: {present}",
    resolution="Give it two consecutive public IPv4 addresses, or set teredo.state to disabled",
    example="teredo: {state: enabled}   # one virtual address: 203.0.113.11",
)
ISATAP_BALANCED = CATALOGUE.add(
    "ISATAP_BALANCED",
    what="ISATAP cannot be used with load balancing",
    why="hosts would send to the virtual address, and an answer reaches a client from its own server only",
    resolution="Set isatap.state to disabled, and give the intranet native IPv6 or reach clients by static bindings",
    example="isatap: {state: enabled}   # and load_balancing is set",
)
KERBEROS_BALANCED = CATALOGUE.add(
    "KERBEROS_PROXY_BALANCED",
    what="Users cannot authenticate by Kerberos proxy with load balancing",
    why="authentication.kerberos_proxy is enabled, and its messages would go to different servers",
    resolution="Set it to disabled; computers have certificates",
    example="authentication: {kerberos_proxy: enabled}   # and load_balancing is set",
)
FORCE_TWO_FACTOR = CATALOGUE.add(
    "FORCE_TUNNEL_TWO_FACTOR",
    what="Force tunnelling and two-factor authentication exclude each other",
    why="remote_clients.force_tunnel and authentication.two_factor are enabled, and a client could not ask for its "
    "password",
    resolution="Set one of them to disabled",
    example="authentication: {two_factor: enabled}   # and remote_clients: {force_tunnel: enabled}",
)
TLS_TERMINATION = CATALOGUE.add(
    "LB_TLS_TERMINATION",
    what="A load balancer in front must pass TLS through",
    why="load_balancing.tls_termination is enabled; the client certificate would end at the balancer, and IP-HTTPS is "
    "no HTTP that a balancer understands",
    resolution="Set it to disabled, and have the balancer pass TCP port {port} through",
    example="load_balancing: {mode: external, tls_termination: enabled}",
)

_Asked = Callable[[Settings], bool]

UNSUPPORTED: Final[tuple[tuple[str, _Asked, str, str], ...]] = (
    (
        "load_balancing.mode",
        lambda s: s.load_balancing is not None and s.load_balancing.mode == "external",
        "An external load balancer",
        "Use unicast, multicast or igmp_multicast: portico lb mode",
    ),
    ("vpn.state", lambda s: s.vpn.state == "enabled", "Client VPN", "Set vpn.state to disabled"),
    ("teredo.state", lambda s: s.teredo.state == "enabled", "Teredo", "Set it to disabled; clients come by IP-HTTPS"),
    (
        "isatap.state",
        lambda s: s.isatap.state == "enabled",
        "ISATAP",
        "Set it to disabled; hosts with IPv4 only reach clients by nat64.static_bindings",
    ),
    (
        "authentication.kerberos_proxy",
        lambda s: s.authentication.kerberos_proxy == "enabled",
        "The Kerberos proxy",
        "Set it to disabled; computers have certificates",
    ),
    (
        "authentication.two_factor",
        lambda s: s.authentication.two_factor == "enabled",
        "Two-factor authentication",
        "Set it to disabled",
    ),
    (
        "authentication.health_check",
        lambda s: s.authentication.health_check == "enabled",
        "Network Access Protection",
        "Set it to disabled; Windows gave it up too",
    ),
    (
        "remote_clients.force_tunnel",
        lambda s: s.remote_clients.force_tunnel == "enabled",
        "Force tunnelling",
        "Set it to disabled; the NRPT says which names go through the tunnel",
    ),
    (
        "remote_clients.downlevel",
        lambda s: s.remote_clients.downlevel == "enabled",
        "Serving Windows 7 clients",
        "Set it to disabled",
    ),
)
"""Setting, whether a document asks for it, its name in words, and what to do instead."""


def unsupported(settings: Settings, facts: Facts) -> Iterator[Problem]:
    for setting, asked, feature, instead in UNSUPPORTED:
        if asked(settings):
            yield NOT_SUPPORTED.problem(setting, feature=feature, setting=setting, instead=instead)


def vpn(settings: Settings, facts: Facts) -> Iterator[Problem]:
    section, balancing = settings.vpn, settings.load_balancing
    yield from _vpn_prefix(settings)
    if section.state == "disabled":
        for setting, _, ranges in _pools(settings):
            if ranges:
                yield VPN_UNUSED.problem(setting, setting=setting)
    elif balancing is not None and section.ip_address_assignment == "dhcp":
        yield VPN_DHCP.problem("vpn.ip_address_assignment")
    elif section.ip_address_assignment == "static":
        for setting, server, ranges in _pools(settings):
            needed = balancing is None or setting.startswith("load_balancing.")
            if needed and not ranges:
                yield VPN_NO_POOL.problem(setting, server=server, setting=setting)
    if balancing is not None and section.ip_address_ranges:
        yield VPN_WRONG_PLACE.problem("vpn.ip_address_ranges")
    named = [
        (f"{setting}[{number}]", found)
        for setting, _, ranges in _pools(settings)
        for number, found in enumerate(ranges)
    ]
    for first, one, second, other in overlapping(named):
        yield VPN_OVERLAP.problem(second, first=first, first_range=one, second=second, second_range=other)
    for setting, found in named:
        for address, holder in _addresses(settings):
            if address in found:
                yield VPN_TAKEN.problem(setting, address=address, holder=holder, range=found)


def teredo(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if settings.teredo.state == "disabled":
        return
    balancing, manage_out = settings.load_balancing, settings.access.manage_out
    external = balancing is not None and balancing.mode == "external"
    if external and (isinstance(manage_out, ManageOut) or manage_out):
        yield TEREDO_EXTERNAL.problem("teredo.state")
    if balancing is None:
        interface = facts.interface(settings.server.internet_interface)
        if interface is not None:
            yield from _teredo_addresses("teredo.state", "IPv4 addresses", interface.name, list(interface.ipv4))
        return
    virtual = [vip.ip for vip in balancing.internet_virtual_addresses if isinstance(vip.ip, IPv4Address)]
    path = "load_balancing.internet_virtual_addresses"
    yield from _teredo_addresses(path, "virtual addresses", "the Internet side", virtual)
    for index, server in enumerate(balancing.servers if external else []):
        own = [dip.ip for dip in server.internet_dedicated_addresses if isinstance(dip.ip, IPv4Address)]
        path = f"load_balancing.servers[{index}].internet_dedicated_addresses"
        yield from _teredo_addresses(path, "dedicated addresses", server.name, own)


def balanced(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """What load balancing rules out."""
    balancing = settings.load_balancing
    if balancing is not None:
        if settings.isatap.state == "enabled":
            yield ISATAP_BALANCED.problem("isatap.state")
        if settings.authentication.kerberos_proxy == "enabled":
            yield KERBEROS_BALANCED.problem("authentication.kerberos_proxy")
        if balancing.tls_termination == "enabled":
            yield TLS_TERMINATION.problem("load_balancing.tls_termination", port=settings.ip_https.port)
    if settings.remote_clients.force_tunnel == settings.authentication.two_factor == "enabled":
        yield FORCE_TWO_FACTOR.problem("authentication.two_factor")


def _vpn_prefix(settings: Settings) -> Iterator[Problem]:
    prefix, balancing = settings.vpn.ipv6_prefix, settings.load_balancing
    length = SERVER_CLIENT_PREFIX_LENGTH if balancing is None else CLUSTER_CLIENT_PREFIX_LENGTH
    if prefix is not None and prefix.prefixlen != length:
        reason = "a server has one /64" if balancing is None else "a cluster cuts it into the /64s of up to 32 servers"
        yield VPN_PREFIX_LENGTH.problem(
            "vpn.ipv6_prefix", prefix=prefix, found=prefix.prefixlen, length=length, reason=reason
        )


def _pools(settings: Settings) -> Iterator[tuple[str, str, list[AddressRange]]]:
    """Every pool, also empty ones: its setting, its server, its ranges."""
    yield "vpn.ip_address_ranges", settings.server.name, settings.vpn.ip_address_ranges
    for index, server in enumerate(_servers(settings.load_balancing)):
        yield f"load_balancing.servers[{index}].vpn_ip_address_ranges", server.name, server.vpn_ip_address_ranges


def _servers(balancing: LoadBalancing | None) -> list[ClusterServer]:
    return balancing.servers if balancing is not None else []


def _addresses(settings: Settings) -> Iterator[tuple[IPv4Address, str]]:
    """IPv4 addresses of the servers, and whose each is."""
    balancing = settings.load_balancing
    if settings.server.internal_ipv4 is not None:
        yield settings.server.internal_ipv4, "the internal address of the server"
    for vip in balancing.virtual_addresses if balancing is not None else []:
        if isinstance(vip.ip, IPv4Address):
            yield vip.ip, "a virtual address"
    for server in _servers(balancing):
        for dip in server.dedicated_addresses:
            if isinstance(dip.ip, IPv4Address):
                yield dip.ip, f"a dedicated address of {server.name}"


def _teredo_addresses(path: str, side: str, where: str, addresses: list[IPv4Address]) -> Iterator[Problem]:
    public = {int(address) for address in addresses if not address.is_private}
    if not any(value + 1 in public for value in public):
        present = ", ".join(map(str, addresses)) or "none"
        yield TEREDO_ADDRESSES.problem(path, side=side, where=where, present=present)


RULES = (unsupported, vpn, teredo, balanced)
