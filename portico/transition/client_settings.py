"""What a client is told about the deployment when it enrols and whenever it asks. Pure."""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import Any

from portico.naming.nrpt import table
from portico.settings.addresses import embed_network
from portico.settings.effective import Effective
from portico.settings.model import ManageOut, Settings


def build_client_settings(settings: Settings, values: Effective, *, revision: int) -> dict[str, Any]:
    """The JSON of `GET /portico/v1/client-settings`.

    `intranet_prefixes` are the sources that may open connections to the client. The server's firewall decides the same;
    a client that is told does not depend on it. The server itself always may.
    """
    return {
        "url": values.url,
        "domain": settings.deployment.domain,
        "nrpt": table(settings, values).as_list(),
        "dns_address": str(values.dns64_address) if values.dns64_address is not None else None,
        "intranet_prefixes": [str(prefix) for prefix in manage_out_sources(settings, values)],
        "revision": revision,
    }


def manage_out_sources(settings: Settings, values: Effective) -> tuple[IPv6Network, ...]:
    """Prefixes that may open connections to clients. IPv4 sources come from NAT64's prefixes, through static bindings;
    without any, nothing translates towards clients and IPv4 sources are left out.
    """
    itself = IPv6Network((values.tunnel_endpoints[0], 128))
    manage_out = settings.access.manage_out
    if not isinstance(manage_out, ManageOut):
        return values.routes if manage_out else (itself,)
    found = [itself]
    for source in manage_out.sources:
        if isinstance(source, IPv6Network):
            found.append(source)
        elif values.static_bindings:
            found += embed_network(values.nat64_mappings, source)
    return tuple(dict.fromkeys(found))
