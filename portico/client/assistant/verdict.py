"""Status and sub-status from the checks. Pure.

What follows from what is the mapping of Windows' Network Connectivity Assistant: no Internet is
InternetConnectivityDown; tunnel endpoints that do not answer are CouldNotContactDirectAccessServer; a name that is
missing or wrong is NameResolutionFailure; a web probe that fails leaves the client at Connecting; and resources that
fail behind all that are RemoteNetworkAuthenticationFailure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from portico.client.assistant import findings
from portico.client.assistant.findings import Finding
from portico.client.assistant.report import Place, State
from portico.client.status import Status, Substatus

_AFTER_CONNECTION: Final = (
    (findings.ENDPOINTS, Status.ERROR, Substatus.COULD_NOT_CONTACT_SERVER),
    (findings.CORP, Status.ERROR, Substatus.NAME_RESOLUTION_FAILURE),
    (findings.WEB_PROBE, Status.CONNECTING, Substatus.NONE),
    (findings.PROBE, Status.ERROR, Substatus.AUTHENTICATION_FAILURE),
)
"""What a failed check means while there is a connection, the first that fits. Names are beginnings of names."""


def conclude(
    place: Place,
    checks: Iterable[Finding],
    connection: tuple[Status, Substatus],
    *,
    in_use: bool = True,
    portal: bool = False,
) -> tuple[Status, Substatus]:
    """The answer in two words.

    Args:
        connection: what follows from the connection alone (`portico.client.status.derive`).
        in_use: the checks are those of a way in that is in use.
        portal: somebody else answers in the server's place.
    """
    found = list(checks)
    failed = [check.name for check in found if check.state is State.FAILED]
    if place is Place.INSIDE:
        return Status.CONNECTED_LOCALLY, Substatus.NONE
    if findings.NETWORK in failed:
        return Status.ACTIONABLE_ERROR, Substatus.INTERNET_CONNECTIVITY_DOWN
    if connection[0] is not Status.CONNECTED_REMOTELY:
        if portal and connection[0] in (Status.ERROR, Status.CONNECTING):
            return Status.ACTIONABLE_ERROR, Substatus.INTERNET_CONNECTIVITY_DOWN
        return connection
    for name, status, substatus in _AFTER_CONNECTION:
        if any(check.startswith(name) for check in failed):
            return status, substatus
    if not in_use:
        return Status.CONNECTING, Substatus.NONE
    after = tuple(name for name, _, _ in _AFTER_CONNECTION)
    if any(check.state is State.RUNNING and check.name.startswith(after) for check in found):
        return Status.CONNECTING, Substatus.NONE
    return connection
