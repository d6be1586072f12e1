"""The certificate of the network location server: from the built-in CA or imported, as the server's own. Blocking."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from portico.certificates.imported import load_server
from portico.certificates.renewal import ensure_server_identity
from portico.certificates.trust import parse_certificates, to_pem
from portico.errors import NotFound, PorticoError
from portico.server.credentials import Credentials
from portico.settings.located import nls_name
from portico.settings.model import Settings

DIRECTORY = "location"


@dataclass(frozen=True)
class PageIdentity:
    """What the page is served with, PEM. The key stays out of representations.

    Attributes:
        trust: what verifies the certificate.
    """

    chain: str
    key: str = field(repr=False)
    trust: str = ""


def page_identity(credentials: Credentials, settings: Settings, now: datetime) -> PageIdentity:
    """The certificate to serve with now; made, renewed or read anew when that is due.

    Raises:
        PorticoError: there is none that can be used; what says why.
    """
    certificates, section = settings.certificates, settings.network_location_server
    name = nls_name(settings)
    assert name is not None, "asked for only when the servers have the page"
    if certificates.mode == "imported":
        if section.certificate is None or section.key is None:
            raise NotFound(
                "The network location server has no certificate",
                why="certificates.mode is imported, and network_location_server.certificate or .key is not set",
                resolution="Name both files, or set network_location_server.state to disabled",
                code="NLS_CERTIFICATE_NOT_NAMED",
            )
        files = {"server_certificate": section.certificate, "server_key": section.key}
        chain, key = load_server(certificates.model_copy(update=files))
        # The last certificate of the file is the nearest to the root that the administrator gave.
        return PageIdentity(chain, key, to_pem(parse_certificates(chain, source=section.certificate)[-1]))
    made = ensure_server_identity(
        _directory(credentials),
        credentials.issuer(),
        connect_to=name,
        days=certificates.server_lifetime_days,
        renew_before_days=certificates.renew_before_days,
        now=now,
    )
    return PageIdentity(made.identity.chain_pem, made.identity.key_pem, credentials.issuer().trust)


def renewal_problem(error: PorticoError) -> PorticoError:
    """What is said while the former certificate still serves."""
    return PorticoError(
        "The network location server keeps its former certificate",
        why=f"{error.what}: {error.why}",
        resolution=error.resolution,
        code="NLS_CERTIFICATE_NOT_RENEWED",
    )


def _directory(credentials: Credentials) -> Path:
    return credentials.directory / DIRECTORY
