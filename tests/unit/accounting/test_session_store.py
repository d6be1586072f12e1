"""The inbox accounting store, and what follows the gateway's tunnels into it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from portico.accounting.session_store import NAME, Session, SessionStore
from portico.errors import Unavailable
from portico.server import inbox as inbox_module
from portico.server.inbox import Inbox
from portico.settings.accounting import Accounting, limit_days, store_limit
from portico.settings.model import Settings


def session(number: int, started: float, ended: float | None = None, name: str = "lap") -> Session:
    return Session(number, "da1", name, "1", "p:1", started, ended or started, ended=ended)


def test_sessions_are_found_by_time_and_counted(tmp_path: Path) -> None:
    store = SessionStore.open(tmp_path)
    store.write([session(1, 10, 20), session(2, 15, 40, "other"), session(3, 30, 50), session(4, 45)])
    rows, more = store.sessions(start=25, end=42)
    assert ([row["started"] for row in rows], more) == ([15, 30], None)
    first, more = store.sessions(limit=3)
    rest, end = store.sessions(after=more, limit=3)
    assert [row["started"] for row in (*first, *rest)] == [10, 15, 30, 45]
    assert end is None
    summary = store.summary(None, None)
    assert (summary["sessions"], summary["most_at_once"], summary["unique_names"]) == (4, 2, 2)
    assert store.clear(None, 12, dry_run=True) == 1
    assert store.clear(None, 12) == 1
    assert store.prune(45) == 1, "the one that lasts and the one seen later stay"
    assert store.prune(0, maximum=1) == 1
    store.close()
    again = SessionStore.open(tmp_path)
    assert again.close_open() == 1, "a crash left one"
    assert again.sessions()[0][0]["reason"] == "lost"
    again.close()


class Scene:
    def __init__(self, directory: Path, settings: Settings) -> None:
        self.now = 1000.0
        self.living: list[dict[str, Any]] = []
        self.settings = settings.model_copy(update={"accounting": Accounting(inbox="enabled")})
        self.inbox = Inbox(directory, lambda: self.settings, self.sessions, clock=lambda: self.now)

    async def sessions(self) -> list[dict[str, Any]]:
        return self.living

    def up(self, number: int) -> None:
        self.inbox.event({"event": "session_up", "session": number, "peer": "p:1", "identity": {"subject": "lap"}})

    def down(self, number: int) -> None:
        self.inbox.event({"event": "session_down", "session": number, "bytes_in": 3, "bytes_out": 4, "reason": "x"})


def test_a_session_is_written_while_it_lasts_and_when_it_ends(tmp_path: Path, settings: Settings) -> None:
    async def body() -> None:
        scene = Scene(tmp_path, settings)
        scene.up(1)
        scene.up(2)
        await scene.inbox.flush()
        scene.now = 1010
        scene.down(1)
        scene.living = [{"session": 2, "since": 1000.0, "bytes_in": 9, "bytes_out": 8, "addresses": ["fd00::1"]}]
        await scene.inbox.step()
        rows, _ = scene.inbox.store().sessions()
        assert [(r["ended"], r["bytes_in"], r["addresses"]) for r in rows] == [(1010, 3, []), (None, 9, ["fd00::1"])]
        scene.up(2)  # a new gateway counts from the beginning
        scene.inbox.event({"event": "session_up"})
        scene.inbox.event({"event": "session_down", "session": 99, "bytes_in": 1, "bytes_out": 1})
        await scene.inbox.stop()
        store = SessionStore.open(tmp_path)
        assert [row["reason"] for row in store.sessions()[0]] == ["x", "lost", "server_stopped"]
        store.close()
        assert (scene.inbox.opened, scene.inbox.most) == (3, 2)

    asyncio.run(body())


def test_while_the_store_cannot_be_written_sessions_wait_up_to_a_bound(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_directory: Path) -> SessionStore:
        raise Unavailable("cannot use it", why="disk full")

    async def body() -> None:
        scene = Scene(tmp_path, settings)
        monkeypatch.setattr(inbox_module, "MAXIMUM_WAITING", 3)
        with monkeypatch.context() as patch:
            patch.setattr(SessionStore, "open", broken)
            for number in range(5):
                scene.up(number)
                scene.down(number)
            await scene.inbox.flush()
            problem = scene.inbox.problem()
            assert problem is not None
            assert problem.code == "ACCOUNTING_STORE"
            assert scene.inbox.lost == 2
        await scene.inbox.flush()
        assert scene.inbox.problem() is None
        assert len(scene.inbox.store().sessions()[0]) == 3
        await scene.inbox.stop()

    asyncio.run(body())


def test_a_damaged_store_is_put_aside(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / NAME).write_bytes(b"this is no database" * 100)

    async def body() -> None:
        scene = Scene(tmp_path, settings)
        scene.up(1)
        await scene.inbox.flush()
        assert len(scene.inbox.store().sessions()[0]) == 1
        await scene.inbox.stop()

    asyncio.run(body())
    assert list(tmp_path.glob(f"{NAME}.damaged-*"))


@pytest.mark.parametrize(("text", "days"), [("100d", 100), ("3w", 21), (" 12M ", 365.25), ("2y", 730.5)])
def test_limits(text: str, days: float) -> None:
    assert limit_days(store_limit(text)) == days


@pytest.mark.parametrize("text", ["", "0d", "12", "11y", "1.5y", 12, None])
def test_limits_that_are_none(text: object) -> None:
    with pytest.raises(ValueError, match=r"time to keep records|longer than ten"):
        store_limit(text)
