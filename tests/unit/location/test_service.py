"""The service on loopback: TLS, limits, and peers that mean no good."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from portico.location.availability import Availability, judge
from portico.location.pages import Site
from portico.location.process import _context
from portico.location.service import Service
from tests.unit.location.conftest import NAME, Made

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def serving(site: Site = Site.WEB_PROBE, **options: Any) -> AsyncIterator[tuple[Service, int]]:
    service = Service(options.pop("context", None), **options)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        service.listen(site, listener)
        try:
            yield service, listener.getsockname()[1]
        finally:
            await service.close()


async def fetch(port: int, data: bytes = GET, **tls: Any) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **tls)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - a condition, not an event
            await asyncio.sleep(0.005)


def test_the_probe_follows_what_the_agent_says() -> None:
    async def body() -> None:
        async with serving() as (service, port):
            assert b" 503 " in await fetch(port)
            service.say(Availability())
            assert b" 200 " in await fetch(port)
            service.say(judge({"tunnel": "the gateway does not run"}))
            assert b"tunnel: the gateway does not run" in await fetch(port)
            assert service.counters.answered == 3

    asyncio.run(body())


def test_the_location_server_is_trusted_by_its_own_name_only(certificate: Made) -> None:
    async def body() -> None:
        trusting = ssl.create_default_context(cadata=certificate.trust)
        async with serving(Site.NLS, context=_context(certificate.chain, certificate.key)) as (service, port):
            assert b" 200 " in await fetch(port, ssl=trusting, server_hostname=NAME)
            with pytest.raises(ssl.SSLCertVerificationError):
                await fetch(port, ssl=trusting, server_hostname="da1.corp.example.net")
            with contextlib.suppress(OSError):
                await fetch(port)  # HTTP where TLS is spoken
            await until(lambda: service.counters.tls_failed >= 1 and service.connections == 0)
            assert b" 200 " in await fetch(port, ssl=trusting, server_hostname=NAME)

    asyncio.run(body())


@pytest.mark.parametrize("site", list(Site))
def test_peers_that_keep_silent_or_dribble_are_shown_out(certificate: Made, site: Site) -> None:
    async def body() -> None:
        context = _context(certificate.chain, certificate.key)
        async with serving(site, context=context, patience=0.2) as (service, port):
            slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            for _, writer in slow:
                writer.write(b"G")
            await until(lambda: service.connections == 0)
            # A failed handshake counts as such where the library has its own clock.
            assert service.counters.timed_out + service.counters.ended_early + service.counters.tls_failed == 5
            for _, writer in slow:
                writer.close()

    asyncio.run(body())


def test_slow_peers_that_take_every_place_keep_nobody_out() -> None:
    async def body() -> None:
        async with serving(maximum=8, per_peer=100, patience=60.0) as (service, port):
            service.say(Availability())
            slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
            await until(lambda: service.counters.accepted == 20)
            assert service.connections == 8
            for _ in range(20):
                assert b" 200 " in await fetch(port)
            assert service.connections <= 8 and service.counters.evicted >= 12
            for _, writer in slow:
                writer.close()

    asyncio.run(body())


def test_one_address_has_only_its_part_of_the_places() -> None:
    async def body() -> None:
        async with serving(maximum=8, per_peer=3, patience=60.0) as (service, port):
            slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
            await until(lambda: service.counters.accepted == 6)
            assert service.connections == 3 and service.counters.crowded_out == 3
            for _, writer in slow:
                writer.close()
            await until(lambda: service.connections == 0)
            service.say(Availability())
            assert b" 200 " in await fetch(port)

    asyncio.run(body())


def test_a_peer_that_sends_without_end_is_stopped_early() -> None:
    async def body() -> None:
        async with serving() as (service, port):
            answer = b""
            with contextlib.suppress(OSError):
                answer = await fetch(port, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 5_000_000)
            assert not answer or b" 431 " in answer
            await until(lambda: service.connections == 0)
            assert service.counters.refused == 1

    asyncio.run(body())


def test_a_peer_that_goes_away_leaves_nothing() -> None:
    async def body() -> None:
        async with serving() as (service, port):
            for data in (b"", b"GET"):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(data)
                writer.transport.abort()
            await until(lambda: service.counters.accepted == 2 and service.connections == 0)
            assert service.counters.answered == 0

    asyncio.run(body())


def test_many_at_once_are_all_answered() -> None:
    async def body() -> None:
        async with serving(per_peer=256) as (service, port):
            service.say(Availability())
            answers = await asyncio.gather(*(fetch(port) for _ in range(200)))
            assert all(b" 200 " in answer for answer in answers)
            assert service.counters.evicted == 0

    asyncio.run(body())
