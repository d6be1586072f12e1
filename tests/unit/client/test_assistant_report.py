"""A report of the connectivity assistant, as others read it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from portico.client.assistant.report import Check, Place, Report, State, Who
from portico.client.status import Status, Substatus

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
REPORT = Report(
    place=Place.OUTSIDE,
    status=Status.ERROR,
    substatus=Substatus.NAME_RESOLUTION_FAILURE,
    since=NOW,
    technology="IPHTTPS",
    network="eth0 192.168.1.10 by 192.168.1.1",
    checks=(
        Check(name="network", state=State.PASSED, since=NOW),
        Check(
            name="corpConnectivityHost",
            state=State.FAILED,
            detail="no such name",
            cause="c",
            resolution="r",
            who=Who.ADMINISTRATOR,
            since=NOW,
        ),
    ),
)


def test_it_survives_json() -> None:
    text = json.dumps(REPORT.as_dict())
    assert '"since": "2026-03-01T12:00:00.250000Z"' in text
    assert Report.from_dict(json.loads(text)) == REPORT


def test_the_first_check_that_failed_is_named() -> None:
    assert REPORT.failed is REPORT.checks[1]
    assert REPORT.model_copy(update={"checks": REPORT.checks[:1]}).failed is None


def test_fields_of_a_newer_program_are_left_out_and_nonsense_is_refused() -> None:
    data = REPORT.as_dict()
    assert Report.from_dict({**data, "later": 1}) == REPORT
    for bad in ({}, None, {**data, "place": "elsewhere"}, {**data, "since": "2026-03-01T12:00:00"}):
        with pytest.raises(ValueError):
            Report.from_dict(bad)
