"""Clients that turned bad, by TCP: the limit that stops each and the counter that shows it. An honest one goes on."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import dns.message
import dns.rcode
import pytest

from portico.lab import wait

from .agreement import Asker
from .conftest import Dns64
from .fake_server import FakeServer

Start = Callable[..., Dns64]

# The gateway's own (gateway/src/io/dns64/clients.rs).
CONNECTIONS, CONNECTIONS_PER_CLIENT, PIPELINED, IDLE = 1024, 32, 64, 10.0


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def dns64(start: Start, server: FakeServer) -> Dns64:
    upstreams = [{"suffix": "", "servers": [f"127.0.0.1:{server.port}"]}]
    return start(upstreams=upstreams, timeout=2.0, serve_stale_seconds=0)


@pytest.fixture(autouse=True)
def honest(dns64: Dns64) -> Iterator[Callable[[], None]]:
    """Asks as another client does, by UDP and on a new connection; once more when the test is over."""
    number = 0

    def ask() -> None:
        nonlocal number
        number += 1
        for tcp in (False, True):
            asker = Asker(dns64.port, tcp=tcp, source="127.1.0.1")
            kind = "tcp" if tcp else "datagram"
            answer = dns.message.from_wire(asker.ask(asked(f"{kind}-{number}.example")))
            assert answer.answer, answer
            asker.close()

    yield ask
    ask()


def asked(name: str, number: int | None = None) -> bytes:
    message = dns.message.make_query(name, "TXT", use_edns=0, payload=1232)
    message.id = message.id if number is None else number
    return message.to_wire()


def connect(dns64: Dns64, source: str = "127.0.0.1", *, receive_buffer: int | None = None) -> socket.socket:
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.bind((source, 0))
    connection.connect((dns64.address, dns64.port))
    return connection


def framed(message: bytes) -> bytes:
    return struct.pack("!H", len(message)) + message


def received(connection: socket.socket) -> list[dns.message.Message]:
    """All answers until the connection ends."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while got := connection.recv(65_536):
            data += got
    found = []
    while data:
        length = struct.unpack_from("!H", data)[0]
        found.append(dns.message.from_wire(bytes(data[2 : 2 + length])))
        del data[: 2 + length]
    return found


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def until(
    dns64: Dns64, what: str, condition: Callable[[dict[str, Any]], bool], timeout: float = 10.0
) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        stats = dns64.stats()
        return stats if condition(stats) else None

    found = wait.until(what, look, timeout=timeout)
    assert found is not None
    return found


def test_what_is_slow_or_silent_ends(dns64: Dns64, honest: Callable[[], None]) -> None:
    """Silence, a query byte by byte, a length and nothing behind it, and answers that nobody reads, all at once."""
    with ExitStack() as stack:
        slow, promised, silent = (stack.enter_context(connect(dns64)) for _ in range(3))
        promised.sendall(b"\xff\xff")
        deaf = stack.enter_context(connect(dns64, receive_buffer=4096))
        deaf.sendall(b"".join(framed(asked(f"large-{number}.example")) for number in range(PIPELINED)))
        # The whole query must come in time, not each byte: this one is never silent for long.
        turn = time.monotonic()
        for byte in framed(asked("slow.example"))[:-1]:
            if is_closed(slow):
                break
            slow.send(bytes([byte]))
            honest()
            turn += 0.5

            def is_due(turn: float = turn) -> bool:
                return is_closed(slow) or time.monotonic() > turn

            wait.until("the next byte's turn", is_due)
        assert is_closed(slow), "before its query was complete"
        stats = until(dns64, "all to be closed", lambda stats: stats["tcp_connections"] == 0, timeout=IDLE + 30)
        assert stats["tcp_idle"] >= 3
        assert stats["tcp_slow"] == 1
        assert all(map(is_closed, (promised, silent)))


def test_one_client_has_a_share_of_the_connections(dns64: Dns64, honest: Callable[[], None]) -> None:
    with ExitStack() as stack:
        own = [stack.enter_context(connect(dns64)) for _ in range(CONNECTIONS_PER_CLIENT)]
        until(dns64, "the connections", lambda stats: stats["tcp_connections"] == CONNECTIONS_PER_CLIENT)
        extra = stack.enter_context(connect(dns64))
        assert extra.recv(1) == b"", "closed at once"
        assert dns64.stats()["tcp_refused"] == 1
        honest()
        own[0].sendall(framed(asked("still.example")))
        assert own[0].recv(2), "the others stay"


def test_newcomers_take_the_places_of_idle_connections(dns64: Dns64, honest: Callable[[], None]) -> None:
    """More connections from many addresses than there may be; some of them have sent half a query."""
    with ExitStack() as stack:
        for number in range(CONNECTIONS):
            connection = stack.enter_context(connect(dns64, f"127.0.1.{1 + number // CONNECTIONS_PER_CLIENT}"))
            if number % 2:
                connection.sendall(b"\0\x20half")
        until(dns64, "the connections", lambda stats: stats["tcp_connections"] == CONNECTIONS)
        # Who came a moment ago is not idle yet: nobody is refused for longer than that.
        wait.until("an honest client's place", lambda: not _fails(honest), timeout=30.0)
        stats = until(dns64, "an eviction", lambda stats: stats["tcp_evicted"] >= 1)
        assert stats["tcp_connections"] <= CONNECTIONS


def _fails(action: Callable[[], None]) -> bool:
    try:
        action()
    except (AssertionError, OSError):
        return True
    return False


def test_a_pipeline_is_read_as_far_as_it_may_wait(dns64: Dns64, server: FakeServer, honest: Callable[[], None]) -> None:
    count = 2 * PIPELINED
    with connect(dns64) as connection:
        connection.sendall(
            b"".join(framed(asked(f"silent-{number}.example", number)) for number in range(1, count + 1))
        )
        stats = until(dns64, "the pipeline to be full", lambda stats: stats["waiting"] == PIPELINED)
        honest()
        assert stats["queries_tcp"] - stats["answered_resolved"] <= PIPELINED + 2
        # A half-closed connection gets all its answers, in whatever order, and ends then.
        connection.shutdown(socket.SHUT_WR)
        answers = received(connection)
        assert sorted(answer.id for answer in answers) == list(range(1, count + 1))
        assert {answer.rcode() for answer in answers} == {dns.rcode.SERVFAIL}


def test_what_is_no_query_ends_the_connection(dns64: Dns64) -> None:
    response = bytearray(asked("x.example"))
    response[2] |= 0x80
    for garbage in (b"\0\0", framed(b"short"), framed(bytes(response))):
        before = dns64.stats()
        with connect(dns64) as connection:
            # What was asked before it still has its answer.
            connection.sendall(framed(asked("before.example", 7)) + garbage + framed(asked("behind.example", 8)))
            assert [answer.id for answer in received(connection)] == [7]
        stats = dns64.stats()
        assert stats["tcp_garbage"] - before["tcp_garbage"] == 1
        assert stats["dropped_garbage"] - before["dropped_garbage"] == 1


def test_an_oversized_query_is_refused_by_its_id(dns64: Dns64) -> None:
    with connect(dns64) as connection:
        giant = asked("giant.example", 7) + bytes(60_000)
        connection.sendall(framed(giant) + framed(asked("behind.example", 8)))
        connection.shutdown(socket.SHUT_WR)
        answers = {answer.id: answer for answer in received(connection)}
        assert answers[7].rcode() == dns.rcode.FORMERR
        assert answers[8].answer, "the stream goes on behind it"
    assert dns64.stats()["refused_malformed"] == 1


def test_one_client_cannot_fill_the_memory_with_answers(dns64: Dns64, honest: Callable[[], None]) -> None:
    """As many large answers at once as may be asked for; none is read."""
    with ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(connect(dns64, receive_buffer=4096))
            connection.sendall(b"".join(framed(asked(f"large-{number}.example")) for number in range(PIPELINED)))
        stats = until(dns64, "the limit", lambda stats: stats["tcp_crowded"] >= 1)
        honest()
        assert stats["replies_dropped"] >= 1
