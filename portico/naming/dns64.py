"""DNS64 as the control plane sees it: its section of the gateway's configuration and where it listens. Pure."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any, Final

from portico.settings.effective import Effective
from portico.settings.model import Settings

PORT: Final = 53

EVERY_NAME: Final = ""
"""The suffix that covers every name."""


def listen_address(values: Effective) -> tuple[IPv6Address, int] | None:
    """Address and port DNS64 listens on, UDP and TCP; None while it is disabled."""
    return None if values.dns64_address is None else (values.dns64_address, PORT)


def dns64_configuration(settings: Settings, values: Effective) -> dict[str, Any] | None:
    """The section `dns64` of the gateway's configuration; None while it is disabled or knows no server to ask.

    Without NAT64 an IPv6 address made from an A record would lead nowhere. DNS64 is a plain forwarder then: every name
    is excluded from synthesis, and AAAA records are asked for whatever `only_send_a_query` says.
    """
    dns64 = settings.dns64
    if values.dns64_address is None or not dns64.upstream_servers:
        return None
    synthesise = values.nat64_prefix is not None
    prefix = values.nat64_prefix if values.nat64_prefix is not None else values.plan.nat64
    return {
        "prefix": str(prefix),
        "only_send_a_query": dns64.only_send_a_query and synthesise,
        "always_synthesize": dns64.always_synthesize and synthesise,
        "latency_ms": dns64.latency_milliseconds,
        "exclusions": list(dns64.exclusion_list) if synthesise else [EVERY_NAME],
        "upstreams": [{"suffix": EVERY_NAME, "servers": [str(server) for server in dns64.upstream_servers]}],
        "timeout": 5.0,
        "cache_entries": 65_536,
        "max_queries": 4096,
        "max_queries_per_client": 256,
    }
