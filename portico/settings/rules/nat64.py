"""NAT64's IPv4 side: the pool's addresses and ports, static bindings, limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Interface
from itertools import combinations
from typing import Any

from portico.settings.addresses import DEFAULT_POOL_PORTS, Address, AddressPortPool
from portico.settings.facts import Facts, Interface, Listener
from portico.settings.localise import default_client_prefix
from portico.settings.model import ManageOut, Settings, StaticBinding
from portico.settings.problems import CATALOGUE, Problem

SMALL_POOL = 1024

INTERNAL_IPV4 = CATALOGUE.add(
    "INTERNAL_IPV4_MISSING",
    what="NAT64 has no IPv4 address to translate to",
    why="{interface} has no IPv4 address, and none is set",
    resolution="Set server.internal_ipv4, give {interface} an IPv4 address, or set nat64.state to disabled",
    example="nat64: {state: enabled}   # the internal interface has IPv6 only",
)
ADDRESS_FOREIGN = CATALOGUE.add(
    "ADDRESS_NOT_LOCAL",
    what="An IPv4 address for NAT64 is not on this machine",
    why="{interface} does not have {address}, so the answers of the servers would not come back",
    resolution="Use one of: {present}; or add {address} to {interface}",
    example="server: {internal_ipv4: 10.9.9.9}",
)
ADDRESS_ROUTED = CATALOGUE.add(
    "NAT64_POOL_ROUTED",
    severity="warning",
    what="An address of the NAT64 pool is not on the internal interface",
    why="{address} is in no network of {interface}, so the intranet's routers must send it to this server",
    resolution="Route {address} to {gateway} on the intranet, or add it to {interface}",
    example='nat64: {ipv4_address_port_pool: ["10.99.0.1,*"]}   # the internal interface has 10.0.0.2/24',
)
POOL_OVERLAP = CATALOGUE.add(
    "NAT64_POOL_OVERLAP",
    what="Two port ranges of NAT64 overlap",
    why="{first} and {second} share ports, and a port belongs to one binding only",
    resolution="Merge the two, or make them disjoint",
    example='nat64: {ipv4_address_port_pool: ["10.0.0.2,2000-3000", "10.0.0.2,2500-4000"]}',
)
POOL_SMALL = CATALOGUE.add(
    "NAT64_POOL_SMALL",
    severity="warning",
    what="NAT64 has few ports",
    why="{ports} ports carry at most that many connections to one server address",
    resolution="Give a wider range; the default has 28232",
    example='nat64: {ipv4_address_port_pool: ["10.0.0.2,5000-5100"]}',
)
POOL_IN_USE = CATALOGUE.add(
    "NAT64_POOL_IN_USE",
    what="A port that NAT64 is to use is in use",
    why="{process} listens on {protocol} port {port}, and its packets would be taken for NAT64's",
    resolution="Choose a range without this port, or stop {process}",
    example='nat64: {ipv4_address_port_pool: ["10.0.0.2,*"]}   # a service listens on port 8080',
)
POOL_BUSY = CATALOGUE.add(
    "NAT64_POOL_BUSY",
    severity="warning",
    what="Ports that NAT64 is to use are in use by the machine itself",
    why="{count} sockets use ports of {pool} ({examples}), and packets for them would be taken for NAT64's",
    resolution="Let these connections end or restart their programs afterwards; or give a range without these ports",
    example='nat64: {ipv4_address_port_pool: ["10.0.0.2,32768-60999"]}   # a connection uses 10.0.0.2 port 40000',
)
POOL_TAKES_ALL = CATALOGUE.add(
    "NAT64_POOL_TAKES_ALL",
    severity="warning",
    what="NAT64 leaves the machine few ports of its own",
    why="only {left} of the ports 1024 to 65535 are left, and DNS64 and every outgoing connection need some",
    resolution="Give a smaller range; the default leaves 36280",
    example='nat64: {ipv4_address_port_pool: ["10.0.0.2,*"]}',
)
STATIC_CLIENT = CATALOGUE.add(
    "STATIC_BINDING_CLIENT",
    what="The client of a static binding has no address of this deployment's clients",
    why="{client} {reason}",
    resolution="Give an address of {prefix}; 'portico clients list' shows those in use",
    example='nat64: {static_bindings: [{protocol: tcp, client: "2001:db8::5", client_port: 22, port: 50022}]}',
)
STATIC_ADDRESS = CATALOGUE.add(
    "STATIC_BINDING_ADDRESS",
    what="The IPv4 address of a static binding is not NAT64's",
    why="{address} is neither an address of the pool nor the server's internal one",
    resolution="Use one of: {present}; or add {address} to nat64.ipv4_address_port_pool",
    example="nat64: {static_bindings: [{..., address: 10.9.9.9}]}",
)
STATIC_DUPLICATE = CATALOGUE.add(
    "STATIC_BINDING_DUPLICATE",
    what="A port is bound twice",
    why="{port} is in {first} already, and a port of either side has one counterpart (RFC 6146 section 3.1)",
    resolution="Remove one of the two, or choose another port",
    example="nat64: {static_bindings: [{..., port: 50022}, {..., port: 50022}]}",
)
STATIC_IN_USE = CATALOGUE.add(
    "STATIC_BINDING_IN_USE",
    what="A port of a static binding is in use",
    why="{process} listens on {protocol} port {port}, and its packets would go to the client",
    resolution="Choose a port that nothing listens on, or stop {process}",
    example="nat64: {static_bindings: [{protocol: tcp, ..., port: 22}]}   # sshd of the server has it",
)
STATIC_BUSY = CATALOGUE.add(
    "STATIC_BINDING_BUSY",
    severity="warning",
    what="A port of a static binding is in use by a connection of the machine itself",
    why="a TCP connection has port {port} of {address}, and its packets would go to the client",
    resolution="Let the connection end: ss -tnp 'sport = :{port}'. No new one gets the port: it is taken out of the "
    "machine's own",
    example="nat64: {static_bindings: [{protocol: tcp, ..., port: 50022}]}   # a connection uses 10.0.0.2 port 50022",
)
STATIC_FILTERED = CATALOGUE.add(
    "STATIC_BINDING_FILTERED",
    severity="warning",
    what="Hosts cannot open connections through static bindings",
    why="nat64.filtering is address_dependent: only a host that the client sent something to before may answer",
    resolution="Set nat64.filtering to endpoint_independent; access.manage_out limits who may open connections",
    example="nat64: {filtering: address_dependent, static_bindings: [...]}",
)
STATIC_MANAGE_OUT = CATALOGUE.add(
    "STATIC_BINDING_MANAGE_OUT",
    severity="warning",
    what="Nobody may open connections through static bindings",
    why="access.manage_out {reason}",
    resolution="Add the IPv4 prefixes of those who may to access.manage_out.from, or remove nat64.static_bindings",
    example="access: {manage_out: false}   # and nat64.static_bindings is not empty",
)
LIMITS = CATALOGUE.add(
    "NAT64_LIMITS",
    severity="warning",
    what="A limit for one client is higher than the limit for all",
    why="{setting}_per_client is {one}, and {setting} is {whole}",
    resolution="Lower the former, so that one client cannot take everything, or raise the latter",
    example="nat64: {max_bindings: 1000, max_bindings_per_client: 4096}",
)


def nat64_addresses(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if settings.nat64.state == "disabled":
        return
    internal = facts.interface(settings.server.internal_interface)
    pool = settings.nat64.ipv4_address_port_pool
    if internal is None:
        return
    if not pool and settings.server.internal_ipv4 is None and not _usable_ipv4(internal):
        yield INTERNAL_IPV4.problem("nat64.ipv4_address_port_pool", interface=internal.name)
    wanted: list[tuple[str, IPv4Address]] = [
        (f"nat64.ipv4_address_port_pool[{index}]", entry.address) for index, entry in enumerate(pool)
    ]
    if settings.server.internal_ipv4 is not None:
        wanted.append(("server.internal_ipv4", settings.server.internal_ipv4))
    routed = _routed(settings, facts, internal)
    usable = _usable_ipv4(internal)
    for path, address in wanted:
        if address in internal.ipv4:
            continue
        if address in routed:
            gateway = settings.server.internal_ipv4 or (usable[0] if usable else internal.name)
            yield ADDRESS_ROUTED.problem(path, interface=internal.name, address=address, gateway=gateway)
        else:
            present = ", ".join(map(str, internal.ipv4)) or "(none)"
            yield ADDRESS_FOREIGN.problem(path, interface=internal.name, address=address, present=present)


def nat64_ports(settings: Settings, facts: Facts) -> Iterator[Problem]:
    pool = settings.nat64.ipv4_address_port_pool
    if settings.nat64.state == "disabled":
        return
    for (index, first), (_, second) in combinations(enumerate(pool), 2):
        if first.overlaps(second):
            yield POOL_OVERLAP.problem(f"nat64.ipv4_address_port_pool[{index}]", first=first, second=second)
    path = "nat64.ipv4_address_port_pool"
    ports = {port for entry in pool for port in range(entry.first, entry.last + 1)}
    total = sum(entry.last - entry.first + 1 for entry in pool)
    if pool and total < SMALL_POOL:
        yield POOL_SMALL.problem(path, ports=total)
    left = 64_512 - len([port for port in ports if port >= 1024])
    if pool and left < 4096:
        yield POOL_TAKES_ALL.problem(path, left=left)
    for other in facts.listeners:
        if any(e.first <= other.port <= e.last and serves(other.address, {e.address}) for e in pool):
            yield POOL_IN_USE.problem(
                path, process=other.process or "a process", protocol=other.protocol.upper(), port=other.port
            )


def nat64_busy(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """Sockets of the machine in the pool, the default one too; what a configured pool refuses is told above."""
    if settings.nat64.state == "disabled":
        return
    pool = settings.nat64.ipv4_address_port_pool
    ranges = [(p.address, p.first, p.last) for p in _pool(settings, facts)]
    sockets = facts.connections if pool else (*facts.connections, *facts.listeners)
    busy = sorted(
        {
            (other.port, other.protocol.upper())
            for other in sockets
            for address, first, last in ranges
            if first <= other.port <= last and (other.address.is_unspecified or other.address == address)
        }
    )
    if busy:
        examples = ", ".join(f"{protocol} port {port}" for port, protocol in busy[:5])
        text = ", ".join(f"{address},{first}-{last}" for address, first, last in ranges)
        yield POOL_BUSY.problem("nat64.ipv4_address_port_pool", count=len(busy), pool=text, examples=examples)


def static_bindings(settings: Settings, facts: Facts) -> Iterator[Problem]:
    nat64 = settings.nat64
    if nat64.state == "disabled" or not nat64.static_bindings:
        return
    pool = _pool(settings, facts)
    allowed = {entry.address for entry in pool}
    if (own := _internal(settings, facts)) is not None:
        allowed.add(own)
    listeners, connections = _by_port(facts.listeners), _by_port(facts.connections)
    seen: dict[tuple[object, ...], str] = {}
    for index, binding in enumerate(nat64.static_bindings):
        path = f"nat64.static_bindings[{index}]"
        address = binding.address or (pool[0].address if pool else None)
        yield from _static_client(settings, path, binding)
        if binding.address is not None and allowed and binding.address not in allowed:
            present = ", ".join(map(str, sorted(allowed)))
            yield STATIC_ADDRESS.problem(f"{path}.address", address=binding.address, present=present)
        protocol = binding.protocol.upper()
        ends = (
            (f"{protocol} port {binding.port} of {address or 'the pool'}", (binding.protocol, address, binding.port)),
            (
                f"{protocol} port {binding.client_port} of {binding.client}",
                (binding.protocol, binding.client, binding.client_port),
            ),
        )
        for text, key in ends:
            first = seen.setdefault(key, path)
            if first != path:
                yield STATIC_DUPLICATE.problem(path, port=text, first=first)
        here = (binding.protocol, binding.port)
        yield from _static_port(settings, listeners.get(here, []), connections.get(here, []), path, binding, address)
    yield from _static_access(settings)


def _static_client(settings: Settings, path: str, binding: StaticBinding) -> Iterator[Problem]:
    prefix = settings.ip_https.client_prefix or default_client_prefix(settings)
    if prefix is None:
        return
    reason = None
    if binding.client not in prefix:
        reason = f"is not in {prefix}"
    elif int(binding.client) - int(prefix.network_address) <= 2:
        reason = "is an address of the server itself"
    if reason is not None:
        yield STATIC_CLIENT.problem(f"{path}.client", client=binding.client, reason=reason, prefix=prefix)


def _by_port(sockets: Iterable[Listener]) -> dict[tuple[str, int], list[Listener]]:
    found: dict[tuple[str, int], list[Listener]] = {}
    for item in sockets:
        found.setdefault((item.protocol, item.port), []).append(item)
    return found


def _static_port(
    settings: Settings,
    listeners: list[Listener],
    connections: list[Listener],
    path: str,
    binding: StaticBinding,
    address: IPv4Address | None,
) -> Iterator[Problem]:
    """Args: listeners, connections: those with this protocol and port."""
    path = f"{path}.port"
    own = {address} if address is not None else set()
    text: dict[str, Any] = {"protocol": binding.protocol.upper(), "port": binding.port}
    server = settings.server
    if (binding.protocol, binding.port) == (
        "tcp",
        settings.ip_https.port,
    ) and server.internet_interface == server.internal_interface:
        yield STATIC_IN_USE.problem(path, process="Portico itself (ip_https.port)", **text)
    for other in listeners:
        if serves(other.address, own):
            yield STATIC_IN_USE.problem(path, process=other.process or "a process", **text)
            break
    for other in connections:
        if other.address in own:
            yield STATIC_BUSY.problem(path, port=binding.port, address=address)
            break


def _static_access(settings: Settings) -> Iterator[Problem]:
    if settings.nat64.filtering == "address_dependent":
        yield STATIC_FILTERED.problem("nat64.filtering")
    manage_out = settings.access.manage_out
    reason = None
    if manage_out is False:
        reason = "is false"
    elif isinstance(manage_out, ManageOut) and all(source.version == 6 for source in manage_out.sources):
        reason = "lists no IPv4 prefix"
    if reason is not None:
        yield STATIC_MANAGE_OUT.problem("access.manage_out", reason=reason)


def limits(settings: Settings, facts: Facts) -> Iterator[Problem]:
    nat64 = settings.nat64
    if nat64.state == "disabled":
        return
    pairs = (
        ("nat64.max_bindings", nat64.max_bindings_per_client, nat64.max_bindings),
        ("nat64.max_sessions", nat64.max_sessions_per_client, nat64.max_sessions),
    )
    for path, one, whole in pairs:
        if one is not None and whole is not None and one > whole:
            yield LIMITS.problem(f"{path}_per_client", setting=path, one=one, whole=whole)


def serves(address: Address, own: set[IPv4Address] | set[Address]) -> bool:
    """Whether a socket bound to an address takes packets for one of ours. Nothing known about ours: it may."""
    return address.is_unspecified or not own or address in own


def _pool(settings: Settings, facts: Facts) -> list[AddressPortPool]:
    """The pool in force, the default one too, as far as the machine's address is known."""
    own = _internal(settings, facts)
    default = [AddressPortPool(own, *DEFAULT_POOL_PORTS)] if own is not None else []
    return settings.nat64.ipv4_address_port_pool or default


def _internal(settings: Settings, facts: Facts) -> IPv4Address | None:
    if settings.server.internal_ipv4 is not None:
        return settings.server.internal_ipv4
    internal = facts.interface(settings.server.internal_interface)
    usable = _usable_ipv4(internal) if internal is not None else []
    return usable[0] if usable else None


def _routed(settings: Settings, facts: Facts, internal: Interface) -> set[IPv4Address]:
    """Addresses of the pool that routers can send here: nobody asks for them by ARP on a link of this machine."""
    links = [
        address.network
        for interface in (facts.interfaces or {}).values()
        for address in interface.addresses
        if isinstance(address, IPv4Interface) and address.network.prefixlen < 31 and interface.name != "lo"
    ]
    pool = {entry.address for entry in settings.nat64.ipv4_address_port_pool} - {settings.server.internal_ipv4}
    return {address for address in pool if address is not None and not any(address in link for link in links)}


def _usable_ipv4(interface: Interface) -> list[IPv4Address]:
    return [address for address in interface.ipv4 if not address.is_link_local and not address.is_loopback]


RULES = (nat64_addresses, nat64_ports, nat64_busy, static_bindings, limits)
