"""When clients of dead servers are asked."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address

import pytest

from portico.balancing.nlb.plan import BUCKETS, BalancingPlan, NicPlan, Owned, Rule, Share
from portico.cluster.holdings import Holding, Outer
from portico.errors import PorticoError
from portico.server.balancer import asking
from portico.server.balancer.asking import Asking
from portico.server.balancer.orphans import question

VIP = IPv4Address("203.0.113.11")
PLAN = BalancingPlan((NicPlan("eth0", "external", bytes(6), (VIP,)),), (Rule(),), seed=7)
EVERYTHING = Owned(1, (Share(owned=frozenset(range(BUCKETS))),))
FIRST = Outer(IPv4Address("198.51.100.7"), 40000, VIP, 443)
SECOND = Outer(IPv4Address("198.51.100.8"), 40000, VIP, 443)


class _Raw:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, packet: bytes) -> bool:
        self.sent.append(packet)
        return True

    def close(self) -> None: ...


class _NoSocket:
    """No interface to look at here: the kernel is left to answer."""

    def __init__(self, *_: object) -> None:
        raise PorticoError("No packets can be seen", why="this is a test", resolution="None is needed")


def holding(outer: Outer) -> Holding:
    return Holding(IPv6Address(f"fd7c:1a2b:3c4d:1000::{outer.client.packed[-1]:x}"), outer)


def test_clients_are_asked_at_once_though_an_earlier_death_is_still_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = _Raw()
    monkeypatch.setattr(asking, "RawSender", lambda: raw)
    monkeypatch.setattr(asking, "PacketSocket", _NoSocket)

    async def two_deaths() -> None:
        worker = Asking(asyncio.get_running_loop(), lambda: (PLAN, EVERYTHING))
        try:
            worker.add([holding(FIRST)], 443)
            worker.add([holding(SECOND)], 443)
        finally:
            worker.close()

    asyncio.run(two_deaths())
    assert raw.sent == [question(FIRST), question(SECOND)]
