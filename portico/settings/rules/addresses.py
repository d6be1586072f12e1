"""Prefixes: lengths, alignment, overlaps."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network
from itertools import combinations

from portico.settings.addresses import (
    CLUSTER_CLIENT_PREFIX_LENGTH,
    SERVER_CLIENT_PREFIX_LENGTH,
    AddressPlan,
    Network,
)
from portico.settings.facts import Facts
from portico.settings.localise import default_client_prefix
from portico.settings.model import ManageOut, Settings
from portico.settings.problems import CATALOGUE, Problem
from portico.settings.rules.mappings import nat64_mappings

MAXIMUM_ROUTES = 32
"""Route information options of 24 bytes that fit one router advertisement of 1280 bytes with room to spare."""

ORGANISATION_LENGTH = CATALOGUE.add(
    "ORGANISATION_PREFIX_LENGTH",
    what="The organisation prefix is not a /48",
    why="{prefix} has length {length}, and the subnets of the plan are numbered within a /48",
    resolution="Give a /48; 'portico server install' makes a unique local one",
    example='deployment: {organisation_prefix: "fd00::/56"}',
)
ORGANISATION_KIND = CATALOGUE.add(
    "ORGANISATION_PREFIX_KIND",
    what="The organisation prefix cannot hold hosts",
    why="{prefix} is {kind}",
    resolution="Give a unique local (fd00::/8) or global unicast /48",
    example='deployment: {organisation_prefix: "fe80::/48"}',
)
CLIENT_LENGTH = CATALOGUE.add(
    "CLIENT_PREFIX_LENGTH",
    what="The client prefix is neither a /64 nor a /59",
    why="{prefix} has length {length}; one server has a /64, a cluster exactly a /59",
    resolution="Give {suggestion}",
    example='ip_https: {client_prefix: "fd7c:1a2b:3c4d:1000::/56"}',
)
OVERLAP = CATALOGUE.add(
    "PREFIX_OVERLAP",
    what="Two prefixes overlap",
    why="{first_name} {first} and {second_name} {second} share addresses, and a packet can go one way only",
    resolution="Choose another prefix for one of them",
    example='ip_https: {client_prefix: "fd7c:1a2b:3c4d:1::/64"}   # the intranet\'s',
)
INTRANET_DUPLICATE = CATALOGUE.add(
    "INTRANET_PREFIX_DUPLICATE",
    severity="warning",
    what="An intranet prefix lies within another one",
    why="{inner} is part of {outer}",
    resolution="Remove {inner}",
    example='addresses: {intranet_prefixes: ["fd00:9::/48", "fd00:9:0:1::/64"]}',
)
TOO_MANY_ROUTES = CATALOGUE.add(
    "TOO_MANY_ROUTES",
    what="Too many intranet prefixes for one router advertisement",
    why="there are {count}, and at most {limit} fit beside the rest",
    resolution="Summarise them into shorter prefixes",
    example="addresses: {intranet_prefixes: [...]}   # 40 prefixes outside the organisation's",
)
MANAGE_OUT_IPV4 = CATALOGUE.add(
    "MANAGE_OUT_IPV4",
    severity="warning",
    what="IPv4 hosts cannot open connections to clients",
    why="clients have IPv6 addresses only, and NAT64 has no static binding, so {prefix} never matches",
    resolution="Give the management servers IPv6 addresses and list those, or make nat64.static_bindings",
    example='access: {manage_out: {from: ["10.0.0.0/24"]}}',
)
MANAGE_OUT_EMPTY = CATALOGUE.add(
    "MANAGE_OUT_EMPTY",
    severity="warning",
    what="Manage out is on for nobody",
    why="the list of sources is empty",
    resolution="Write 'manage_out: false', or list the management servers' prefixes",
    example="access: {manage_out: {from: []}}",
)
INTRANET_UNREACHABLE = CATALOGUE.add(
    "ACCESS_UNREACHABLE",
    severity="warning",
    what="Clients have no way to a destination they are allowed",
    why="{destination} {reason}",
    resolution="{resolution}",
    example='access: {intranet: ["2001:db8:9::/48"]}   # not among the intranet prefixes',
)
ACCESS_NOTHING = CATALOGUE.add(
    "ACCESS_NOTHING",
    severity="warning",
    what="Clients may reach nothing on the intranet",
    why="the list of destinations is empty",
    resolution="Write 'intranet: [any]', or list prefixes",
    example="access: {intranet: []}",
)


def lengths(settings: Settings, facts: Facts) -> Iterator[Problem]:
    organisation = settings.deployment.organisation_prefix
    plan = AddressPlan.of(organisation) if organisation.prefixlen == 48 else None
    if plan is None:
        yield ORGANISATION_LENGTH.problem(
            "deployment.organisation_prefix", prefix=organisation, length=organisation.prefixlen
        )
    if (kind := _unusable(organisation)) is not None:
        yield ORGANISATION_KIND.problem("deployment.organisation_prefix", prefix=organisation, kind=kind)
    client = settings.ip_https.client_prefix
    if client is not None and client.prefixlen not in (CLUSTER_CLIENT_PREFIX_LENGTH, SERVER_CLIENT_PREFIX_LENGTH):
        suggestion = f"{plan.client} or {plan.client_cluster}" if plan is not None else "a /64"
        yield CLIENT_LENGTH.problem(
            "ip_https.client_prefix", prefix=client, length=client.prefixlen, suggestion=suggestion
        )


def overlaps(settings: Settings, facts: Facts) -> Iterator[Problem]:
    if settings.deployment.organisation_prefix.prefixlen != 48:
        return
    plan = AddressPlan.of(settings.deployment.organisation_prefix)
    intranet = settings.addresses.intranet_prefixes
    used: list[tuple[str, str, IPv6Network]] = [
        (
            "ip_https.client_prefix",
            "the client prefix",
            settings.ip_https.client_prefix or default_client_prefix(settings) or plan.client,
        )
    ]
    if settings.nat64.state == "enabled":
        # Several networks may share one prefix: that is one prefix, named where it comes first.
        translated = {mapping.prefix: path for path, mapping in reversed(nat64_mappings(settings, plan))}
        used += [(path, "the NAT64 prefix", prefix) for prefix, path in reversed(translated.items())]
    if settings.dns64.state == "enabled":
        address = settings.dns64.address or plan.dns64
        used.append(("dns64.address", "the DNS64 address", IPv6Network((address, 128))))
    if settings.vpn.ipv6_prefix is not None:
        used.append(("vpn.ipv6_prefix", "the VPN prefix", settings.vpn.ipv6_prefix))
    for index, prefix in enumerate(intranet if intranet is not None else [plan.intranet]):
        # An organisation may list its whole /48: what Portico cuts out of it is more specific and wins.
        if prefix != settings.deployment.organisation_prefix:
            used.append((f"addresses.intranet_prefixes[{index}]", "the intranet prefix", prefix))
    for (path, name, first), (other, other_name, second) in combinations(used, 2):
        both_intranet = path.startswith("addresses.") and other.startswith("addresses.")
        # A DNS64 address within the intranet's own prefix is how a network with native IPv6 has it.
        dns64_in_intranet = path == "dns64.address" and other.startswith("addresses.")
        if first.overlaps(second) and not both_intranet and not dns64_in_intranet:
            yield OVERLAP.problem(path, first_name=name, first=first, second_name=other_name, second=second)


def intranet(settings: Settings, facts: Facts) -> Iterator[Problem]:
    prefixes = settings.addresses.intranet_prefixes or []
    for index, inner in enumerate(prefixes):
        for number, outer in enumerate(prefixes):
            if (inner != outer and inner.subnet_of(outer)) or (inner == outer and number < index):
                yield INTRANET_DUPLICATE.problem(f"addresses.intranet_prefixes[{index}]", inner=inner, outer=outer)
                break
    organisation = settings.deployment.organisation_prefix
    count = sum(not prefix.subnet_of(organisation) for prefix in prefixes)
    if count > MAXIMUM_ROUTES:
        yield TOO_MANY_ROUTES.problem("addresses.intranet_prefixes", count=count, limit=MAXIMUM_ROUTES)


def access(settings: Settings, facts: Facts) -> Iterator[Problem]:
    manage_out = settings.access.manage_out
    if isinstance(manage_out, ManageOut):
        if not manage_out.sources:
            yield MANAGE_OUT_EMPTY.problem("access.manage_out.from")
        translated = settings.nat64.state == "enabled" and settings.nat64.static_bindings
        for index, source in enumerate(manage_out.sources):
            if source.version == 4 and not translated:
                yield MANAGE_OUT_IPV4.problem(f"access.manage_out.from[{index}]", prefix=source)
    if not settings.access.intranet:
        yield ACCESS_NOTHING.problem("access.intranet")
    for index, destination in enumerate(settings.access.intranet):
        if not isinstance(destination, str):
            yield from _reachable(settings, f"access.intranet[{index}]", destination)


def _reachable(settings: Settings, path: str, destination: Network) -> Iterator[Problem]:
    if destination.version == 4:
        if settings.nat64.state == "disabled":
            yield INTRANET_UNREACHABLE.problem(
                path,
                destination=destination,
                reason="is IPv4, and NAT64 is disabled",
                resolution="Set nat64.state to enabled, or remove it",
            )
        return
    routes = [settings.deployment.organisation_prefix, *(settings.addresses.intranet_prefixes or [])]
    if not any(destination.overlaps(route) for route in routes):
        yield INTRANET_UNREACHABLE.problem(
            path,
            destination=destination,
            reason="is not among the prefixes that clients send through the tunnel",
            resolution="Add it to addresses.intranet_prefixes, or remove it",
        )


def _unusable(prefix: IPv6Network) -> str | None:
    address = prefix.network_address
    if address.is_link_local:
        return "link-local"
    if address.is_multicast:
        return "multicast"
    if address.is_loopback or address.is_unspecified or address.is_site_local:
        return "reserved"
    return None if (int(address) >> 125) == 1 or (int(address) >> 121) == 0x7E else "neither unique local nor unicast"


RULES = (lengths, overlaps, intranet, access)
