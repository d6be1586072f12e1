"""Two levels of access: users can authenticate when they must, and computers can get so far."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from portico.settings.facts import Facts
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, Problem
from portico.settings.rules.management import secure_url

NO_MACHINES = CATALOGUE.add(
    "USER_AUTHENTICATION_NEEDS_CERTIFICATES",
    what="Users cannot be told apart by their computers",
    why="ip_https.authentication is none, and what a user is allowed is bound to the certificate of the computer",
    resolution="Set ip_https.authentication to certificates, or access.user_authentication to none",
    example="access: {user_authentication: oidc}   # ip_https.authentication: none",
)
NO_CA = CATALOGUE.add(
    "USER_CA_MISSING",
    what="No user could authenticate",
    why="access.user_authentication is certificate and access.user_ca is empty",
    resolution="Name the PEM file of the CA that issues the users' certificates in access.user_ca",
    example="access: {user_authentication: certificate}",
)
SHARED_CA = CATALOGUE.add(
    "USER_CA_IS_CLIENT_CA",
    what="A computer's certificate would pass for a user's",
    why="{file} is in access.user_ca and in certificates.client_ca",
    resolution="Name a CA that issues certificates to users only",
    example="access: {user_ca: [/etc/ssl/ca.pem]}   # certificates.client_ca: [/etc/ssl/ca.pem]",
)
NO_PROVIDER = CATALOGUE.add(
    "USER_OIDC_MISSING",
    what="No user could authenticate",
    why="access.user_authentication is oidc, and neither access.user_oidc nor management.oidc is set",
    resolution="Set access.user_oidc to the OpenID Connect provider of the users",
    example="access: {user_authentication: oidc}",
)
PROVIDER = CATALOGUE.add(
    "USER_OIDC_INVALID",
    what="The OpenID Connect provider of the users cannot be used",
    why="{why}",
    resolution="Write the https URL that the provider calls itself, and openid among the scopes",
    example='access: {user_oidc: {issuer: "http://login.example.net", client_id: portico}}',
)
IGNORED = CATALOGUE.add(
    "USER_SETTING_IGNORED",
    severity="warning",
    what="A setting about users has no effect",
    why="access.user_authentication is {chosen}, so {setting} is not used",
    resolution="Set access.user_authentication to {other}, or remove {setting}",
    example="access: {user_ca: [/etc/ssl/users.pem]}   # access.user_authentication: none",
)
NONE_BEFORE_LOGON = CATALOGUE.add(
    "MANAGEMENT_SERVERS_NONE",
    severity="warning",
    what="Computers reach nothing but DNS before their user has authenticated",
    why="management_servers is empty: no domain controller can log the user on, no update comes in",
    resolution="Add them: portico management-servers add NAME ADDRESS",
    example="access: {user_authentication: certificate, user_ca: [/etc/ssl/users.pem]}",
)
NO_WAY = CATALOGUE.add(
    "MANAGEMENT_SERVER_UNREACHABLE",
    what="Clients cannot reach a management server",
    why="{address} of {name} is an IPv4 address, and nat64.state is disabled",
    resolution="Enable NAT64, or give an IPv6 address of it",
    example="management_servers: [{name: dc1, addresses: [10.0.0.10]}]   # nat64: {state: disabled}",
)
NO_HOST = CATALOGUE.add(
    "MANAGEMENT_SERVER_ADDRESS",
    what="A management server has an address that no server can have",
    why="{address} of {name} is {why}",
    resolution="Give the address that the server has on the intranet",
    example='management_servers: [{name: dc1, addresses: ["::1"]}]',
)
TWICE = CATALOGUE.add(
    "MANAGEMENT_SERVER_TWICE",
    what="Two management servers have one name",
    why="{name} is the name of an entry before",
    resolution="Add the address to that entry, or give another name",
    example="management_servers: [{name: dc1, addresses: [10.0.0.10]}, {name: dc1, addresses: [10.0.0.11]}]",
)


def authentication(settings: Settings, _facts: Facts) -> Iterator[Problem]:
    """Whoever must authenticate can, and only users can."""
    access = settings.access
    chosen = access.user_authentication
    if chosen == "none":
        return
    if settings.ip_https.authentication == "none":
        yield NO_MACHINES.problem("access.user_authentication")
    if not settings.management_servers:
        yield NONE_BEFORE_LOGON.problem("management_servers")
    if chosen == "certificate":
        if not access.user_ca:
            yield NO_CA.problem("access.user_ca")
        for number, file in enumerate(access.user_ca):
            if settings.certificates.mode == "imported" and file in settings.certificates.client_ca:
                yield SHARED_CA.problem(f"access.user_ca[{number}]", file=file)
        return
    if (oidc := settings.user_oidc) is None:
        yield NO_PROVIDER.problem("access.user_oidc")
    elif not secure_url(oidc.issuer):
        yield PROVIDER.problem("access.user_oidc.issuer", why=f"{oidc.issuer} is no https URL without a query")
    elif "openid" not in oidc.scopes:
        yield PROVIDER.problem("access.user_oidc.scopes", why="the scopes lack openid, so it gives no ID token")


def ignored(settings: Settings, _facts: Facts) -> Iterator[Problem]:
    """What is set for a way of authentication that is not in use."""
    access = settings.access
    for name, other, given in (
        ("user_ca", "certificate", bool(access.user_ca)),
        ("user_crl", "certificate", bool(access.user_crl)),
        ("user_oidc", "oidc", access.user_oidc is not None),
    ):
        if given and access.user_authentication != other:
            yield IGNORED.problem(
                f"access.{name}", chosen=access.user_authentication, setting=f"access.{name}", other=other
            )


def management_servers(settings: Settings, _facts: Facts) -> Iterator[Problem]:
    """Each can be reached, and each has a name of its own."""
    seen: set[str] = set()
    for number, server in enumerate(settings.management_servers):
        path = f"management_servers[{number}]"
        if server.name.casefold() in seen:
            yield TWICE.problem(f"{path}.name", name=server.name)
        seen.add(server.name.casefold())
        for place, address in enumerate(server.addresses):
            here = f"{path}.addresses[{place}]"
            why = (
                "loopback"
                if address.is_loopback
                else "multicast"
                if address.is_multicast
                else "unspecified"
                if address.is_unspecified
                else "link-local"
                if address.is_link_local
                else None
            )
            if why is not None:
                yield NO_HOST.problem(here, address=address, name=server.name, why=why)
            elif isinstance(address, IPv4Address) and settings.nat64.state == "disabled":
                yield NO_WAY.problem(here, address=address, name=server.name)


RULES = (authentication, ignored, management_servers)
