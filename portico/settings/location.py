"""The sections about where clients are and what the corporate DNS knows: network location server, web probe, records.

The names are those of a DirectAccess deployment: `directaccess-nls`, `directaccess-WebProbeHost` and
`directaccess-corpConnectivityHost` in the deployment's domain.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field

from portico.settings.kinds import (
    AnyAddress,
    CertificatePath,
    HostName,
    KeyPath,
    SecretPath,
    Section,
    State,
    Upstream,
)
from portico.settings.urls import PageUrl

NLS_LABEL: Final = "directaccess-nls"
WEB_PROBE_LABEL: Final = "directaccess-WebProbeHost"
CORP_CONNECTIVITY_LABEL: Final = "directaccess-corpConnectivityHost"

NLS_PORT: Final = 443
SINGLE_ADAPTER_NLS_PORT: Final = 62000
"""On one adapter 443 is the entrance's."""

_PRINCIPAL = re.compile(r"[^\s@]{1,200}@[^\s@/]{1,200}")


def _principal(value: object) -> str:
    if not isinstance(value, str) or not _PRINCIPAL.fullmatch(value.strip()):
        raise ValueError("a Kerberos principal is written 'name@REALM' or 'service/host@REALM'")
    return value.strip()


Principal = Annotated[str, BeforeValidator(_principal)]


class NetworkLocationServer(Section):
    """The HTTPS page that only computers inside can fetch: by it a client knows where it is."""

    state: State = Field(default="enabled", description="whether clients have one")
    url: PageUrl | None = Field(
        default=None, description="the page of another web server; null: every Portico server has the page"
    )
    name: HostName | None = Field(
        default=None, description="its name, which is no server's name; null: directaccess-nls in the domain"
    )
    port: Annotated[int, Field(ge=1, le=65_535)] | None = Field(
        default=None, description="TCP port; null: 443, and 62000 on a server with one adapter"
    )
    certificate: CertificatePath | None = Field(
        default=None, description="imported certificates: PEM file, its certificate and chain"
    )
    key: KeyPath | None = Field(default=None, description="imported certificates: PEM file of its private key")


class WebProbe(Section):
    """The HTTP page that clients fetch through the tunnel, and external load balancers from a server."""

    state: State = Field(default="enabled", description="whether the servers have it")
    name: HostName | None = Field(default=None, description="null: directaccess-WebProbeHost in the domain")
    port: int = Field(default=80, ge=1, le=65_535, description="TCP port; clients ask for 80")


class CorporateDns(Section):
    """The records of the deployment in the intranet's DNS: checked on every DNS server, and written where allowed."""

    state: State = Field(default="enabled", description="whether the records are checked")
    zone: HostName | None = Field(default=None, description="the zone they are in; null: `deployment.domain`")
    servers: list[Upstream] = Field(
        default_factory=list,
        max_length=16,
        description="all DNS servers of the zone, each of which is checked; empty: those that its NS records name",
    )
    update: Literal["none", "tsig", "gss-tsig"] = Field(
        default="none",
        description="how missing and wrong records are put right (RFC 2136): with a shared key (RFC 8945), with "
        "Kerberos as Active Directory wants it (RFC 3645), or not at all: 'portico dns records' prints them",
    )
    update_server: Upstream | None = Field(
        default=None, description="the DNS server that takes updates; null: the zone's primary (SOA)"
    )
    key_file: SecretPath | None = Field(
        default=None, description="tsig: file of the key as tsig-keygen prints it, which only root may read"
    )
    keytab: KeyPath | None = Field(default=None, description="gss-tsig: keytab file, which only root may read")
    principal: Principal | None = Field(
        default=None, description="gss-tsig: whose key of the keytab is used, as DA1$@CORP.EXAMPLE.NET"
    )
    native_ipv6: bool | None = Field(
        default=None,
        description="whether the intranet has IPv6: directaccess-corpConnectivityHost is then ::1 only. "
        "null: when DNS64 asks for AAAA records too, or NAT64 is disabled",
    )
    other_entry_points: list[AnyAddress] = Field(
        default_factory=list,
        max_length=32,
        description="addresses of other entry points that directaccess-WebProbeHost has too",
    )
    ttl_seconds: int = Field(default=600, ge=0, le=86_400, description="time to live of records that are written")
    refresh_hours: int = Field(
        default=24, ge=1, le=168, description="how often all records are written again, so that scavenging spares them"
    )
