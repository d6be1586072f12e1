"""The log of changes: numbered, paged, bounded, never edited, never in the way."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from portico.health.components import Component
from portico.health.memory import HealthEvent
from portico.health.states import HealthState
from portico.server.health.events import NAME, EventLog


def event(number: int, server: str = "da1", component: Component = Component.DNS) -> HealthEvent:
    return HealthEvent(
        at=float(number), server=server, component=component, former=HealthState.OK, state=HealthState.ERROR
    )


def numbers(page: dict[str, object]) -> list[int]:
    rows = page["events"]
    assert isinstance(rows, list)
    return [row["number"] for row in rows]


def test_pages_go_both_ways(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    assert log.page() == {"events": [], "oldest": None, "more": False}
    log.append([event(n, "da2" if n % 2 else "da1") for n in range(1, 11)])
    assert numbers(log.page(limit=3)) == [8, 9, 10] and log.page(limit=3)["more"] is True
    assert numbers(log.page(before=8, limit=3)) == [5, 6, 7]
    assert numbers(log.page(after=4, limit=3)) == [5, 6, 7]
    assert numbers(log.page(after=10)) == [] and log.page(after=10)["more"] is False
    assert numbers(log.page(server="da2", since=6.0)) == [7, 9]
    assert numbers(log.page(component=Component.NAT64)) == []
    log.close()
    assert numbers(EventLog(tmp_path).page(limit=1)) == [10], "after a restart"


def test_the_oldest_go_and_numbers_are_never_used_again(tmp_path: Path) -> None:
    log = EventLog(tmp_path, kept=100)
    for batch in range(30):
        log.append([event(n) for n in range(batch * 10, batch * 10 + 10)])
    page = log.page(limit=1000)
    assert numbers(page) == list(range(201, 301)) and page["oldest"] == 201
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_an_event_cannot_be_edited(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append([event(1)])
    log.close()
    with sqlite3.connect(tmp_path / NAME) as connection, pytest.raises(sqlite3.IntegrityError, match="not edited"):
        connection.execute("UPDATE event SET data = '{}'")


def test_what_cannot_be_written_is_counted_and_told(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("in the way")
    log = EventLog(state)
    log.append([event(1), event(2)])
    assert log.lost == 2 and log.problem is not None
    state.unlink()
    log.append([event(3)])
    assert log.problem is None and numbers(log.page()) == [1]


def test_a_damaged_log_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no database at all, " * 500)
    log = EventLog(tmp_path)
    log.append([event(1)])
    assert log.problem is None and numbers(log.page()) == [1]
    assert [path.name.partition("-")[0] for path in tmp_path.glob("*.damaged-*")] == ["health.sqlite.damaged"]
