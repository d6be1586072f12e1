"""Which IPv6 prefix stands for which IPv4 addresses: the form of the prefixes, and that DNS64 and NAT64 agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network

from portico.settings.addresses import EVERY_IPV4, NAT64_PREFIX_LENGTH, AddressPlan, PrefixMapping
from portico.settings.facts import Facts
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem

WELL_KNOWN_NAT64 = IPv6Network("64:ff9b::/96")

NOT_GLOBAL = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
"""IPv4 addresses that are not global (RFC 6890 section 2.2.2)."""

LENGTH = CATALOGUE.add(
    "NAT64_PREFIX_LENGTH",
    what="The NAT64 prefix is not a /96",
    why="{prefix} has length {length}; the IPv4 address is the last 32 bits",
    resolution="Give {suggestion}",
    example='nat64: {prefix: "fd7c:1a2b:3c4d:7777::/64"}',
)
BITS = CATALOGUE.add(
    "NAT64_PREFIX_BITS",
    what="The NAT64 prefix has bits 64 to 71 set",
    why="they must be zero in {prefix} (RFC 6052 section 2.2)",
    resolution="Give a prefix whose fifth group is 0 to ff",
    example='nat64: {prefix: "fd7c:1a2b:3c4d:7777:100::/96"}',
)
WELL_KNOWN = CATALOGUE.add(
    "NAT64_PREFIX_WELL_KNOWN",
    what="The well-known NAT64 prefix cannot be used for an intranet",
    why="{prefix} must not stand for private IPv4 addresses (RFC 6052 section 3.1), {network} has some, "
    "and clients may have the prefix elsewhere",
    resolution="Remove it, then the prefix of the plan is used; or map it to global IPv4 prefixes only",
    example='nat64: {prefix: "64:ff9b::/96"}',
)
TWICE = CATALOGUE.add(
    "NAT64_PREFIX_TWICE",
    what="The NAT64 prefix is given in two ways",
    why="nat64.prefix is {prefix}, and nat64.prefix_mapping says which prefixes there are",
    resolution="Remove nat64.prefix; '{prefix},0.0.0.0/0' in the list means the same",
    example='nat64: {prefix: "fd00:9::/96", prefix_mapping: ["fd00:9::/96,0.0.0.0/0"]}',
)
DUPLICATE = CATALOGUE.add(
    "PREFIX_MAPPING_DUPLICATE",
    what="An IPv4 prefix is mapped twice",
    why="{network} is mapped to {first} and to {second}, and only one of them could count",
    resolution="Remove one of the two mappings",
    example='nat64: {prefix_mapping: ["fd00:9::/96,10.0.0.0/8", "fd00:8::/96,10.0.0.0/8"]}',
)
NOT_TRANSLATED = CATALOGUE.add(
    "DNS64_PREFIX_NOT_TRANSLATED",
    severity="warning",
    what="DNS64 makes addresses that NAT64 does not translate",
    why="{why}",
    resolution="Correct one of dns64.prefix_mapping and nat64.prefix_mapping; without the former both are the same. "
    "Keep it only if another NAT64 of the intranet translates {prefix}",
    example='dns64: {prefix_mapping: ["fd00:9::/96,0.0.0.0/0"]}   # nat64.prefix is another one',
)


def nat64_mappings(settings: Settings, plan: AddressPlan | None) -> list[tuple[str, PrefixMapping]]:
    """The mappings NAT64 is to use, each with the setting it comes from; empty when nothing says any."""
    nat64 = settings.nat64
    if nat64.prefix_mapping:
        return [(f"nat64.prefix_mapping[{index}]", mapping) for index, mapping in enumerate(nat64.prefix_mapping)]
    prefix = nat64.prefix or (plan.nat64 if plan is not None else None)
    return [("nat64.prefix", PrefixMapping(prefix, EVERY_IPV4))] if prefix is not None else []


def forms(settings: Settings, facts: Facts) -> Iterator[Problem]:
    nat64, dns64 = settings.nat64, settings.dns64
    if nat64.state == "disabled":
        return
    given = nat64_mappings(settings, None)
    if nat64.prefix is not None and nat64.prefix_mapping:
        yield TWICE.problem("nat64.prefix", prefix=nat64.prefix)
    yield from _duplicates(given)
    if dns64.state == "enabled":
        own = [(f"dns64.prefix_mapping[{index}]", mapping) for index, mapping in enumerate(dns64.prefix_mapping)]
        yield from _duplicates(own)
        given += own
    for path, mapping in given:
        yield from _form(path, mapping)


def agreement(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """A synthesised address must have a prefix that NAT64 has for this IPv4 address."""
    organisation = settings.deployment.organisation_prefix
    if "disabled" in (settings.nat64.state, settings.dns64.state) or organisation.prefixlen != 48:
        return
    translated = [mapping for _, mapping in nat64_mappings(settings, AddressPlan.of(organisation))]
    for index, mapping in enumerate(settings.dns64.prefix_mapping):
        why = None
        networks = [other.network for other in translated if other.prefix == mapping.prefix]
        if not networks:
            why = f"{mapping.prefix} is none of its prefixes"
        elif not any(mapping.network.subnet_of(network) for network in networks):
            why = f"{mapping.prefix} stands for {', '.join(map(str, networks))} there, not for all of {mapping.network}"
        if why is not None:
            yield NOT_TRANSLATED.problem(f"dns64.prefix_mapping[{index}]", why=why, prefix=mapping.prefix)


def _form(path: str, mapping: PrefixMapping) -> Iterator[Problem]:
    prefix = mapping.prefix
    if prefix.prefixlen != NAT64_PREFIX_LENGTH:
        suggestion = f"{prefix.network_address}/{NAT64_PREFIX_LENGTH}"
        yield LENGTH.problem(path, prefix=prefix, length=prefix.prefixlen, suggestion=suggestion)
    elif prefix == WELL_KNOWN_NAT64:
        if any(mapping.network.overlaps(network) for network in NOT_GLOBAL):
            yield WELL_KNOWN.problem(path, prefix=prefix, network=mapping.network)
    elif (int(prefix.network_address) >> 56) & 0xFF:
        yield BITS.problem(path, prefix=prefix)


def _duplicates(mappings: Sequence[tuple[str, PrefixMapping]]) -> Iterator[Problem]:
    seen: dict[IPv4Network, PrefixMapping] = {}
    for path, mapping in mappings:
        first = seen.setdefault(mapping.network, mapping)
        if first is not mapping:
            yield DUPLICATE.problem(path, network=mapping.network, first=first.prefix, second=mapping.prefix)


RULES = (forms, agreement)
