"""Reports as the connectivity assistant makes them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from portico.client.assistant.report import Check, Place, Report, State, Who
from portico.client.status import Status, Substatus

THEN = datetime(2026, 11, 28, 7, 0, tzinfo=UTC)


@pytest.fixture
def working() -> Report:
    return Report(
        place=Place.OUTSIDE,
        status=Status.CONNECTED_REMOTELY,
        substatus=Substatus.NONE,
        since=THEN,
        technology="IPHTTPS",
        network="wlan0 192.168.1.10 via 192.168.1.1",
        checks=(
            Check(name="network", state=State.PASSED, since=THEN),
            Check(name="network location server", state=State.SKIPPED, detail="no answer: outside", since=THEN),
            Check(name="corpConnectivityHost", state=State.PASSED, detail="fd00::7f00:1", since=THEN),
        ),
    )


@pytest.fixture
def broken() -> Report:
    return Report(
        place=Place.OUTSIDE,
        status=Status.ERROR,
        substatus=Substatus.NAME_RESOLUTION_FAILURE,
        since=THEN,
        technology="IPHTTPS",
        support_email="help@example.net",
        checks=(
            Check(name="network", state=State.PASSED, since=THEN),
            Check(
                name="corpConnectivityHost",
                state=State.FAILED,
                detail="NXDOMAIN <b>",
                cause="the record is missing",
                resolution="portico dns check",
                who=Who.ADMINISTRATOR,
                since=THEN,
            ),
            Check(name="web probe", state=State.RUNNING, since=THEN),
        ),
    )
