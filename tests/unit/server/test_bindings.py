"""The accounting of bindings, from the gateway's events to the lines of the log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from portico.accounting.binding_log import files
from portico.errors import Unavailable
from portico.server import bindings as bindings_module
from portico.server.bindings import BindingAccounting
from portico.settings.effective import Binding

CLIENT = "fd7c:1a2b:3c4d:1000::c"
STATIC = Binding("tcp", IPv6Address(CLIENT), 22, IPv4Address("10.0.0.2"), 50022)
HELD = {"protocol": "udp", "client": CLIENT, "client_port": 9, "address": "10.0.0.2", "port": 33000, "static": False}


def rows(*ports: int, event: str = "open", dropped: int = 0, at: float = 100.0) -> dict[str, Any]:
    found = [[event, at, "tcp", CLIENT, 51000, "10.0.0.2", port] for port in ports]
    return {"event": "nat64_bindings", "at": at, "rows": found, "dropped": dropped}


class Scene:
    def __init__(self, directory: Path) -> None:
        self.held: list[dict[str, Any]] = []
        self.failure: Exception | None = None
        self.accounting = BindingAccounting(directory, self._held)

    async def _held(self) -> AsyncIterator[list[dict[str, Any]]]:
        if self.failure is not None:
            raise self.failure
        yield self.held

    async def configure(self, enabled: bool = True, statics: tuple[Binding, ...] = ()) -> None:
        await self.accounting.configure(enabled=enabled, retention_days=30, statics=statics)

    def lines(self) -> list[dict[str, Any]]:
        found = files(self.accounting.log.directory)
        return [json.loads(text) for file in found for text in file.path.read_bytes().splitlines()]

    def kinds(self) -> list[str]:
        return [str(row.get("mark") or f"{row['event']} {row['port']}") for row in self.lines()]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen within 5 s")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "log")


def connected(scene: Scene, name: str = "laptop7") -> None:
    identity = {"subject": name, "serial": "2a", "issuer_sha256": "aa"}
    scene.accounting.event({"event": "session_up", "at": 1.0, "session": 3, "peer": "p", "identity": identity})
    scene.accounting.event({"event": "session_address", "at": 2.0, "session": 3, "address": CLIENT})


def test_rows_carry_the_name_of_the_certificate(scene: Scene) -> None:
    async def life() -> None:
        await scene.configure()
        connected(scene)
        scene.accounting.event(rows(40123))
        await scene.accounting.stop()

    asyncio.run(life())
    assert scene.kinds() == ["on", "open 40123", "stop"]
    row = scene.lines()[1]
    assert (row["name"], row["serial"], row["session"], row["t"]) == ("laptop7", "2a", 3, 100.0)


def test_nothing_is_written_while_it_is_off(scene: Scene) -> None:
    async def life() -> None:
        await scene.configure(enabled=False, statics=(STATIC,))
        scene.accounting.event(rows(1))
        scene.accounting.gateway_started()
        await scene.accounting.stop()

    asyncio.run(life())
    assert not scene.accounting.log.directory.exists()


def test_switching_on_writes_what_is_bound_and_off_ends_it(scene: Scene) -> None:
    scene.held = [HELD, {**HELD, "port": 50022, "static": True}]

    async def life() -> None:
        await scene.configure(enabled=False)
        await scene.configure(statics=(STATIC,))
        await scene.configure(statics=(STATIC,))
        scene.accounting.gateway_started()
        await scene.configure(statics=())
        await scene.configure(enabled=False)
        await scene.configure(enabled=False)
        await scene.accounting.stop()

    asyncio.run(life())
    statics = ["open 50022", "start", "open 50022", "close 50022"]
    assert scene.kinds() == ["on", "held 33000", *statics, "off"]
    assert scene.lines()[2]["static"] is True


def test_a_gateway_that_cannot_say_what_is_bound_does_not_stop_the_log(scene: Scene) -> None:
    scene.failure = Unavailable("The gateway does not answer")

    async def life() -> None:
        await scene.configure()
        scene.accounting.event(rows(1))
        await scene.accounting.stop()

    asyncio.run(life())
    assert scene.kinds() == ["on", "open 1", "stop"]


def test_what_the_gateway_dropped_and_what_does_not_fit_is_noted(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings_module, "QUEUE_ROWS", 4)

    async def life() -> None:
        await scene.configure()
        scene.accounting.event(rows(1, dropped=7))
        scene.accounting.event(rows(2, 3, 4))
        await scene.accounting.stop()

    asyncio.run(life())
    lost = [(row["rows"], row["why"]) for row in scene.lines() if row.get("mark") == "lost"]
    assert lost == [(3, "the disk was too slow"), (7, "the gateway had no room for them")]
    assert "open 1" in scene.kinds()
    assert scene.accounting.log.lost == 10


def test_a_disk_that_cannot_be_written_is_a_warning_and_no_more(scene: Scene) -> None:
    scene.accounting.log.directory.write_text("a file where the directory should be")

    async def life() -> None:
        await scene.configure()
        scene.accounting.event(rows(1, 2))
        running = asyncio.create_task(scene.accounting.run())
        await until(lambda: scene.accounting.log.lost > 0)
        problem = scene.accounting.problem()
        assert problem is not None and problem.code == "BINDING_LOG" and "3 rows are lost" in problem.why
        scene.accounting.log.directory.unlink()
        scene.accounting.event(rows(3))
        await until(lambda: scene.accounting.log.trouble is None)
        assert scene.accounting.problem() is None
        running.cancel()
        await scene.accounting.stop()

    asyncio.run(life())
    assert scene.kinds() == ["lost", "open 3", "stop"]


def test_old_files_go_as_soon_as_the_settings_say_so(scene: Scene) -> None:
    scene.accounting.log.directory.mkdir()
    old = scene.accounting.log.directory / "nat64-bindings-2020-01-01.jsonl"
    old.write_text("")

    async def life() -> None:
        running = asyncio.create_task(scene.accounting.run())
        await scene.configure(enabled=False)
        await until(lambda: not old.exists())
        running.cancel()

    asyncio.run(life())
    assert not old.exists()


@pytest.mark.parametrize("found", [None, [["open"]], [["open", "x", 1, 2, 3, 4, 5]], 7])
def test_malformed_events_are_survived(scene: Scene, found: Any) -> None:
    async def life() -> None:
        await scene.configure()
        scene.accounting.event({"event": "nat64_bindings", "at": 1, "rows": found, "dropped": 0})
        scene.accounting.event(rows(1))
        await scene.accounting.stop()

    asyncio.run(life())
    assert "open 1" in scene.kinds()
