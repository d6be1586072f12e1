"""What clients are told so that they can say where they are and whether the intranet works for them. Pure."""

from __future__ import annotations

from typing import Any

from portico.settings.effective import Effective
from portico.settings.located import corp_connectivity_addresses, corp_connectivity_name, serves_nls, web_probe_name
from portico.settings.model import Settings


def assistant_settings(settings: Settings, values: Effective) -> dict[str, Any]:
    """The connectivity assistant's part of what clients get, as plain JSON data.

    Keys: `nls_url` (None: clients are always outside); `nls_trust`: `server`, whoever the tunnel's server is recognised
    by, or `system`, also what the computer trusts anyway; `corp_connectivity_host` with the IPv6 addresses it must
    have through the tunnel, none when it cannot be checked; `web_probe_url`; `tunnel_endpoints`; `probes`;
    `support_email`.
    """
    own_page = serves_nls(settings) and settings.certificates.mode == "built-in"
    section = settings.connectivity_assistant
    expected = corp_connectivity_addresses(settings, values.nat64_mappings)
    return {
        "nls_url": values.nls_url,
        "nls_trust": "server" if own_page else "system",
        "corp_connectivity_host": corp_connectivity_name(settings),
        "corp_connectivity_addresses": [str(address) for address in expected if address.version == 6],
        "web_probe_url": _web_probe_url(settings) if settings.web_probe.state == "enabled" else None,
        "tunnel_endpoints": [str(address) for address in values.tunnel_endpoints],
        "probes": list(section.probes),
        "support_email": section.support_email,
    }


def _web_probe_url(settings: Settings) -> str:
    port = settings.web_probe.port
    return f"http://{web_probe_name(settings)}{'' if port == 80 else f':{port}'}/"
