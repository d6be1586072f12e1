"""Children that a service manager starts: who is taken, what they get, how they end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from portico import connected as connected_module
from portico.child import BATCH
from portico.connected import Door
from portico.errors import NotFound, Unavailable
from portico.supervisor import ChildError, ChildState, Program, Start, Supervisor

ROOT = Path(__file__).resolve().parents[3]
CHILD = [sys.executable, "-m", "tests.unit.server.echo_child", "--connect"]
PROGRAM = Program("echo", "not started by the agent", None, "echo2", 0.05, 1.0, 5.0, 1.0)


class Unit:
    """Stands where systemd stands: keeps one process running, as Restart=always does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            if self.process is None or self.process.poll() is not None:
                self.process = launch(self.path)
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def launch(path: Path, *prefix: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*prefix, *CHILD, str(path)], cwd=ROOT, stderr=subprocess.PIPE)


Body = Callable[[Supervisor, Door, Unit, list[dict[str, Any]]], Awaitable[None]]


def connected(
    path: Path, body: Body, config: dict[str, Any] | None = None, *, unit: bool = True, start: Start | None = None
) -> None:
    async def run() -> None:
        events: list[dict[str, Any]] = []
        door = Door(path, None, "portico-echo.service")
        door.open()
        given = start or Start(config or {})
        child = Supervisor(PROGRAM, lambda: given, events.append, source=door)
        manager = Unit(path)
        try:
            child.start()
            if unit:
                manager.start()
                await child.wait_ready(30)
            await body(child, door, manager, events)
        finally:
            await child.stop()
            door.close()
            await manager.stop()
        assert child.state is ChildState.STOPPED

    asyncio.run(run())
    assert not path.exists()


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)


async def ended(process: subprocess.Popen[bytes]) -> int:
    await until(lambda: process.poll() is not None)
    return process.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


def test_answers_and_ends_in_order(path: Path) -> None:
    async def body(child: Supervisor, _door: Door, unit: Unit, _events: list[dict[str, Any]]) -> None:
        big = "x" * 1_000_000
        assert await child.request("echo", text=big) == big
        with pytest.raises(ChildError, match="not today"):
            await child.request("refuse")
        assert unit.process is not None
        assert child.pid == unit.process.pid
        first = unit.process
        await child.stop()
        assert await ended(first) == 0

    connected(path, body)


def test_descriptors_arrive_under_their_names_however_many(path: Path, tmp_path: Path) -> None:
    files = [(tmp_path / f"f{n}").open("w") for n in range(2 * BATCH + 3)]
    fds = {"one": [files[0].fileno()], "many": [f.fileno() for f in files[1:]], "same": [files[0].fileno()], "no": []}

    async def body(_child: Supervisor, _door: Door, _unit: Unit, events: list[dict[str, Any]]) -> None:
        await until(lambda: bool(events))
        names = {name: [f.name for f in files if f.fileno() in numbers] for name, numbers in fds.items()}
        assert events[0] == {"event": "received", "names": names}

    with contextlib.ExitStack() as opened:
        for file in files:
            opened.enter_context(file)
        connected(path, body, start=Start({}, fds))


def test_killed_child_is_replaced_by_the_next_that_connects(path: Path) -> None:
    async def body(child: Supervisor, _door: Door, _unit: Unit, _events: list[dict[str, Any]]) -> None:
        pid = child.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: child.pid not in (None, pid) and child.state is ChildState.RUNNING)
        assert await child.request("echo", text="again") == "again"
        assert child.restarts == 1

    connected(path, body)


@pytest.mark.parametrize("how", ["hang", "stop"])
def test_child_that_hangs_or_stands_still_is_ended_without_a_signal_of_the_agent(path: Path, how: str) -> None:
    async def body(child: Supervisor, _door: Door, unit: Unit, _events: list[dict[str, Any]]) -> None:
        assert unit.process is not None
        pid, first = child.pid, unit.process
        with pytest.raises(Unavailable):
            await child.request(how)
        await until(lambda: child.pid not in (None, pid) and child.state is ChildState.RUNNING)
        assert await ended(first) == -signal.SIGKILL
        assert "no sign of life" in child.last_failure

    connected(path, body)


def test_stopping_ends_a_child_that_hangs(path: Path) -> None:
    async def body(child: Supervisor, _door: Door, unit: Unit, _events: list[dict[str, Any]]) -> None:
        assert unit.process is not None
        first = unit.process
        waiting = asyncio.create_task(child.request("stop"))
        await asyncio.sleep(0.05)
        await child.stop()
        with pytest.raises(Unavailable):
            await waiting
        assert await ended(first) == -signal.SIGKILL

    connected(path, body)


def test_refused_configuration_is_named_and_repeated_with_back_off(path: Path) -> None:
    async def body(child: Supervisor, _door: Door, unit: Unit, _events: list[dict[str, Any]]) -> None:
        unit.start()
        await until(lambda: child.restarts == 3)
        assert child.state is ChildState.WAITING
        assert "bad prefix" in child.reason
        with pytest.raises(Unavailable, match="bad prefix"):
            await child.wait_ready(0.05)

    connected(path, body, {"refuse": "bad prefix"}, unit=False)


def test_without_a_process_the_state_says_which_unit_is_missing(path: Path) -> None:
    async def body(child: Supervisor, _door: Door, unit: Unit, _events: list[dict[str, Any]]) -> None:
        await until(lambda: child.state is ChildState.STARTING)
        with pytest.raises(Unavailable, match=r"portico-echo\.service"):
            await child.wait_ready(0.05)
        unit.start()
        await child.wait_ready(30)
        assert child.reason == ""
        assert child.restarts == 0, "waiting for it is no failure"

    connected(path, body, unit=False)


def test_a_second_process_is_refused_and_the_first_goes_on(path: Path) -> None:
    async def body(child: Supervisor, door: Door, _unit: Unit, _events: list[dict[str, Any]]) -> None:
        pid = child.pid
        second = launch(path)
        assert await ended(second) == 4
        assert second.stderr is not None
        assert b"another process is there" in second.stderr.read()
        assert door.refused == 1
        assert child.pid == pid
        assert await child.request("echo", text="still") == "still"

    connected(path, body)


def test_of_two_that_wait_the_second_is_refused(path: Path) -> None:
    async def body() -> None:
        door = Door(path, None, "portico-echo.service")
        door.open()
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(str(path))
            await asyncio.wait_for(door.available(), 30)
            second.connect(str(path))
            await until(lambda: door.refused == 1)
            assert second.recv(100).startswith(b"!")
            first.close()
            with socket.socket(socket.AF_UNIX) as third:
                await until(lambda: door.awaited != "")
                third.connect(str(path))
                await asyncio.wait_for(door.available(), 30)
                assert door.refused == 1, "who has gone holds no place"
                door.close()
                assert third.recv(1) == b""

    asyncio.run(body())


def test_a_process_that_talks_before_it_is_taken_is_dropped(path: Path) -> None:
    async def body() -> None:
        door = Door(path, None, "portico-echo.service")
        door.open()
        with socket.socket(socket.AF_UNIX) as eager:
            eager.connect(str(path))
            eager.send(b"hello")
            await until(lambda: door._listener is not None)
            await asyncio.to_thread(eager.settimeout, 30)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(eager.recv, 1) == b""
        assert door.awaited
        door.close()

    asyncio.run(body())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_account_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        shared = Path("/tmp") / f"portico-door-{os.getpid()}"
        shared.mkdir(mode=0o755)
        door = Door(shared / "agent.sock", "daemon", "portico-echo.service")
        try:
            door.open()
            talk = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(99))"
            as_nobody = ["setpriv", "--reuid=nobody", "--clear-groups", "/usr/bin/python3", "-c", talk, str(door.path)]
            done = await asyncio.to_thread(subprocess.run, as_nobody, capture_output=True, timeout=20)
            assert b"not the account" in done.stdout, done.stderr
            assert door.strangers == 1
            assert door.awaited, "it was not taken"
        finally:
            door.close()
            shutil.rmtree(shared)

    asyncio.run(body())


def test_missing_account_and_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="useradd"):
        Door(tmp_path / "x", "portico-nobody-here", "portico-echo.service")

    async def body() -> None:
        door = Door(tmp_path / "not" / "there", None, "portico-echo.service")
        with pytest.raises(Unavailable, match=r"portico-echo\.service.*No such file"):
            door.open()

    asyncio.run(body())


def test_child_ends_with_its_agent_and_the_next_agent_gets_a_new_one(path: Path, tmp_path: Path) -> None:
    """The agent is killed: nobody closes anything in order."""
    agent = """
import asyncio, sys
from pathlib import Path
from portico.connected import Door
from portico.supervisor import Program, Start, Supervisor
async def main():
    door = Door(Path(sys.argv[1]), None, "portico-echo.service")
    door.open()
    child = Supervisor(Program("echo", ""), lambda: Start({}), lambda event: None, source=door)
    child.start()
    await child.wait_ready(20)
    request = asyncio.create_task(child.request("stop", timeout=60))
    await asyncio.sleep(0.05)
    print(child.pid, flush=True)
    await request
asyncio.run(main())
"""
    for _ in range(2):
        first = subprocess.Popen([sys.executable, "-c", agent, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
        child = launch(path)
        assert first.stdout is not None
        assert int(first.stdout.readline()) == child.pid
        first.kill()
        first.wait()
        assert child.wait(30) == -signal.SIGKILL, "it stood still (SIGSTOP) when its agent died"


def test_too_few_descriptors_are_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(_child: Supervisor, _door: Door, _unit: Unit, _events: list[dict[str, Any]]) -> None:
        return

    with caplog.at_level(logging.ERROR, "portico.supervisor"):
        connected(path, body, start=Start({"descriptors": 1000}, {}, 2000))
    assert "may open 1000 descriptors and needs up to 2000" in caplog.text


def test_a_door_without_descriptors_opens_again_when_there_are_some(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connected_module, "ACCEPT_AGAIN", 0.05)

    async def body() -> None:
        door = Door(path, None, "portico-echo.service")
        door.open()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket(socket.AF_UNIX) as waiting:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                waiting.connect(str(path))
                await until(lambda: "cannot be let in" in caplog.text)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await asyncio.wait_for(door.available(), 30)
            door.close()

    with caplog.at_level(logging.WARNING, "portico.connected"):
        asyncio.run(body())
