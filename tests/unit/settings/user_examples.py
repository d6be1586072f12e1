"""What causes each problem of the two levels of access: (changes of the plain document, facts)."""

from __future__ import annotations

from typing import Any

from portico.settings.facts import Facts

PROVIDER = {"issuer": "https://login.example.net", "client_id": "portico"}
CERTIFICATE = {"access.user_authentication": "certificate", "access.user_ca": ["/users.pem"]}
SERVERS = "management_servers."
IMPORTED = {"mode": "imported", "server_certificate": "/a.pem", "server_key": "/a.key", "client_ca": ["/users.pem"]}


def controller(*addresses: str, name: str = "dc1") -> dict[str, Any]:
    return {"name": name, "addresses": list(addresses)}


USER_EXAMPLES: dict[str, tuple[dict[str, Any], Facts]] = {
    "USER_AUTHENTICATION_NEEDS_CERTIFICATES": ({**CERTIFICATE, "ip_https.authentication": "none"}, Facts()),
    "USER_CA_MISSING": ({"access.user_authentication": "certificate"}, Facts()),
    "USER_CA_IS_CLIENT_CA": ({**CERTIFICATE, "certificates": IMPORTED}, Facts()),
    "USER_OIDC_MISSING": ({"access.user_authentication": "oidc"}, Facts()),
    "USER_OIDC_INVALID": (
        {"access.user_authentication": "oidc", "access.user_oidc": {**PROVIDER, "issuer": "http://login.example.net"}},
        Facts(),
    ),
    "USER_SETTING_IGNORED": ({"access.user_ca": ["/users.pem"]}, Facts()),
    "MANAGEMENT_SERVERS_NONE": (CERTIFICATE, Facts()),
    "MANAGEMENT_SERVER_UNREACHABLE": (
        {"management_servers": [controller("10.0.0.10")], "nat64.state": "disabled"},
        Facts(),
    ),
    "MANAGEMENT_SERVER_ADDRESS": ({"management_servers": [controller("::1")]}, Facts()),
    "MANAGEMENT_SERVER_TWICE": (
        {"management_servers": [controller("10.0.0.10"), controller("10.0.0.11", name="DC1")]},
        Facts(),
    ),
}
