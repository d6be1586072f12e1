"""Rules about the machines of all servers together: what each said of itself, compared.

What one machine alone can be wrong about is told by the other rules, on that machine. Nothing is said about facts that
were not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Any

from portico.settings.facts import CertificateFile, Facts, Interface
from portico.settings.localise import localise
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Kind, Problem
from portico.settings.rules.certificates import NAME_MISMATCH, names_cover
from portico.versions import side_by_side

UNREACHABLE = CATALOGUE.add(
    "SERVER_NOT_CHECKED",
    what="{server} cannot be checked",
    why="{why}",
    resolution="{resolution}",
    example="portico check   # while da2 is without power",
)
VERSION = CATALOGUE.add(
    "SERVER_VERSION",
    severity="warning",
    what="The servers run different versions of Portico",
    why="{server} has {version}, and {first} has {first_version}; they work together for the time of an upgrade, and "
    "nobody can join meanwhile",
    resolution="Finish the upgrade, one server at a time: portico cluster upgrade shows what is next",
    example="portico check   # da1 has 0.2.0, da2 0.1.0",
)
APART = CATALOGUE.add(
    "SERVER_VERSION_APART",
    what="The servers run versions of Portico that do not work together",
    why="{server} has {version}, and {first} has {first_version}; only neighbouring minor versions do",
    resolution="Bring {server} to a version beside {first_version} first: portico server upgrade --wheel FILE, there",
    example="portico check   # da1 has 0.4.0, da2 0.1.0",
)
NO_ADAPTER = CATALOGUE.add(
    "SERVER_ADAPTER",
    what="A server lacks a network adapter that the first one has",
    why="{server} has no {interface} for the {side} side; on {first} that is {first_interface}",
    resolution="Attach it to {server}, or name another one in {setting}",
    example="portico check   # eth0 of da2 was removed",
)
MTU = CATALOGUE.add(
    "SERVER_MTU",
    severity="warning",
    what="The adapters of the servers have different MTUs",
    why="{interface} of {server} has {mtu}, {first_interface} of {first} has {first_mtu}; a client that moves "
    "there sees packets vanish",
    resolution="Set the same: ip link set {interface} mtu {first_mtu}, on {server}",
    example="portico check   # eth1 of da2 has MTU 1400",
)
SUBNET = CATALOGUE.add(
    "SERVER_SUBNET",
    what="A server is in another IPv4 subnet than the first one",
    why="{interface} of {server} is in {present}, and {first_interface} of {first} in {first_present}",
    resolution="Connect {server} to the network of {first}: all servers are in one subnet on each side",
    example="portico check   # eth1 of da1 is in 10.0.0.0/24, of da2 in 10.0.1.0/24",
)
METHOD = CATALOGUE.add(
    "CERTIFICATE_METHOD",
    what="The certificates of the servers were not issued the same way",
    why="that of {server} is {method}, and that of {first} is {first_method}",
    resolution="Get a certificate for {server} from where {first} has its own",
    example="certificates: {mode: imported, ...}   # self-signed on da2, from a CA on da1",
)
NLS_SUBJECT = CATALOGUE.add(
    "NLS_CERTIFICATE_SUBJECT",
    what="The network location server has different names on the servers",
    why="its certificate is for {subject} on {server}, and for {first_subject} on {first}",
    resolution="Use certificates with one subject on all servers",
    example="portico check   # nls.corp.example.net on da1, nls2.corp.example.net on da2",
)
NLS_CONNECT_TO = CATALOGUE.add(
    "NLS_CERTIFICATE_CONNECT_TO",
    what="The network location server has the ConnectTo name",
    why="its certificate on {server} covers {connect_to}, which clients reach from the Internet; they would think that "
    "they are on the intranet",
    resolution="Give the network location server a name that is known on the intranet only",
    example="portico check   # both certificates are for da.example.net",
)
CONNECT_TO_DIFFERS = CATALOGUE.add(
    "CONNECT_TO_DIFFERS",
    severity="warning",
    what="The ConnectTo name stands for different addresses",
    why="{server} finds {addresses} for {name}, and {first} finds {first_addresses}",
    resolution="Correct the DNS servers that {server} asks: cat /etc/resolv.conf, there",
    example="portico check   # da2 asks another DNS server",
)
ADDRESS_IN_USE = CATALOGUE.add(
    "SERVER_ADDRESS_IN_USE",
    what="An address of this server is in use elsewhere",
    why="the machine with the MAC address {mac} answers for {address} too",
    resolution="Take it from that machine, which the switch finds by its MAC address, or give this server another",
    example="portico check   # a printer has 10.0.0.2",
)


@dataclass(frozen=True)
class Finding:
    """A problem and the servers that have it; none: it is about the document or all of them."""

    problem: Problem
    servers: tuple[str, ...] = ()


Machines = Mapping[str, Facts]
"""What is known of the machines that answered, by their server's name, in the order of the document."""

MachinesRule = Callable[[Settings, Machines], Iterator[Finding]]


def versions(settings: Settings, machines: Machines) -> Iterator[Finding]:
    known = {name: facts.version for name, facts in machines.items() if facts.version}
    for first, server in _others(known):
        if known[server] != known[first]:
            kind = VERSION if side_by_side(known[server], known[first]) else APART
            yield _finding(kind, server, "", version=known[server], first=first, first_version=known[first])


def adapters(settings: Settings, machines: Machines) -> Iterator[Finding]:
    """The same adapters, MTUs and subnets on both sides."""
    known = {name: facts for name, facts in machines.items() if facts.interfaces is not None}
    for side, key in (("Internet", "internet_interface"), ("internal", "internal_interface")):
        named = {name: _interface(settings, name, key) for name in known}
        for first, server in _others(known):
            if key == "internet_interface" and named[server] == _interface(settings, server, "internal_interface"):
                continue  # one adapter for both sides is told once
            model, own = known[first].interface(named[first]), known[server].interface(named[server])
            path, words = f"{_path(settings, server)}.{key}", {"interface": named[server], "first": first}
            words["first_interface"] = named[first]
            if own is None:
                if model is not None:
                    yield _finding(NO_ADAPTER, server, path, side=side, setting=path, **words)
            elif model is not None:
                yield from _alike(server, path, own, model, words)


def _alike(server: str, path: str, own: Interface, model: Interface, words: dict[str, str]) -> Iterator[Finding]:
    if own.mtu != model.mtu:
        yield _finding(MTU, server, path, mtu=own.mtu, first_mtu=model.mtu, **words)
    mine, theirs = _subnets(own), _subnets(model)
    if mine and theirs and not mine & theirs:
        yield _finding(
            SUBNET,
            server,
            path,
            present=", ".join(sorted(mine)),
            first_present=", ".join(sorted(theirs)),
            **words,
        )


def certificates(settings: Settings, machines: Machines) -> Iterator[Finding]:
    """Issued the same way everywhere; imported ones are judged one by one where they lie."""
    shown = _readable({name: facts.server_certificate for name, facts in machines.items()})
    connect_to = settings.deployment.connect_to
    for server, found in shown.items():
        if settings.certificates.mode == "built-in" and not names_cover(found.names, connect_to):
            names = ", ".join(found.names[:5]) or "no name"
            yield _finding(NAME_MISMATCH, server, found.setting, file=found.file, names=names, connect_to=connect_to)
    for first, server in _others(shown):
        method, model = _method(shown[server]), _method(shown[first])
        if method != model:
            yield _finding(METHOD, server, shown[server].setting, method=method, first=first, first_method=model)


def network_location_server(settings: Settings, machines: Machines) -> Iterator[Finding]:
    shown = _readable({name: facts.network_location_certificate for name, facts in machines.items()})
    connect_to = settings.deployment.connect_to
    for server, found in shown.items():
        if names_cover(found.names, connect_to):
            yield _finding(NLS_CONNECT_TO, server, found.setting, connect_to=connect_to)
    for first, server in _others(shown):
        if _subject(shown[server]) != _subject(shown[first]):
            yield _finding(
                NLS_SUBJECT,
                server,
                shown[server].setting,
                subject=_subject(shown[server]),
                first=first,
                first_subject=_subject(shown[first]),
            )


def names(settings: Settings, machines: Machines) -> Iterator[Finding]:
    """What the ConnectTo name stands for, seen from each server. A name without an address is told by each."""
    name = settings.deployment.connect_to
    known = {server: set(facts.resolved[name]) for server, facts in machines.items() if facts.resolved.get(name)}
    for first, server in _others(known):
        if known[server] != known[first]:
            yield _finding(
                CONNECT_TO_DIFFERS,
                server,
                "deployment.connect_to",
                name=name,
                addresses=", ".join(sorted(map(str, known[server]))),
                first=first,
                first_addresses=", ".join(sorted(map(str, known[first]))),
            )


def addresses_in_use(settings: Settings, machines: Machines) -> Iterator[Finding]:
    """Addresses that a single server has; those of a cluster are dedicated ones, about which there is a rule."""
    if settings.load_balancing is None:
        for server, facts in machines.items():
            for address, mac in facts.in_use.items():
                yield _finding(ADDRESS_IN_USE, server, "", address=address, mac=mac)


MACHINES_RULES: tuple[MachinesRule, ...] = (
    versions,
    adapters,
    certificates,
    network_location_server,
    names,
    addresses_in_use,
)


def verify_machines(settings: Settings, machines: Machines) -> list[Finding]:
    """What is wrong with the machines of all servers, compared with each other and the document. Pure.

    Args:
        machines: those that answered; see `Machines`.
    """
    return [finding for rule in MACHINES_RULES for finding in rule(settings, machines)]


def _finding(kind: Kind, server: str, path: str, **values: Any) -> Finding:
    return Finding(kind.problem(path, server=server, **values), (server,))


def _others(known: Mapping[str, object]) -> list[tuple[str, str]]:
    """Every server but the first, with the first one."""
    first, *others = list(known) or [""]
    return [(first, other) for other in others]


def _interface(settings: Settings, server: str, key: str) -> str:
    balancing = settings.load_balancing
    local = localise(settings, server) if balancing is not None and balancing.server(server) is not None else settings
    name: str = getattr(local.server, key)
    return name


def _path(settings: Settings, server: str) -> str:
    servers = settings.load_balancing.servers if settings.load_balancing is not None else []
    index = next((number for number, entry in enumerate(servers) if entry.name == server), None)
    return f"load_balancing.servers[{index}]" if index is not None else "server"


def _subnets(interface: Interface) -> set[str]:
    return {str(address.network) for address in interface.addresses if isinstance(address, IPv4Interface)}


def _readable(files: Mapping[str, CertificateFile | None]) -> dict[str, CertificateFile]:
    return {name: file for name, file in files.items() if file is not None and file.trouble is None}


def _method(certificate: CertificateFile) -> str:
    return "self-signed" if certificate.self_signed else f"issued by {certificate.issuer or 'a CA without a name'}"


def _subject(certificate: CertificateFile) -> str:
    return certificate.common_name or (certificate.names[0] if certificate.names else "nobody")
