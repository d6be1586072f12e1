"""Cmdlets that watch: health, connections and what they reach."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final

from portico.errors import Conflict, InvalidInput, NotFound
from portico.management.client.models import AccountedSession, RemoteClient
from portico.management.cmdlets.binding import Bound, Parameter
from portico.management.cmdlets.cmdlet import Context, cmdlet
from portico.management.cmdlets.errors import not_built
from portico.management.cmdlets.values import PsObject, Value, from_epoch

_ENTRYPOINT = Parameter("EntrypointName", missing="Multisite")
_VIEW: Final = ("Component", "RemoteAccessServer", "HealthState", "TimeStamp", "Id", "OperationStatus")


@cmdlet(
    "Get-RemoteAccessHealth",
    "Shows the state of each component of each server.",
    Parameter("Cluster", "switch", help="All servers, with a first row for the cluster."),
    Parameter("Refresh", "switch", help="Look now instead of showing what was seen some seconds ago."),
    _ENTRYPOINT,
    example="Get-RemoteAccessHealth -Cluster | Where-Object HealthState -ne OK | Format-List Component, Heuristics",
)
def get_health(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    chosen = context.computer(bound)
    try:
        found = context.api.health(refresh=bound.switch("Refresh"))
    except NotFound as error:
        if error.code != "NOT_FOUND":
            raise
        raise not_built("Get-RemoteAccessHealth", "The health of components") from None
    rows: list[Value] = []
    if bound.switch("Cluster"):
        rows.append(_health("Cluster", None, str(found["state"]), float(found["at"]), ()))
        wanted = {report["server"] for report in found["servers"]}
    else:
        wanted = {chosen or found["answered_by"]}
    for report in found["servers"]:
        if report["server"] in wanted:
            rows += [
                _health(row["title"], report["server"], row["state"], float(report["at"]), row["findings"])
                for row in report["components"]
            ]
    return rows


def _health(title: str, server: str | None, state: str, at: float, findings: Any) -> PsObject:
    heuristics = [
        PsObject(
            "RemoteAccessHeuristic",
            [
                ("Id", item["code"]),
                ("OperationStatus", item["state"]),
                ("ErrorDesc", item["what"]),
                ("ErrorCause", item["cause"]),
                ("ErrorResoln", item["resolution"]),
            ],
            text=item["what"],
        )
        for item in findings
    ]
    return PsObject(
        "RemoteAccessHealth",
        [
            ("Component", title),
            ("RemoteAccessServer", server),
            ("HealthState", state),
            ("TimeStamp", from_epoch(at)),
            ("Id", [item.get("Id") for item in heuristics]),
            ("OperationStatus", [item.get("OperationStatus") for item in heuristics]),
            ("Heuristics", heuristics),
        ],
        view=_VIEW,
    )


_TIMES: Final = (
    Parameter(
        "StartDateTime", "datetime", position=0, sets=("AccountingStatistics",), help="From the inbox accounting store."
    ),
    Parameter(
        "EndDateTime", "datetime", position=1, sets=("AccountingStatistics",), help="From the inbox accounting store."
    ),
)
_CONNECTION_VIEW: Final = (
    "ClientIPAddress",
    "UserName",
    "ConnectionDuration",
    "ConnectionType",
    "TransitionTechnology",
)


@cmdlet(
    "Get-RemoteAccessConnectionStatistics",
    "Shows the connections of clients: those of now, or with times those of the accounting store.",
    *_TIMES,
    Parameter("ResourceName", sets=("ActiveStatistics",), help="Only clients that talk to this IPv4 address now."),
    Parameter("RoutingDomain", aliases=("RoutingDomainName",), sets=("ActiveStatistics",), missing="Multitenancy"),
    default_set="ActiveStatistics",
    notes="UserName is the computer's name; users are not authenticated. Without -ComputerName the whole cluster is "
    "shown; with times the server that answers.",
    example="Get-RemoteAccessConnectionStatistics | Sort-Object TotalBytesOut -Descending | Select-Object -First 5",
)
def get_statistics(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    start, end = _times(bound)
    if start is not None or end is not None:
        context.here(bound)
        return [_accounted(item) for item in context.api.accounting.sessions(start=start, end=end)]
    chosen = context.computer(bound)
    if chosen is None and "ComputerName" in bound:
        chosen = context.own_name()
    wanted = _talking_to(context, bound.get("ResourceName")) if "ResourceName" in bound else None
    return [
        _connection(client, session)
        for client, session in _active(context, chosen)
        if wanted is None or wanted & set(session.get("addresses", []))
    ]


def _times(bound: Bound) -> tuple[float | None, float | None]:
    start, end = bound.get("StartDateTime"), bound.get("EndDateTime")
    found = (start.timestamp() if start is not None else None, end.timestamp() if end is not None else None)
    if found[0] is not None and found[1] is not None and found[0] > found[1]:
        raise InvalidInput(
            "The start is after the end",
            why=f"{start} is later than {end}",
            resolution="Exchange -StartDateTime and -EndDateTime",
            code="CMDLET_ARGUMENT",
        )
    return found


def _active(context: Context, server: str | None) -> Iterator[tuple[RemoteClient, dict[str, Any]]]:
    for client in context.api.clients.all("connected"):
        for session in client.sessions:
            if server is None or session.get("server", server) == server:
                yield client, session


def _talking_to(context: Context, destination: str) -> set[str]:
    """Addresses of clients with a NAT64 session to an IPv4 address."""
    return {str(item["client"]) for item in context.api.nat64.sessions(destination=destination)}


def _connection(client: RemoteClient, session: dict[str, Any]) -> PsObject:
    since = session.get("since")
    return _statistics(
        client.name,
        [str(address) for address in session.get("addresses", []) if not str(address).startswith("fe80:")],
        str(session.get("peer", "")),
        started=float(since) if since is not None else None,
        seconds=max(0.0, time.time() - float(since)) if since is not None else 0.0,
        bytes_in=int(session.get("bytes_in", 0)),
        bytes_out=int(session.get("bytes_out", 0)),
        authenticated=session.get("identity") is not None,
        server=session.get("server"),
        number=session.get("session"),
    )


def _accounted(item: AccountedSession) -> PsObject:
    return _statistics(
        item.name,
        [address for address in item.addresses if not address.startswith("fe80:")],
        item.peer,
        started=item.started,
        seconds=max(0.0, item.last_seen - item.started),
        bytes_in=item.bytes_in,
        bytes_out=item.bytes_out,
        authenticated=item.serial is not None,
        server=item.server,
        number=item.id,
        technology=item.technology,
    )


def _statistics(
    name: str,
    addresses: list[str],
    peer: str,
    *,
    started: float | None,
    seconds: float,
    bytes_in: int,
    bytes_out: int,
    authenticated: bool,
    server: str | None,
    number: int | None,
    technology: str = "IPHTTPS",
) -> PsObject:
    return PsObject(
        "RemoteAccessConnection",
        [
            ("ClientIPAddress", addresses),
            ("UserName", name),
            ("ConnectionDuration", timedelta(seconds=round(seconds))),
            ("ConnectionStartTime", from_epoch(started)),
            ("ConnectionType", "DirectAccess"),
            ("AccessStatus", None),
            ("TunnelType", "Tls"),
            ("TransitionTechnology", technology),
            ("TotalBytesIn", bytes_in),
            ("TotalBytesOut", bytes_out),
            ("AuthMethod", "MachineCertificate" if authenticated else "None"),
            ("HostName", name),
            ("ClientExternalAddress", peer.rpartition(":")[0].strip("[]") or peer),
            ("Bandwidth", None),
            ("UserActivityState", None),
            ("RemoteAccessServer", server),
            ("SessionId", number),
        ],
        view=_CONNECTION_VIEW,
    )


@cmdlet(
    "Get-RemoteAccessConnectionStatisticsSummary",
    "Shows sums over the connections of the server that answers.",
    *_TIMES,
    default_set="ActiveStatistics",
    notes="MaxConcurrentConnections and TotalCumulativeConnections count since the server started.",
)
def get_summary(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    start, end = _times(bound)
    context.here(bound)
    if start is not None or end is not None:
        found = context.api.accounting.summary(start=start, end=end)
        return [
            PsObject(
                "RemoteAccessAccountingSummary",
                [
                    ("TotalSessions", found.sessions),
                    ("TotalDASessions", found.sessions),
                    ("TotalVpnSessions", 0),
                    ("MaxConcurrentSessions", found.most_at_once),
                    ("TotalUniqueDAClients", found.unique_names),
                    ("AverageSessionsPerDay", round(found.sessions / found.days, 2) if found.days > 0 else None),
                    ("TotalUniqueUsers", None),
                ],
            )
        ]
    sessions = [session for _, session in _active(context, context.own_name())]
    counted = context.api.accounting.status()
    bytes_in = sum(int(session.get("bytes_in", 0)) for session in sessions)
    bytes_out = sum(int(session.get("bytes_out", 0)) for session in sessions)
    return [
        PsObject(
            "RemoteAccessMonitoringSummary",
            [
                ("TotalConnections", len(sessions)),
                ("TotalDAConnections", len(sessions)),
                ("TotalVpnConnections", 0),
                ("TotalUniqueUsers", None),
                ("MaxConcurrentConnections", max(counted.most_at_once, len(sessions))),
                ("TotalCumulativeConnections", max(counted.opened_since_start, len(sessions))),
                ("TotalBytesIn", bytes_in),
                ("TotalBytesOut", bytes_out),
                ("TotalBytesInOut", bytes_in + bytes_out),
            ],
        )
    ]


_BY_USER, _BY_SESSION, _BY_HOST = "UserName", "SessionId", "HostIP"


@cmdlet(
    "Get-RemoteAccessUserActivity",
    "Shows which IPv4 servers of the intranet a client talks to now, through NAT64.",
    Parameter("UserName", position=0, required=True, sets=(_BY_USER,), help="Name of the computer."),
    Parameter("HostIPAddress", required=True, sets=(_BY_HOST,), help="Address of the client in the tunnel."),
    Parameter("SessionId", "int", required=True, sets=(_BY_SESSION,), help="SessionId of a connection."),
    Parameter(
        "StartDateTime",
        "datetime",
        sets=(_BY_USER, _BY_HOST),
        missing="A record of which servers clients talked to",
        help="Which IPv4 address and port a client had: portico nat64 log",
    ),
    Parameter(
        "EndDateTime",
        "datetime",
        sets=(_BY_USER, _BY_HOST),
        missing="A record of which servers clients talked to",
        help="Which IPv4 address and port a client had: portico nat64 log",
    ),
    default_set=_BY_USER,
    notes="Connections to IPv6 servers are routed, not recorded.",
)
def get_activity(context: Context, bound: Bound, _flowing: list[Value] | None) -> list[Value]:
    context.here(bound)
    if bound.parameter_set == _BY_SESSION:
        number = bound.get("SessionId")
        session = next((s for _, s in _active(context, None) if s.get("session") == number), None)
        if session is None:
            raise NotFound(
                f"There is no session {number}",
                why="no client is connected by it now",
                resolution="List them: Get-RemoteAccessConnectionStatistics | Select-Object SessionId, UserName",
                code="CMDLET_SESSION_UNKNOWN",
            )
        clients = [str(a) for a in session.get("addresses", []) if not str(a).startswith("fe80:")]
    else:
        clients = [str(bound.get("UserName") or bound.get("HostIPAddress"))]
    found: dict[tuple[str, str, int], None] = {}
    try:
        for client in clients:
            for item in context.api.nat64.sessions(client=client):
                found[(str(item["destination"]), str(item["protocol"]), int(item["destination_port"]))] = None
    except Conflict as error:
        raise Conflict(
            error.what, why=f"{error.why}; which servers are reached is known from NAT64", resolution=error.resolution
        ) from None
    return [
        PsObject(
            "RemoteAccessUserActivity",
            [
                ("ServerIpAddress", address),
                ("ProtocolID", {"icmp": 1, "tcp": 6, "udp": 17}.get(protocol, protocol)),
                ("ServerPort", port if protocol != "icmp" else None),
            ],
        )
        for address, protocol, port in found
    ]
