"""The supervisor against a small child: privileges, channel, restart, stop."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from portico.errors import NotFound, Unavailable
from portico.supervisor import TRANSITIONS, ChildError, ChildState, Program, Start, Supervisor, restart_delay
from tests.timely import Within

PROGRAM = Program("echo", "tests.unit.server.echo_child", user="nobody", stop_timeout=1.0, start_timeout=30.0)


def supervised(
    body: Callable[[Supervisor, list[dict[str, Any]]], Awaitable[None]],
    config: dict[str, Any] | None = None,
    program: Program = PROGRAM,
    fds: dict[str, list[int]] | None = None,
    ready: bool = True,
) -> None:
    async def run() -> None:
        events: list[dict[str, Any]] = []
        child = Supervisor(program, lambda: Start(config or {}, fds or {}), events.append)
        child.start()
        try:
            if ready:
                await child.wait_ready(30)
            await body(child, events)
        finally:
            await child.stop()
        assert child.state is ChildState.STOPPED
        assert child.pid is None

    asyncio.run(run())


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)


def test_back_off_starts_after_repeated_failure_and_is_bounded() -> None:
    assert [restart_delay(n) for n in (0, 1, 2, 3, 4, 5)] == [0, 0, 0, 0.5, 1, 2]
    assert restart_delay(10_000) == 30


def test_transition_table_names_every_state() -> None:
    assert set(TRANSITIONS) == set(ChildState)


def test_child_answers_and_refuses() -> None:
    async def body(child: Supervisor, _events: list[dict[str, Any]]) -> None:
        big = "x" * 1_000_000
        assert await child.request("echo", text=big) == big
        with pytest.raises(ChildError, match="not today"):
            await child.request("refuse")

    supervised(body)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop privileges")
def test_child_has_no_privileges_and_cannot_gain_any() -> None:
    async def body(child: Supervisor, _events: list[dict[str, Any]]) -> None:
        status = await child.request("status")
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name].strip(), 16) == 0, name
        assert status["NoNewPrivs"].strip() == "1"
        assert status["Groups"].strip() == ""
        assert "0" not in status["Uid"].split()
        assert "0" not in status["Gid"].split()
        assert "HOME" not in status["environment"]

    supervised(body)


def test_child_holds_only_the_descriptors_it_was_given() -> None:
    with socket.socket() as given, socket.socket() as kept:

        async def body(_child: Supervisor, events: list[dict[str, Any]]) -> None:
            await until(lambda: bool(events))
            assert events[0]["fds"] == {"listener": [given.fileno()]}
            assert given.fileno() in events[0]["open"]
            assert kept.fileno() not in events[0]["open"]
            # 0-2, the channel, its two buffered faces share one number, and the listing itself
            assert len(events[0]["open"]) <= 6

        supervised(body, fds={"listener": [given.fileno()]})


def test_killed_child_is_back_within_a_second() -> None:
    async def body(child: Supervisor, _events: list[dict[str, Any]]) -> None:
        pid = child.pid
        assert pid is not None
        with Within(1.0):
            os.kill(pid, signal.SIGKILL)
            await until(lambda: child.pid not in (None, pid) and child.state is ChildState.RUNNING)
        assert await child.request("echo", text="again") == "again"
        assert child.restarts == 1

    supervised(body)


def test_request_in_flight_fails_when_the_child_dies() -> None:
    async def body(child: Supervisor, _events: list[dict[str, Any]]) -> None:
        waiting = asyncio.create_task(child.request("hang"))
        await asyncio.sleep(0.05)
        child.kill("test")
        with pytest.raises(Unavailable):
            await waiting

    supervised(body)


def test_silent_child_is_killed_and_replaced() -> None:
    program = Program("echo", PROGRAM.module, None, "echo2", 0.05, 0.2, 5.0, 1.0)

    async def body(child: Supervisor, _events: list[dict[str, Any]]) -> None:
        await until(lambda: child.restarts > 0)
        assert "no sign of life" in child.reason or child.state is not ChildState.WAITING

    supervised(body, program=program)


def test_garbage_on_the_channel_replaces_the_child() -> None:
    async def body(child: Supervisor, _events: list[dict[str, Any]]) -> None:
        with pytest.raises(Unavailable):
            await child.request("garbage")
        await until(lambda: child.restarts == 1 and child.state is ChildState.RUNNING)

    supervised(body)


@pytest.mark.parametrize(("config", "reason"), [({"refuse": "bad prefix"}, "bad prefix"), ({"die": True}, "status 3")])
def test_failed_start_is_named_and_repeated_with_back_off(config: dict[str, Any], reason: str) -> None:
    async def body(child: Supervisor, _events: list[dict[str, Any]]) -> None:
        await until(lambda: child.restarts == 3)
        assert child.state is ChildState.WAITING
        assert reason in child.reason
        with pytest.raises(Unavailable, match=reason):
            await child.wait_ready(0.05)
        with pytest.raises(Unavailable):
            await child.request("echo", text="x")

    supervised(body, config=config, ready=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users")
def test_missing_account_is_named() -> None:
    with pytest.raises(NotFound, match="useradd"):
        from portico.spawned import drop_privileges

        drop_privileges(Program("echo", "x", user="portico-nobody-here"))


def test_hanging_child_is_ended_by_force() -> None:
    async def body(child: Supervisor, _events: list[dict[str, Any]]) -> None:
        waiting = asyncio.create_task(child.request("hang"))
        await asyncio.sleep(0.05)
        with Within(4.0):
            await child.stop()
        with pytest.raises(Unavailable):
            await waiting

    supervised(body)
