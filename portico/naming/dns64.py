"""DNS64 as the control plane sees it: its section of the gateway's configuration and where it listens. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Final

from portico.settings.addresses import EVERY_IPV4, PrefixMapping
from portico.settings.effective import Effective
from portico.settings.model import Settings

PORT: Final = 53

EVERY_NAME: Final = ""
"""The suffix that covers every name."""


def listen_address(values: Effective) -> tuple[IPv6Address, int] | None:
    """Address and port DNS64 listens on, UDP and TCP; None while it is disabled."""
    return None if values.dns64_address is None else (values.dns64_address, PORT)


def mapping_data(mappings: Iterable[PrefixMapping]) -> list[dict[str, str]]:
    """Prefix mappings as the gateway takes them."""
    return [{"prefix": str(mapping.prefix), "network": str(mapping.network)} for mapping in mappings]


def dns64_configuration(settings: Settings, values: Effective) -> dict[str, Any] | None:
    """The section `dns64` of the gateway's configuration; None while it is disabled or knows no server to ask.

    Without NAT64 an IPv6 address made from an A record would lead nowhere. DNS64 is a plain forwarder then: every name
    is excluded from synthesis, and AAAA records are asked for whatever `only_send_a_query` says.
    """
    dns64 = settings.dns64
    if values.dns64_address is None or not dns64.upstream_servers:
        return None
    synthesise = bool(values.dns64_mappings)
    mappings = values.dns64_mappings or (PrefixMapping(values.plan.nat64, EVERY_IPV4),)
    upstreams = [(EVERY_NAME, dns64.upstream_servers)]
    upstreams += [(entry.suffix, entry.servers) for entry in dns64.conditional_forwarding]
    return {
        "prefix_mappings": mapping_data(mappings),
        "only_send_a_query": dns64.only_send_a_query and synthesise,
        "always_synthesize": dns64.always_synthesize and synthesise,
        "latency_ms": dns64.latency_milliseconds,
        "exclusions": list(dns64.exclusion_list) if synthesise else [EVERY_NAME],
        "upstreams": [
            {"suffix": suffix, "servers": [str(server) for server in servers]} for suffix, servers in upstreams
        ],
        "timeout": 5.0,
        "cache_entries": 65_536,
        "cache_bytes": 64 << 20,
        "max_queries": 4096,
        "max_queries_per_client": 256,
        "prefetch": dns64.prefetch,
        "serve_stale_seconds": dns64.serve_stale_seconds,
        "queries_per_second_per_client": dns64.queries_per_second_per_client,
        "query_burst_per_client": max(1, 2 * dns64.queries_per_second_per_client),
        "accept_from": [str(prefix) for prefix in _accept_from(settings, values)],
    }


def _accept_from(settings: Settings, values: Effective) -> list[IPv6Network]:
    """Whom DNS64 answers; empty: everybody the packet filter lets through, when other interfaces may ask."""
    if settings.dns64.accept_interface or values.dns64_address is None:
        return []
    # The server asks from the very address it asks.
    return [values.client_prefix, IPv6Network((values.dns64_address, 128))]
