"""What the machine must have. Nothing is said about facts that were not looked at."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from portico.settings.addresses import Address
from portico.settings.facts import Facts, Interface
from portico.settings.localise import virtual_addresses
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem
from portico.settings.rules.nat64 import serves

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


def listener(settings: Settings, facts: Facts) -> Iterator[Problem]:
    internet = facts.interface(settings.server.internet_interface)
    own: set[Address] = {address.ip for address in internet.addresses} if internet is not None else set()
    own |= set(virtual_addresses(settings))
    for other in facts.listeners:
        if other.protocol == "tcp" and other.port == settings.ip_https.port and serves(other.address, own):
            yield PORT_IN_USE.problem(
                "ip_https.port", process=other.process or "a process", port=other.port, address=other.address
            )


def accept_interfaces(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if facts.interfaces is None or settings.dns64.state == "disabled":
        return
    present = ", ".join(sorted(facts.interfaces)) or "none"
    for index, name in enumerate(settings.dns64.accept_interface):
        if facts.interface(name) is None:
            yield INTERFACE_MISSING.problem(f"dns64.accept_interface[{index}]", present=present)


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
    own = [*(address.ip for address in internet.addresses), *virtual_addresses(settings)]
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


def _public(interface: Interface) -> bool:
    return any(address.version == 4 or not address.ip.is_link_local for address in interface.addresses)


def _as_address(text: str) -> tuple[IPv4Address | IPv6Address, ...] | None:
    try:
        return (ip_address(text),)
    except ValueError:
        return None


RULES = (interfaces, accept_interfaces, listener, connect_to, kernel)
