"""IP-HTTPS and network security: can clients come in, and only those that may."""

from __future__ import annotations

from typing import Final

from portico.health.components import Component
from portico.health.findings import CATALOGUE, Finding, Kind
from portico.health.heuristics.server import is_filter, listed
from portico.health.observations import Certificate, Observations, Trouble
from portico.health.registry import Findings, heuristic
from portico.health.states import HealthState

WARNING, ERROR, UNKNOWN = HealthState.WARNING, HealthState.ERROR, HealthState.UNKNOWN
IP_HTTPS: Final = Component.IP_HTTPS
SECURITY: Final = Component.NETWORK_SECURITY

DAY: Final = 86_400.0
EXPIRES_SOON: Final = 30 * DAY
EXPIRES_AT_ONCE: Final = 7 * DAY
NEARLY_FULL: Final = 0.9

GATEWAY_DOWN = CATALOGUE.add(
    "IPHTTPS_GATEWAY_DOWN",
    IP_HTTPS,
    ERROR,
    what="No client can connect to this server",
    cause="the gateway process is {state}{reason}",
    resolution="Look at it: systemctl status portico-gateway; it is started again by itself",
)
NOT_LISTENING = CATALOGUE.add(
    "IPHTTPS_NOT_LISTENING",
    IP_HTTPS,
    ERROR,
    what="The server does not listen for clients",
    cause="TCP port {port} of {interface} is not open",
    resolution="Look at the problem: portico server status; who has the port: ss -Hltnp 'sport = :{port}'",
)
CERTIFICATE_EXPIRES = CATALOGUE.add(
    "SERVER_CERTIFICATE_EXPIRES",
    IP_HTTPS,
    WARNING,
    worse=ERROR,
    what="The server certificate expires soon",
    cause="{about} ends in {days:.1f} days{automatic}",
    resolution="Built-in CA: portico ca renew; imported: replace the files and apply the settings again",
)
CERTIFICATE_EXPIRED = CATALOGUE.add(
    "SERVER_CERTIFICATE_EXPIRED",
    IP_HTTPS,
    ERROR,
    what="The server certificate is not valid now",
    cause="{about} {when}",
    resolution="Built-in CA: portico ca renew; imported: replace the files and apply the settings again; and look at "
    "this machine's clock: timedatectl",
)
CERTIFICATE_NAME = CATALOGUE.add(
    "SERVER_CERTIFICATE_NAME",
    IP_HTTPS,
    ERROR,
    what="Clients refuse the server certificate",
    cause="{about} is not for the ConnectTo address {connect_to}",
    resolution="Use a certificate with that name among its subject alternative names",
)
CERTIFICATE_UNREADABLE = CATALOGUE.add(
    "SERVER_CERTIFICATE_UNREADABLE",
    IP_HTTPS,
    WARNING,
    what="The server certificate cannot be read again",
    cause="{about}: {why}",
    resolution="Put the file back; until then the one in memory serves, and a restart may not",
)
CERTIFICATE_NOT_RENEWED = CATALOGUE.add(
    "SERVER_CERTIFICATE_NOT_RENEWED",
    IP_HTTPS,
    WARNING,
    what="The server certificate is not renewed",
    cause="{why}",
    resolution="{resolution}",
)
CERTIFICATES_UNKNOWN = CATALOGUE.add(
    "CERTIFICATES_UNKNOWN",
    IP_HTTPS,
    UNKNOWN,
    what="The server certificate was not looked at",
    cause="its file was not read yet",
    resolution="Look at it: portico ca show",
)
TUNNELS_FULL = CATALOGUE.add(
    "TUNNELS_NEARLY_FULL",
    IP_HTTPS,
    WARNING,
    worse=ERROR,
    what="There is hardly room for more clients",
    cause="{tunnels} of {limit} tunnels are in use (ip_https.max_clients)",
    resolution="Raise it: portico settings set ip_https.max_clients=NUMBER; or add a server: portico lb add",
)
ANYBODY = CATALOGUE.add(
    "CLIENTS_NOT_AUTHENTICATED",
    SECURITY,
    WARNING,
    shared=True,
    what="Anybody can open a tunnel",
    cause="ip_https.authentication is none",
    resolution="Ask for certificates: portico settings set ip_https.authentication=certificates",
)
FILTER_CHANGED = CATALOGUE.add(
    "PACKET_FILTER_CHANGED",
    SECURITY,
    ERROR,
    what="The packet filter is not as the settings say",
    cause="something else changed it; it needs: {changes}",
    resolution="Let Portico put it back: portico settings set drift=repair; and find who did it",
)
AUTHORITY_EXPIRES = CATALOGUE.add(
    "CLIENT_CA_EXPIRES",
    SECURITY,
    WARNING,
    worse=ERROR,
    what="A CA of the clients expires soon",
    cause="{about} ends in {days:.1f} days; its clients are refused from then on",
    resolution="Imported: put the CA's new certificate into certificates.client_ca, beside the old one; built-in: "
    "docs/operate.md, certificates",
)
AUTHORITY_EXPIRED = CATALOGUE.add(
    "CLIENT_CA_EXPIRED",
    SECURITY,
    ERROR,
    what="A CA of the clients is not valid now",
    cause="{about} {when}; its clients are refused",
    resolution="Put the CA's new certificate into certificates.client_ca; look at this machine's clock: timedatectl",
)
AUTHORITY_UNREADABLE = CATALOGUE.add(
    "CLIENT_CA_UNREADABLE",
    SECURITY,
    WARNING,
    what="A CA of the clients cannot be read",
    cause="{about}: {why}",
    resolution="Put the file back; what it held before stays in use",
)
CERTIFICATE_TROUBLE = CATALOGUE.add(
    "CERTIFICATE_STORE_TROUBLE",
    SECURITY,
    WARNING,
    what="Certificates or revocations cannot be kept up to date",
    cause="{about}: {why}",
    resolution="{resolution}",
)

_BY_OTHERS: Final = frozenset({"server certificate", "certificate match", "unwritten", "accounting", "events"})
"""Sources of warnings that have a finding of their own."""


@heuristic(IP_HTTPS)
def answers(seen: Observations) -> Findings:
    """A process, and an open port for it."""
    if seen.settings is None:
        return None
    gateway = seen.process("gateway")
    found = []
    if gateway is not None and gateway.state != "running":
        reason = f": {gateway.reason}" if gateway.reason else ""
        found.append(GATEWAY_DOWN.finding(state=gateway.state, reason=reason))
    if seen.listening is False:
        found.append(
            NOT_LISTENING.finding(port=seen.settings.ip_https.port, interface=seen.settings.server.internet_interface)
        )
    return found


@heuristic(IP_HTTPS)
def has_a_certificate(seen: Observations) -> Findings:
    """Its time, its name, and whether it can be renewed."""
    if seen.settings is None:
        return None
    found = []
    if (trouble := seen.warnings.get("server certificate")) is not None:
        found.append(
            CERTIFICATE_NOT_RENEWED.finding(why=_said(trouble), resolution=trouble.resolution or "See the log")
        )
    if seen.certificates is None:
        return [*found, CERTIFICATES_UNKNOWN.finding()]
    for certificate in seen.certificates:
        if certificate.purpose == "server":
            found += _judged(certificate, seen, CERTIFICATE_UNREADABLE, CERTIFICATE_EXPIRED, CERTIFICATE_EXPIRES)
            if certificate.covers is False:
                found.append(CERTIFICATE_NAME.finding(certificate.name, connect_to=seen.settings.deployment.connect_to))
    return found


@heuristic(IP_HTTPS)
def has_room_for_clients(seen: Observations) -> Findings:
    if seen.settings is None:
        return None
    limit = seen.settings.ip_https.max_clients
    if seen.tunnels is None or seen.tunnels < NEARLY_FULL * limit:
        return []
    return [TUNNELS_FULL.finding(worse=seen.tunnels >= limit, tunnels=seen.tunnels, limit=limit)]


@heuristic(SECURITY)
def asks_who_comes(seen: Observations) -> Findings:
    if seen.settings is None:
        return None
    return [ANYBODY.finding()] if seen.settings.ip_https.authentication == "none" else []


@heuristic(SECURITY)
def filters(seen: Observations) -> Findings:
    """The table `inet portico`. Repaired at once, or said here."""
    if seen.settings is None:
        return None
    changes = [change for change in seen.drifting if is_filter(change)]
    return [FILTER_CHANGED.finding(changes=listed(changes))] if changes else []


@heuristic(SECURITY)
def trusts_living_authorities(seen: Observations) -> Findings:
    """CAs that end, lists of revoked certificates that cannot be read or written."""
    if seen.settings is None:
        return None
    found = [
        CERTIFICATE_TROUBLE.finding(source, why=_said(trouble), resolution=trouble.resolution or "See the log")
        for source, trouble in sorted(seen.warnings.items())
        if source not in _BY_OTHERS
    ]
    for certificate in seen.certificates or ():
        if certificate.purpose != "server":
            found += _judged(certificate, seen, AUTHORITY_UNREADABLE, AUTHORITY_EXPIRED, AUTHORITY_EXPIRES)
    return found


def _judged(
    certificate: Certificate, seen: Observations, unreadable: Kind, expired: Kind, expires: Kind
) -> list[Finding]:
    if certificate.trouble:
        return [unreadable.finding(certificate.name, why=certificate.trouble)]
    left = certificate.not_after - seen.now
    if left <= 0 or seen.now < certificate.not_before:
        when = "has expired" if left <= 0 else "is not valid yet"
        return [expired.finding(certificate.name, when=when)]
    # One that Portico renews has been renewed long before, at two thirds of its life at the latest.
    whole = certificate.not_after - certificate.not_before
    soon, at_once = (whole / 6, whole / 20) if certificate.automatic else (EXPIRES_SOON, EXPIRES_AT_ONCE)
    if left >= soon:
        return []
    automatic = "; it should have been renewed by itself" if certificate.automatic else ""
    return [expires.finding(certificate.name, worse=left < at_once, days=left / DAY, automatic=automatic)]


def _said(trouble: Trouble) -> str:
    return f"{trouble.what}: {trouble.why}" if trouble.why else trouble.what
