"""Network Location Server, and Dns as far as the deployment's own records go."""

from __future__ import annotations

from typing import Final

from portico.health.components import Component
from portico.health.findings import CATALOGUE, Finding, Kind
from portico.health.location import LocationSeen
from portico.health.observations import Observations, Trouble
from portico.health.registry import Findings, heuristic
from portico.health.states import HealthState

WARNING, ERROR, UNKNOWN = HealthState.WARNING, HealthState.ERROR, HealthState.UNKNOWN
NLS: Final = Component.NETWORK_LOCATION_SERVER
DNS: Final = Component.DNS

_EXPIRES: Final = "NLS_CERTIFICATE_EXPIRES"

BROKEN = CATALOGUE.add(
    "NLS_BROKEN",
    NLS,
    ERROR,
    what="The network location server cannot be used",
    cause="{what}: {why}",
    resolution="{resolution}",
)
EXPIRES = CATALOGUE.add(
    "NLS_EXPIRES",
    NLS,
    WARNING,
    what="The certificate of the network location server expires soon",
    cause="{what}: {why}",
    resolution="{resolution}",
)
NOT_LOOKED_AT = CATALOGUE.add(
    "NLS_NOT_LOOKED_AT",
    NLS,
    UNKNOWN,
    what="The network location server was not looked at yet",
    cause="it is fetched every 20 seconds",
    resolution="Wait a moment",
)
PAGE = CATALOGUE.add(
    "LOCATION_PAGE",
    NLS,
    ERROR,
    what="A page for clients is not served as it should be",
    cause="{what}: {why}",
    resolution="{resolution}",
)
RECORD = CATALOGUE.add(
    "DNS_RECORD",
    DNS,
    ERROR,
    shared=True,
    what="A record of the deployment is not right in the corporate DNS",
    cause="{what}: {why}",
    resolution="{resolution}",
)
RECORDS_NOT_LOOKED_AT = CATALOGUE.add(
    "DNS_RECORDS_NOT_LOOKED_AT",
    DNS,
    UNKNOWN,
    what="The deployment's records were not looked at yet",
    cause="every DNS server of the zone is asked every 20 seconds",
    resolution="Wait a moment",
)


@heuristic(NLS)
def location_server_is_reached(seen: Observations) -> Findings:
    """The page, fetched as a computer inside does, and what keeps this server's own pages from being served."""
    found = seen.extra(LocationSeen)  # noqa: S610 - no database is near
    if found is None or not (found.nls or found.page_troubles):
        return None
    findings = [_told(PAGE, trouble) for trouble in found.page_troubles]
    if found.nls and not found.nls_checked:
        return [*findings, NOT_LOOKED_AT.finding()]
    for trouble in found.nls_troubles:
        kind = EXPIRES if trouble.code == _EXPIRES else BROKEN
        findings.append(_told(kind, trouble))
    return findings


@heuristic(DNS)
def records_are_right(seen: Observations) -> Findings:
    """The records that clients rely on, on every DNS server of the zone; a finding names record, server and symptom."""
    found = seen.extra(LocationSeen)  # noqa: S610 - no database is near
    if found is None or not found.records:
        return None
    if not found.records_checked:
        return [RECORDS_NOT_LOOKED_AT.finding()]
    return [_told(RECORD, trouble) for trouble in found.record_troubles]


def _told(kind: Kind, trouble: Trouble) -> Finding:
    return kind.finding(trouble.what, what=trouble.what, why=trouble.why, resolution=trouble.resolution)
