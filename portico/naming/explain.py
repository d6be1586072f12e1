"""Why DNS64 gave the answer it gave, in a sentence for an administrator. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from typing import Any

from portico.settings.addresses import PrefixMapping, extract_ipv4
from portico.settings.effective import Effective
from portico.settings.model import Settings


def explain(
    settings: Settings, values: Effective, name: str, kind: str, answer: Mapping[str, Any]
) -> dict[str, str | None]:
    """What to say about an answer to a question.

    Args:
        kind: the type that was asked for, `AAAA`.
        answer: what the gateway's `dns64_query` gave: rcode, answers, source, synthesized.

    Returns:
        `prefix_mapping`: the mapping that the synthesised addresses come from, None without any; `why`: a sentence.
    """
    rcode, records = str(answer.get("rcode", "")), answer.get("answers") or []
    mapping = _mapping(values, records) if answer.get("synthesized") else None
    return {
        "prefix_mapping": str(mapping) if mapping is not None else None,
        "why": _why(settings, values, name.rstrip(".").lower(), kind.upper(), rcode, records, mapping, answer),
    }


def _why(
    settings: Settings,
    values: Effective,
    name: str,
    kind: str,
    rcode: str,
    records: Sequence[Mapping[str, Any]],
    mapping: PrefixMapping | None,
    answer: Mapping[str, Any],
) -> str:
    if rcode == "NXDOMAIN":
        return "the name does not exist; then nothing is synthesised (RFC 6147 section 5.1.2)"
    if rcode not in ("NOERROR", ""):
        return f"the DNS servers for this name do not answer, or answered {rcode}"
    own = [record for record in records if str(record.get("type", "")).upper() == kind]
    if mapping is not None:
        four = ", ".join(str(_embedded(mapping, record)) for record in own if _embedded(mapping, record) is not None)
        return f"made from the A record {four} with {mapping.prefix}, which stands for {mapping.network}"
    if answer.get("synthesized"):
        return "made from A records; the prefix is none of those in force now"
    if kind != "AAAA":
        local = answer.get("source") == "local"
        return "answered here: it belongs to NAT64's prefix" if local else "passed on as the DNS servers gave it"
    if not values.nat64_mappings:
        return "not synthesised: nat64.state is disabled"
    if (entry := excluded_by(settings, name)) is not None:
        return f"not synthesised: '{entry}' of dns64.exclusion_list covers the name"
    if own:
        return "not synthesised: the name has IPv6 addresses of its own"
    everything = any(m.network.prefixlen == 0 for m in values.dns64_mappings)
    rest = "" if everything else ", or none that dns64.prefix_mapping has a prefix for"
    return f"not synthesised: the name has no IPv4 address either{rest}"


def excluded_by(settings: Settings, name: str) -> str | None:
    """The entry of the exclusion list that covers a name and all below it."""
    for entry in settings.dns64.exclusion_list:
        domain = entry.lstrip(".")
        if "/" not in entry and (name == domain or name.endswith(f".{domain}") or not domain):
            return entry
    return None


def _mapping(values: Effective, records: Sequence[Mapping[str, Any]]) -> PrefixMapping | None:
    """The mapping the first synthesised address comes from."""
    for record in records:
        found = [m for m in values.dns64_mappings if _embedded(m, record) is not None]
        if found:
            return max(found, key=lambda mapping: mapping.network.prefixlen)
    return None


def _embedded(mapping: PrefixMapping, record: Mapping[str, Any]) -> object | None:
    """The IPv4 address that an AAAA record of a mapping holds."""
    if str(record.get("type", "")).upper() != "AAAA":
        return None
    try:
        address = extract_ipv4(mapping.prefix, IPv6Address(str(record.get("data"))))
    except ValueError:
        return None
    return address if address is not None and address in mapping.network else None
