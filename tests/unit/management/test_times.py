from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from portico.errors import PorticoError
from portico.management.cli.times import parse_duration, parse_time

ZONE = timezone(timedelta(hours=1))
NOW = datetime(2026, 3, 14, 15, 30, 20, tzinfo=ZONE)


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("30m", 1800), ("1h", 3600), ("7d", 604_800), ("1d12h", 129_600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "1x", "0s", "-1h", "1h!", "h"])
def test_durations_refused(text: str) -> None:
    with pytest.raises(PorticoError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("14:05", "2026-03-14T14:05:00+01:00"),
        ("9:05:07", "2026-03-14T09:05:07+01:00"),
        ("23:00", "2026-03-13T23:00:00+01:00"),
        ("2026-03-01", "2026-03-01T00:00:00+01:00"),
        ("2026-03-01 14:05", "2026-03-01T14:05:00+01:00"),
        ("2026-03-01T14:05:00Z", "2026-03-01T14:05:00+00:00"),
        ("2h", "2026-03-14T13:30:20+01:00"),
        ("1d12h", "2026-03-13T03:30:20+01:00"),
        ("now", "2026-03-14T15:30:20+01:00"),
    ],
)
def test_times(text: str, time: str) -> None:
    assert parse_time(text, NOW) == datetime.fromisoformat(time)


@pytest.mark.parametrize("text", ["", "25:00", "yesterday", "2026-13-01", "14:5", "999999999d", "-5m", "٣:٠٠"])
def test_times_refused(text: str) -> None:
    with pytest.raises(PorticoError):
        parse_time(text, NOW)
