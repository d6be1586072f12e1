"""The network location server, the servers' own pages, and the deployment's records in the corporate DNS."""

from __future__ import annotations

from typing import Final

from portico.health.components import Component
from portico.health.findings import CATALOGUE, Finding, Kind
from portico.health.observations import Observations, Trouble
from portico.health.registry import Findings, heuristic
from portico.health.states import HealthState

WARNING, ERROR, UNKNOWN = HealthState.WARNING, HealthState.ERROR, HealthState.UNKNOWN
NLS: Final = Component.NETWORK_LOCATION_SERVER

UNREACHABLE = CATALOGUE.add(
    "NLS_FAILS",
    NLS,
    ERROR,
    shared=True,
    what="Computers inside take themselves to be outside",
    cause="the network location server cannot be fetched: {why}",
    resolution="{resolution}",
)
EXPIRES = CATALOGUE.add(
    "NLS_CERTIFICATE_ENDS",
    NLS,
    WARNING,
    shared=True,
    what="The certificate of the network location server expires soon",
    cause="{why}",
    resolution="{resolution}",
)
NOT_ASKED = CATALOGUE.add(
    "NLS_NOT_ASKED",
    NLS,
    UNKNOWN,
    what="The network location server was not asked yet",
    cause="this server has just started, or its settings have just changed",
    resolution="Wait a moment",
)
PAGES = CATALOGUE.add(
    "PAGES_NOT_SERVED",
    Component.SERVICES,
    WARNING,
    what="A page of this server is not served as it should be",
    cause="{why}",
    resolution="{resolution}",
)
LOST = CATALOGUE.add(
    "DNS_RECORDS_LOST",
    Component.DNS,
    ERROR,
    shared=True,
    what="Clients rely on a record in the corporate DNS that is missing or wrong",
    cause="{why}",
    resolution="{resolution}",
)
RECORDS = CATALOGUE.add(
    "DNS_RECORDS_WRONG",
    Component.DNS,
    WARNING,
    shared=True,
    what="A record of the deployment in the corporate DNS is not as it should be",
    cause="{why}",
    resolution="{resolution}",
)


@heuristic(NLS)
def is_there(seen: Observations) -> Findings:
    """By it a client knows where it is; when it fails, computers inside use the tunnel."""
    if seen.settings is None or seen.settings.network_location_server.state != "enabled":
        return None
    if seen.location is None or seen.location.nls is None:
        return [NOT_ASKED.finding()]
    return [
        _told(EXPIRES if trouble.code == "NLS_CERTIFICATE_EXPIRES" else UNREACHABLE, trouble)
        for trouble in seen.location.nls
    ]


@heuristic(Component.SERVICES)
def serves_pages(seen: Observations) -> Findings:
    if seen.settings is None or seen.location is None:
        return None
    return [_told(PAGES, trouble) for trouble in seen.location.pages]


@heuristic(Component.DNS)
def has_records(seen: Observations) -> Findings:
    if seen.settings is None or seen.settings.corporate_dns.state != "enabled" or seen.location is None:
        return None
    lost = ("DNS_RECORD_MISSING", "DNS_RECORD_WRONG")
    return [_told(LOST if trouble.code in lost else RECORDS, trouble, "records") for trouble in seen.location.records]


def _told(kind: Kind, trouble: Trouble, about: str = "") -> Finding:
    why = f"{trouble.what}: {trouble.why}" if trouble.why else trouble.what
    return kind.finding(
        about, why=f"{why} ({trouble.code})", resolution=trouble.resolution or "portico server status says more"
    )
