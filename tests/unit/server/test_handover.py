"""Descriptors that go to a running process."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from portico.errors import Unavailable
from portico.server.handover import Handover, take


@pytest.fixture
def handover() -> Iterator[Handover]:
    made = Handover()
    yield made
    made.close()


@pytest.fixture
def end(handover: Handover) -> Iterator[socket.socket]:
    with socket.socket(fileno=os.dup(handover.fd)) as found:
        yield found


def pipe() -> tuple[int, int]:
    return os.pipe2(os.O_CLOEXEC)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_arrive_and_work(handover: Handover, end: socket.socket) -> None:
    reading, writing = pipe()
    token = handover.send([writing])
    os.close(writing)
    (received,) = take(end, token)
    assert not os.get_inheritable(received)
    os.write(received, b"through")
    os.close(received)
    assert os.read(reading, 100) == b"through"
    os.close(reading)


def test_none_is_a_message_too(handover: Handover, end: socket.socket) -> None:
    assert take(end, handover.send([])) == []


def test_what_a_former_gateway_did_not_take_is_closed_not_taken_for_another(
    handover: Handover, end: socket.socket
) -> None:
    reading, writing = pipe()
    handover.send([writing])
    token = handover.send([reading])
    os.close(writing)
    (received,) = take(end, token)
    assert os.read(reading, 100) == b"", "the other end is closed everywhere"
    os.close(received)
    os.close(reading)


def test_what_nobody_took_does_not_stay_open(handover: Handover) -> None:
    reading, writing = pipe()
    handover.send([writing])
    os.close(writing)
    handover.discard()
    assert os.read(reading, 100) == b""
    os.close(reading)
    handover.discard()


def test_nothing_is_left_open() -> None:
    before = descriptors()
    reading, writing = pipe()
    made = Handover()
    made.send([reading, writing])
    os.close(reading)
    os.close(writing)
    made.close()
    assert descriptors() == before


def test_a_gateway_that_takes_nothing_does_not_block_the_agent(handover: Handover) -> None:
    with pytest.raises(Unavailable):
        for _ in range(100_000):
            handover.send([])


def test_an_agent_that_is_gone_is_an_error(handover: Handover) -> None:
    with socket.socket(fileno=os.dup(handover.fd)) as end:
        ours = handover._ours
        threading.Timer(0.05, ours.shutdown, [socket.SHUT_RDWR]).start()
        with pytest.raises(OSError, match="agent"):
            take(end, "0" * 32)
