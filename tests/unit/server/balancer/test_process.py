"""The end of the balancer's process: the agent's end is not its own at once, and nothing outlives it for long."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from portico.server.balancer import process
from portico.server.balancer.plans import Assignment
from portico.server.balancer.process import GRACE
from portico.server.balancer.shell import GOODBYE, Shell

GUARDED = """
import signal, socket, sys
from portico.server.balancer.process import guard
channel, lifeline = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
guard(lifeline, channel)
channel.send(b"guarded")
while channel.recv(1) and {goes_on}:
    pass
"""


class Guarded:
    """A process under guard, and the agent's ends of its channel and lifeline."""

    def __init__(self, *, goes_on: bool) -> None:
        self.channel, channel = socket.socketpair()
        self.lifeline, lifeline = socket.socketpair()
        with channel, lifeline:
            fds = (channel.fileno(), lifeline.fileno())
            command = [sys.executable, "-c", GUARDED.format(goes_on=goes_on), *map(str, fds)]
            self.process = subprocess.Popen(command, pass_fds=fds)
        assert self.channel.recv(16) == b"guarded"

    def close(self) -> None:
        self.channel.close()
        self.lifeline.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    found = Guarded(goes_on=True)
    yield found
    found.close()


def test_it_goes_before_others_where_it_may() -> None:
    """As the agent starts it, in a session of its own."""
    asked = "from portico.server.balancer.process import hasten; import os; hasten(); print(os.getpriority(0, 0))"
    done = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True, start_new_session=True
    )
    if os.geteuid() == 0:
        assert int(done.stdout) == process.PRIORITY
    else:
        assert int(done.stdout) == os.getpriority(os.PRIO_PROCESS, 0), "and serves all the same where it may not"


def test_there_is_time_to_tell_the_other_servers() -> None:
    assert GRACE > GOODBYE


def test_one_that_stands_still_is_killed_when_its_lifeline_is_cut(guarded: Guarded) -> None:
    os.kill(guarded.process.pid, signal.SIGSTOP)
    guarded.lifeline.close()
    assert guarded.process.wait(30.0) == -signal.SIGKILL


def test_it_is_not_killed_while_the_lifeline_holds(guarded: Guarded) -> None:
    pidfd = os.pidfd_open(guarded.process.pid)
    try:
        assert not select.select([pidfd], [], [], GRACE + 0.5)[0]
    finally:
        os.close(pidfd)


def test_it_ends_in_its_own_way_when_the_agent_dies_and_its_guard_with_it() -> None:
    found = Guarded(goes_on=False)
    try:
        found.channel.shutdown(socket.SHUT_WR)
        found.lifeline.shutdown(socket.SHUT_WR)
        assert found.process.wait(30.0) == 0
        found.channel.settimeout(30.0)
        assert found.channel.recv(1) == b"", "nobody has the channel any more"
        found.lifeline.settimeout(30.0)
        assert found.lifeline.recv(1) == b"", "nor the lifeline"
    finally:
        found.close()


def test_heartbeats_go_on_while_the_kernel_verifies_the_filter_of_new_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_end = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    steps: list[tuple[str, Any]] = []

    class Slow:
        def prepare(self, told: object) -> None:
            steps.append(("prepare", told))
            loops[0].call_soon_threadsafe(heartbeat)
            assert may_end.wait(30.0), "the loop stands still"

        def configure(self, told: object) -> None:
            steps.append(("configure", told))

    def heartbeat() -> None:
        steps.append(("heartbeat", None))
        may_end.set()

    monkeypatch.setattr(Assignment, "from_config", staticmethod(lambda config: config))

    async def configured() -> None:
        loops.append(asyncio.get_running_loop())
        await process.OPERATIONS["configure"](cast(Shell, Slow()), {"config": "new"})

    asyncio.run(configured())
    assert steps == [("prepare", "new"), ("heartbeat", None), ("configure", "new")]
