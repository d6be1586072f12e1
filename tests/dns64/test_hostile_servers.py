"""A server that turned bad, or something on the way to it: what its TCP connections may do, and what that costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import dns.rcode
import pytest

from portico.lab import wait

from .agreement import Asker
from .conftest import Dns64
from .fake_server import FakeServer

Start = Callable[..., Dns64]

# Seconds that servers have for one question.
TIMEOUT = 2.0


@pytest.fixture
def bad() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


def asked(name: str) -> bytes:
    return dns.message.make_query(name, "TXT", use_edns=0, payload=1232).to_wire()


@pytest.mark.parametrize(
    ("behaviour", "rcode", "counters"),
    [
        ("zero", "SERVFAIL", ("upstream_connections_broken", "upstream_unreachable")),
        ("short", "SERVFAIL", ("upstream_connections_broken", "upstream_unreachable")),
        ("trickle", "SERVFAIL", ("upstream_timeouts",)),
        ("cut", "SERVFAIL", ("upstream_connections_broken", "upstream_unreachable")),
        ("wrongid", "SERVFAIL", ("upstream_unasked", "upstream_timeouts")),
        ("wrongquestion", "SERVFAIL", ("upstream_unexpected",)),
        ("twice", "NOERROR", ("upstream_unasked",)),
        ("silent", "SERVFAIL", ("upstream_timeouts",)),
        ("reset", "SERVFAIL", ("upstream_unreachable",)),
        ("garbage", "NOERROR", ("upstream_unasked",)),
        ("flood", "SERVFAIL", ("upstream_connections_broken", "upstream_unasked")),
        ("truncated", "SERVFAIL", ("upstream_malformed",)),
    ],
)
def test_a_hostile_connection_harms_only_its_own_question(
    start: Start, bad: FakeServer, behaviour: str, rcode: str, counters: tuple[str, ...]
) -> None:
    upstreams = [{"suffix": "", "servers": [f"127.0.0.1:{bad.port}"]}]
    dns64 = start(upstreams=upstreams, timeout=TIMEOUT, serve_stale_seconds=0)
    hostile, honest = Asker(dns64.port, tcp=True), Asker(dns64.port, tcp=True)
    try:
        # A connection that has proved itself is where the trouble begins.
        assert dns.message.from_wire(honest.ask(asked("honest-0.example"))).answer
        before = time.monotonic()
        hostile.send(asked(f"{behaviour}-1.example"))
        wait.until("the hostile question to reach the server", lambda: behaviour in bad.asked, timeout=30.0)
        for number in range(1, 4):
            for name in (f"honest-{number}.example", f"datagram-{number}.example"):
                assert dns.message.from_wire(honest.ask(asked(name))).answer, name
        assert dns.rcode.to_text(dns.message.from_wire(hostile.receive()).rcode()) == rcode
        # A question ends when its servers had their time, whatever they make of it.
        assert time.monotonic() - before < TIMEOUT + 30
        stats = dns64.stats()
        for counter in counters:
            assert stats[counter] >= 1, (counter, stats)
        assert (stats["waiting"], stats["asking"]) == (0, 0)
        # Nobody listens to it any more; connections that answered may stay for other questions.
        wait.until("the hostile connection to end", lambda: bad.busy == 0, timeout=30.0)
        assert dns64.stats()["upstream_connections_open"] <= 8
    finally:
        hostile.close()
        honest.close()


def test_many_hostile_connections_leave_room_for_honest_questions(start: Start, bad: FakeServer) -> None:
    """More questions of every kind than there may be connections; the server behind another suffix is not affected."""
    good = FakeServer()
    try:
        upstreams = [
            {"suffix": "", "servers": [f"127.0.0.1:{bad.port}"]},
            {"suffix": "good.example", "servers": [f"127.0.0.1:{good.port}"]},
        ]
        dns64 = start(upstreams=upstreams, timeout=1.0, serve_stale_seconds=0)
        hostile, honest = Asker(dns64.port, tcp=False), Asker(dns64.port, tcp=True)
        kinds = ("trickle", "silent", "wrongid", "cut", "reset", "flood")
        for number in range(120):
            hostile.send(asked(f"{kinds[number % len(kinds)]}-{number}.example"))
        for number in range(50):
            assert dns.message.from_wire(honest.ask(asked(f"honest-{number}.good.example"))).answer
        wait.until("the hostile questions to end", lambda: dns64.stats()["waiting"] == 0, timeout=30.0)
        stats = dns64.stats()
        assert stats["upstream_connections_open"] <= 2 * 8, "eight connections to a server"
        assert stats["servfail"] >= 120
        wait.until("the hostile connections to end", lambda: bad.busy == 0, timeout=30.0)
    finally:
        hostile.close()
        honest.close()
        good.close()
