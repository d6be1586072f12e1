"""What the machine must have. Nothing is said about facts that were not looked at."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import combinations

from portico.settings.addresses import DEFAULT_POOL_PORTS, Address
from portico.settings.facts import Facts, Interface
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem

SMALL_POOL = 1024

INTERFACE_MISSING = CATALOGUE.add(
    "INTERFACE_MISSING",
    what="There is no such network interface",
    why="the machine has: {present}",
    resolution="Correct the name, or attach the interface; list them with: ip link",
    example="server: {internet_interface: eth9}",
)
INTERFACE_DOWN = CATALOGUE.add(
    "INTERFACE_DOWN",
    severity="warning",
    what="A network interface is down",
    why="{interface} is not up, so nothing arrives there",
    resolution="Bring it up: ip link set {interface} up",
    example="server: {internet_interface: eth0}   # eth0 is down",
)
INTERFACE_NO_ADDRESS = CATALOGUE.add(
    "INTERFACE_NO_ADDRESS",
    what="The Internet interface has no address",
    why="{interface} has neither an IPv4 nor a global IPv6 address, so clients cannot reach it",
    resolution="Give it the address that the ConnectTo name stands for",
    example="server: {internet_interface: eth0}   # eth0 has no address",
)
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
PORT_IN_USE = CATALOGUE.add(
    "LISTENER_PORT_IN_USE",
    what="The port of the listener is in use",
    why="{process} listens on TCP port {port} of {address}",
    resolution="Stop {process}, or choose another ip_https.port",
    example="ip_https: {port: 443}   # a web server has it",
)
CONNECT_TO_UNRESOLVED = CATALOGUE.add(
    "CONNECT_TO_UNRESOLVED",
    severity="warning",
    what="The ConnectTo name does not resolve",
    why="no DNS server gave an address for {name}",
    resolution="Add an A or AAAA record for it to the public DNS",
    example="deployment: {connect_to: typo.example.net}",
)
CONNECT_TO_ELSEWHERE = CATALOGUE.add(
    "CONNECT_TO_ELSEWHERE",
    severity="warning",
    what="The ConnectTo address is not on this machine",
    why="{connect_to} stands for {addresses}, and {interface} has {present}",
    resolution="Correct the DNS record, or make sure that the NAT or balancer in front passes TCP port {port} here",
    example="deployment: {connect_to: 198.51.100.7}",
)
KERNEL = CATALOGUE.add(
    "KERNEL_LACKS",
    what="The kernel lacks something Portico needs",
    why="{feature} is not available in kernel {release}",
    resolution="{resolution}",
    example="server: {name: da1}   # a kernel without TUN",
)
TOO_MANY_WORKERS = CATALOGUE.add(
    "TOO_MANY_WORKERS",
    severity="warning",
    what="There are more workers than processor cores",
    why="{workers} workers share {cores} cores",
    resolution="Remove server.workers: one per core is used then",
    example="server: {workers: 64}",
)


def interfaces(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if facts.interfaces is None:
        return
    server = settings.server
    present = ", ".join(sorted(facts.interfaces)) or "none"
    for key in ("internet_interface", "internal_interface"):
        name = getattr(server, key)
        interface = facts.interface(name)
        if interface is None:
            yield INTERFACE_MISSING.problem(f"server.{key}", present=present)
        elif not interface.up:
            yield INTERFACE_DOWN.problem(f"server.{key}", interface=name)
    internet = facts.interface(server.internet_interface)
    if internet is not None and not _public(internet):
        yield INTERFACE_NO_ADDRESS.problem("server.internet_interface", interface=internet.name)


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
    for path, address in wanted:
        if address not in internal.ipv4:
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
    for listener in facts.listeners:
        if listener.port in ports and _serves(listener.address, {entry.address for entry in pool}):
            yield POOL_IN_USE.problem(
                path, process=listener.process or "a process", protocol=listener.protocol.upper(), port=listener.port
            )


def nat64_busy(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """Sockets of the machine in the pool, the default one too; what a configured pool refuses is told above."""
    if settings.nat64.state == "disabled":
        return
    pool = settings.nat64.ipv4_address_port_pool
    internal = facts.interface(settings.server.internal_interface)
    usable = _usable_ipv4(internal) if internal is not None else []
    own = [settings.server.internal_ipv4] if settings.server.internal_ipv4 is not None else usable[:1]
    ranges = [(p.address, p.first, p.last) for p in pool] or [(address, *DEFAULT_POOL_PORTS) for address in own]
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


def listener(settings: Settings, facts: Facts) -> Iterator[Problem]:
    internet = facts.interface(settings.server.internet_interface)
    own: set[Address] = {address.ip for address in internet.addresses} if internet is not None else set()
    for other in facts.listeners:
        if other.protocol == "tcp" and other.port == settings.ip_https.port and _serves(other.address, own):
            yield PORT_IN_USE.problem(
                "ip_https.port", process=other.process or "a process", port=other.port, address=other.address
            )


def connect_to(settings: Settings, facts: Facts) -> Iterator[Problem]:
    name = settings.deployment.connect_to
    internet = facts.interface(settings.server.internet_interface)
    addresses = _as_address(name)
    if addresses is None:
        if name not in facts.resolved:
            return
        addresses = facts.resolved[name]
        if not addresses:
            yield CONNECT_TO_UNRESOLVED.problem("deployment.connect_to", name=name)
            return
    if internet is None:
        return
    own = [address.ip for address in internet.addresses]
    if not set(addresses) & set(own):
        yield CONNECT_TO_ELSEWHERE.problem(
            "deployment.connect_to",
            connect_to=name,
            addresses=", ".join(map(str, addresses)),
            interface=internet.name,
            present=", ".join(map(str, own)) or "no address",
            port=settings.ip_https.port,
        )


def kernel(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if facts.kernel is not None:
        needs = (
            (facts.kernel.tun, "TUN (/dev/net/tun)", "Load it: modprobe tun"),
            (facts.kernel.nftables, "nftables", "Install it: apt-get install nftables; modprobe nf_tables"),
            (facts.kernel.ipv6, "IPv6", "Remove ipv6.disable=1 from the kernel's command line"),
        )
        for present, feature, resolution in needs:
            if not present:
                yield KERNEL.problem(
                    "", feature=feature, release=facts.kernel.release or "(unknown)", resolution=resolution
                )
    workers = settings.server.workers
    if facts.processors is not None and workers is not None and workers > facts.processors:
        yield TOO_MANY_WORKERS.problem("server.workers", workers=workers, cores=facts.processors)


def _usable_ipv4(interface: Interface) -> list[IPv4Address]:
    return [address for address in interface.ipv4 if not address.is_link_local and not address.is_loopback]


def _public(interface: Interface) -> bool:
    return any(address.version == 4 or not address.ip.is_link_local for address in interface.addresses)


def _serves(address: Address, own: set[IPv4Address] | set[Address]) -> bool:
    """Whether a socket bound to an address takes packets for one of ours. Nothing known about ours: it may."""
    return address.is_unspecified or not own or address in own


def _as_address(text: str) -> tuple[IPv4Address | IPv6Address, ...] | None:
    try:
        return (ip_address(text),)
    except ValueError:
        return None


RULES = (interfaces, nat64_addresses, nat64_ports, nat64_busy, listener, connect_to, kernel)
