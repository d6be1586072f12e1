"""IP-HTTPS as the control plane sees it: what goes into the gateway's configuration about the link, and its constants.

The protocol itself is in the gateway.
"""

from __future__ import annotations

from typing import Any, Final

from portico.settings.effective import Effective
from portico.settings.model import Settings
from portico.transition.addressing import LINK_LOCAL

PATH: Final = "/IPHTTPS"
MTU: Final = 1280
"""Of both ends, always: standard peers assume it ([MS-IPHTTPS] 3.2.1)."""

HTTP_PATHS: Final = (
    "/portico/v1/trust",
    "/portico/v1/enrol",
    "/portico/v1/renew",
    "/portico/v1/client-settings",
    "/portico/v1/crl",
    "/portico/v1/user",
    "/portico/v1/user/challenge",
    "/portico/v1/user/provider",
    "/portico/v1/user/login",
    "/portico/v1/user/logout",
)
"""Requests on the same listener that the gateway hands to the agent."""

MAX_HTTP_BODY: Final = 32_768


def link_configuration(settings: Settings, values: Effective) -> dict[str, Any]:
    """The section `iphttps` of the gateway's configuration."""
    return {
        "authentication": settings.ip_https.authentication,
        "link_local": str(LINK_LOCAL),
        "addresses": [str(address) for address in values.gateway_addresses],
        "prefix": str(values.link_prefix),
        "routes": [str(route) for route in values.routes],
        "route_lifetime": settings.ip_https.route_lifetime,
        # Clients keep their own default route: no default gateway on this link (RFC 4861 section 4.2).
        "router_lifetime": 0,
        # A third of the routes' lifetime: a client may miss two advertisements and keep its routes.
        "advertise_interval": max(4, settings.ip_https.route_lifetime // 3),
        "max_sessions": settings.ip_https.max_clients,
        "max_addresses_per_session": 8,
        "max_handshakes": 512,
        "handshake_timeout": 15.0,
        "request_timeout": 10.0,
        "idle_probe": 30.0,
        "segments": settings.ip_https.segments,
        "queue_bytes": 1_048_576,
    }


def http_configuration() -> dict[str, Any]:
    """The section `http`."""
    return {"paths": list(HTTP_PATHS), "max_body": MAX_HTTP_BODY, "max_pending": 64, "timeout": 15.0}
