"""Administration: where the API listens, and who may log in."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from portico.settings.facts import Facts
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem

PORT_TAKEN = CATALOGUE.add(
    "MANAGEMENT_PORT",
    what="The API cannot listen on port {port}",
    why="{other} is there already",
    resolution="Choose another management.port; 2506 is the usual one",
    example="management: {port: 2505}",
)
NOT_SECURE = CATALOGUE.add(
    "MANAGEMENT_OIDC_ISSUER",
    what="The OpenID Connect provider cannot be used",
    why="{issuer} is no https URL without a query, and what it says would not be protected",
    resolution="Write the https URL that the provider calls itself",
    example='management: {oidc: {issuer: "http://login.example.net", client_id: portico}}',
)
NO_OPENID = CATALOGUE.add(
    "MANAGEMENT_OIDC_SCOPE",
    what="Nobody could log in",
    why="management.oidc.scopes lacks openid, without which a provider gives no ID token",
    resolution="Add openid to the list",
    example='management: {oidc: {issuer: "https://login.example.net", client_id: portico, scopes: [profile]}}',
)
UNUSED = CATALOGUE.add(
    "MANAGEMENT_OIDC_UNUSED",
    what="A role is given by a provider that is not set",
    why="{name} is of source {system}, and management.oidc is null",
    resolution="Set management.oidc, or take the entry out",
    example="management: {roles: [{source: oidc_group, name: admins, role: administrator}]}",
    severity="warning",
)
HALF = CATALOGUE.add(
    "MANAGEMENT_CERTIFICATE_HALF",
    what="The API's certificate cannot be used",
    why="of management.certificate_file and management.key_file only one is set",
    resolution="Set both, or neither",
    example="management: {certificate_file: /etc/portico/api.pem}",
)
INTERNET = CATALOGUE.add(
    "MANAGEMENT_INTERNET",
    what="The API can be reached from the Internet",
    why="management.listen has {address}, which is {why}",
    resolution="Leave management.listen empty, or list addresses of the intranet's side only",
    example="management: {listen: [203.0.113.11]}   # an address of the Internet interface",
    severity="warning",
)


def ports(settings: Settings, _facts: Facts) -> Iterator[Problem]:
    """The API's port is nobody else's on the same addresses."""
    management = settings.management
    if management.state == "disabled":
        return
    taken = {2504: "the cluster's heartbeat", 2505: "the channel between servers", 53: "DNS64"}
    if settings.server.internet_interface == settings.server.internal_interface:
        taken[settings.ip_https.port] = "IP-HTTPS"
    if management.port in taken:
        yield PORT_TAKEN.problem("management.port", port=management.port, other=taken[management.port])


def provider(settings: Settings, _facts: Facts) -> Iterator[Problem]:
    """Login goes over TLS to a provider that can say who somebody is."""
    oidc = settings.management.oidc
    if oidc is None:
        for number, mapping in enumerate(settings.management.roles):
            if mapping.source.startswith("oidc_"):
                yield UNUSED.problem(f"management.roles[{number}]", name=mapping.name, system=mapping.source)
        return
    if not secure_url(oidc.issuer):
        yield NOT_SECURE.problem("management.oidc.issuer", issuer=oidc.issuer)
    if "openid" not in oidc.scopes:
        yield NO_OPENID.problem("management.oidc.scopes")


def imported(settings: Settings, _facts: Facts) -> Iterator[Problem]:
    """A certificate has a key."""
    management = settings.management
    if (management.certificate_file is None) != (management.key_file is None):
        yield HALF.problem(
            "management.certificate_file" if management.certificate_file is None else "management.key_file"
        )


def exposed(settings: Settings, facts: Facts) -> Iterator[Problem]:
    """Nobody opens the API to the Internet without being told."""
    server = settings.server
    if settings.management.state == "disabled" or server.internet_interface == server.internal_interface:
        return
    interface = facts.interface(server.internet_interface)
    outside = {item.ip for item in interface.addresses} if interface is not None else set()
    for number, address in enumerate(settings.management.listen):
        if address.is_unspecified:
            why = "every address of the server"
        elif address in outside:
            why = f"an address of {server.internet_interface}"
        else:
            continue
        yield INTERNET.problem(f"management.listen[{number}]", address=address, why=why)


def secure_url(url: str) -> bool:
    """Whether a URL of a provider protects what goes there."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or parts.query or parts.fragment or parts.username or parts.password:
        return False
    if parts.scheme == "https":
        return True
    try:
        return ip_address(host).is_loopback  # RFC 8252 section 7.3: it never leaves the machine
    except ValueError:
        return False


RULES = (ports, provider, imported, exposed)
