"""The gateway's configuration, built from the settings, what is derived from them, and the secrets. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from portico.errors import InvalidInput
from portico.naming.dns64 import dns64_configuration, mapping_data
from portico.settings.effective import Effective
from portico.settings.model import Settings
from portico.transition.iphttps import MTU, http_configuration, link_configuration


@dataclass(frozen=True)
class GatewaySecrets:
    """What the gateway needs beside the settings. Travels only over the control channel; keys stay out of `repr`.

    Attributes:
        client_ca: PEM, several certificates allowed; empty only when authentication is `none`.
        ticket_keys: 32 bytes each, the encrypting one first.
        revoked: objects {issuer_sha256, serial}, see `portico.certificates.revocation.Revoked.as_dict`.
    """

    certificate_chain: str
    private_key: str = field(repr=False)
    client_ca: str
    ticket_keys: Sequence[bytes] = field(repr=False)
    revoked: Sequence[dict[str, str]] = ()


def build_gateway_config(settings: Settings, effective: Effective, secrets: GatewaySecrets) -> dict[str, Any]:
    """The whole configuration as JSON data.

    Raises:
        InvalidInput: code GATEWAY_CONFIG; something the gateway cannot do without is missing (NAT64 without an internal
            IPv4 address, client authentication without a CA). `verify` reports the same earlier, as problems.
    """
    if settings.ip_https.authentication == "certificates" and not secrets.client_ca.strip():
        raise _incomplete("there is no CA to check client certificates with", "Make one with: portico ca init")
    return {
        "workers": effective.workers,
        "iphttps": link_configuration(settings, effective),
        "http": http_configuration(),
        "tls": {
            "certificate_chain": secrets.certificate_chain,
            "private_key": secrets.private_key,
            "client_ca": secrets.client_ca,
            "ticket_keys": [key.hex() for key in secrets.ticket_keys],
            "minimum_version": settings.ip_https.minimum_tls,
            "ciphers": list(settings.ip_https.ciphers),
        },
        "revoked": [dict(entry) for entry in secrets.revoked],
        "nat64": _nat64(settings, effective),
        "dns64": dns64_configuration(settings, effective),
    }


def _nat64(settings: Settings, effective: Effective) -> dict[str, Any] | None:
    if not effective.nat64_mappings:
        return None
    if not effective.nat64_pool:
        raise _incomplete(
            f"NAT64 has no IPv4 address: {settings.server.internal_interface} has none",
            "Set server.internal_ipv4, or set nat64.state to disabled",
        )
    nat64 = settings.nat64
    return {
        "prefix_mappings": mapping_data(effective.nat64_mappings),
        "pool": [{"address": str(entry.address), "ports": [entry.first, entry.last]} for entry in effective.nat64_pool],
        "mtu": 1500,
        "ipv6_mtu": MTU,
        "address": str(effective.tunnel_endpoints[0]),
        "tcp_established": nat64.tcp_mapping_timeout_seconds,
        "tcp_transitory": nat64.tcp_transitory_timeout_seconds,
        "udp": nat64.udp_mapping_timeout_seconds,
        "icmp": nat64.icmp_mapping_timeout_seconds,
        "max_bindings": nat64.max_bindings,
        "max_bindings_per_client": nat64.max_bindings_per_client,
        "max_sessions": nat64.max_sessions or 2 * nat64.max_bindings,
        "max_sessions_per_client": nat64.max_sessions_per_client or 4 * nat64.max_bindings_per_client,
        "filtering": nat64.filtering,
        "traffic_class": nat64.traffic_class,
        "errors_per_second": nat64.errors_per_second,
        "static_bindings": [
            {
                "protocol": binding.protocol,
                "client": str(binding.client),
                "client_port": binding.client_port,
                "address": str(binding.address),
                "port": binding.port,
            }
            for binding in effective.static_bindings
        ],
        "log_bindings": nat64.log_bindings,
        "open_hosts": _open_hosts(settings, effective),
    }


def _open_hosts(settings: Settings, effective: Effective) -> list[dict[str, Any]] | None:
    """What clients reach before their user has authenticated: management servers, and the web probe of this server."""
    if settings.access.user_authentication == "none":
        return None
    servers = {address for server in settings.management_servers for address in server.addresses}
    found: list[dict[str, Any]] = [
        {"network": f"{address}/32"} for address in sorted(a for a in servers if isinstance(a, IPv4Address))
    ]
    if settings.web_probe.state == "enabled":
        own = sorted(a for a in effective.internal_addresses if isinstance(a, IPv4Address))
        found += [{"network": f"{address}/32", "port": settings.web_probe.port} for address in own]
    return found


def _incomplete(why: str, resolution: str) -> InvalidInput:
    return InvalidInput("the gateway cannot be configured", why=why, resolution=resolution, code="GATEWAY_CONFIG")
