"""The child's half of the channel: slow operations do not hold up the others, and are bounded."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portico import native_process
from portico.connecting import connect, take_descriptors
from portico.errors import InvalidInput, NotPermitted, Unavailable
from portico.native_process import MAX_SLOW, Channel, Slow, serve


class Native:
    def __init__(self) -> None:
        self.go = threading.Event()
        self.closed = False

    def next_events(self, timeout: float) -> list[str]:
        threading.Event().wait(0.01)
        return []

    def close(self) -> None:
        self.closed = True
        self.go.set()


def slow(native: Native, message: Any) -> object:
    native.go.wait(10)
    if message.get("fails"):
        raise ValueError("no such name")
    return "slow"


class Parent:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        self.native = Native()
        self._socket, self._lines = ours, ours.makefile("rb")
        operations = {"quick": lambda _native, _message: "quick", "slow": Slow(slow)}
        arguments = (Channel(theirs), lambda _config, _fds: self.native, operations)
        self.thread = threading.Thread(target=serve, args=arguments)
        self.thread.start()
        self.say(0, "start", config={})
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert self.hear() == {"id": 0, "ok": True, "result": {"descriptors": limit}}

    def say(self, number: int, op: str, **fields: Any) -> None:
        self._socket.sendall(json.dumps({"id": number, "op": op, **fields}).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert self.native.closed


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    monkeypatch.setattr(native_process, "confine", lambda: None)  # it would confine these tests for good
    made = Parent()
    yield made
    made.end()


def test_a_slow_operation_holds_nobody_up(parent: Parent) -> None:
    parent.say(1, "slow")
    parent.say(2, "quick")
    assert parent.hear() == {"id": 2, "ok": True, "result": "quick"}
    parent.native.go.set()
    assert parent.hear() == {"id": 1, "ok": True, "result": "slow"}
    parent.say(3, "slow", fails=True)
    assert parent.hear() == {"id": 3, "ok": False, "error": "slow: no such name"}


def test_slow_operations_are_bounded(parent: Parent) -> None:
    for number in range(1, 2 * MAX_SLOW + 2):
        parent.say(number, "slow")
    refused = parent.hear()
    assert (refused["id"], refused["ok"]) == (2 * MAX_SLOW + 1, False)
    assert "busy" in refused["error"]
    parent.native.go.set()
    assert {parent.hear()["id"] for _ in range(2 * MAX_SLOW)} == set(range(1, 2 * MAX_SLOW + 1))


def test_a_lifeline_that_was_cut_before_is_noticed() -> None:
    """In a process of its own: it is to be killed by what it tests."""
    program = "import socket, sys; from portico.native_process import hold; ours, theirs = socket.socketpair(); {}"
    already = subprocess.run([sys.executable, "-c", program.format("ours.close(); hold(theirs)")], capture_output=True)
    assert b"the agent ended while" in already.stderr
    later = subprocess.run([sys.executable, "-c", program.format("hold(theirs); ours.close(); print('alive')")])
    assert later.returncode == -signal.SIGKILL


def sent(*messages: tuple[bytes, int]) -> socket.socket:
    """A child's end on which messages with so many descriptors each wait, and nothing more comes."""
    ours, theirs = socket.socketpair()
    with ours, Path("/dev/null").open() as file:
        for text, count in messages:
            socket.send_fds(ours, [text], [file.fileno()] * count)
    return theirs


def test_descriptors_come_in_batches_and_the_channel_follows() -> None:
    with sent((b"+", 3), (b".", 2), (b'{"id": 0}\n', 0)) as end:
        fds = take_descriptors(end) or []
        assert len(set(fds)) == 5
        assert all(os.fstat(fd) and not os.get_inheritable(fd) for fd in fds)
        assert Channel(end).receive() == {"id": 0}
        for fd in fds:
            os.close(fd)


def test_who_is_not_taken_hears_why() -> None:
    with sent((b"!another process is there", 0)) as end, pytest.raises(NotPermitted, match="another process is there"):
        take_descriptors(end)
    with sent() as end:
        assert take_descriptors(end) is None


@pytest.mark.parametrize("message", [(b"{", 0), (b"x", 1), (b".", 0)])
def test_anything_else_before_the_channel_is_refused(message: tuple[bytes, int]) -> None:
    with sent(message) as end, pytest.raises(InvalidInput):
        take_descriptors(end)


def test_an_agent_that_does_not_listen_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No agent listens"):
        connect(str(tmp_path / "agent.sock"), timeout=0.1)


def test_the_end_does_not_wait_for_a_slow_operation(parent: Parent) -> None:
    parent.say(1, "slow")
    parent.say(2, "close")
    assert parent.hear()["id"] == 2
    parent.thread.join(5)
    assert not parent.thread.is_alive()
