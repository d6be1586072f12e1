"""Which servers are there: heartbeats find a death and a return at once, answers decide where heartbeats are wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from portico.server.balancer.boots import Boots
from portico.server.balancer.handle import Balancer
from portico.server.peers.caller import Caller
from portico.server.peers.links import SILENCE, Heard, Link
from portico.supervisor import ChildState
from tests.unit.server.peers.conftest import Cluster, Scenario, until

Play = Callable[[Scenario], None]


@pytest.mark.parametrize(
    ("answered", "heard", "present"),
    [
        (1.0, None, True),
        (1.0, Heard(True, 60.0), True),
        (1.0, Heard(False, 60.0), True),  # only its balancer is silent
        (1.0, Heard(False, 0.5), False),
        (0.5, Heard(False, 1.0), True),
        (SILENCE + 1.0, None, False),
        (SILENCE + 1.0, Heard(True, 60.0), False),  # nothing can be agreed with it
        (SILENCE + 1.0, Heard(False, 60.0), False),
    ],
)
def test_presence(answered: float, heard: Heard | None, present: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are seconds ago."""
    now = 1000.0
    monkeypatch.setattr("portico.server.peers.links.time.monotonic", lambda: now)
    since = None if heard is None else Heard(heard.alive, now - heard.since)
    link = Link("da2", ("127.0.0.1", 1), cast(Caller, None), answered=now - answered, heard=since)
    assert link.present is present


def test_the_next_server_leads_as_soon_as_heartbeats_miss_the_first(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        await cluster.join(first, "da2")
        third = await cluster.join(first, "da3")
        await until(lambda: third.agent.peers.present() == {"da1", "da2", "da3"})
        peers = third.agent.peers
        peers.heard("da1", True)
        peers.heard("da2", True)
        await until(lambda: peers.leader() == "da1")
        await first.stop()
        link = peers.links.get("da2")
        assert link is not None
        link.answered = time.monotonic()  # however long the others of this process had no time to answer
        peers.heard("da1", False)
        assert peers.present() == {"da2", "da3"} and peers.leader() == "da2", "nobody waited for anything"
        assert peers.quorum()

    play(scenario)


def test_a_silent_balancer_does_not_make_its_server_absent(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        peers = second.agent.peers
        await until(lambda: peers.present() == {"da1", "da2"})
        peers.heard("da1", True)
        peers.heard("da1", False)
        await until(lambda: peers.leader() == "da1")
        peers.heard("da1", True)
        await until(lambda: peers.leader() == "da1")
        peers.heard("", None)
        assert all(link.heard is None for link in peers.links.all())

    play(scenario)


def test_the_balancer_tells_who_comes_and_goes(tmp_path: Path) -> None:
    async def nothing(*_: object) -> Any: ...

    told: list[tuple[str, bool | None]] = []
    balancer = Balancer(nothing, nothing, lambda work: cast(Any, work).close(), Boots(tmp_path / "boots"))
    balancer.heard = lambda name, alive: told.append((name, alive))
    for kind in ("MemberJoined", "MapChanged", "MemberDraining", "MemberLeft"):
        balancer._event({"event": "cluster", "kind": kind, "host": "da2"})
    balancer._changed(ChildState.RUNNING, "")
    balancer._changed(ChildState.WAITING, "it died")
    assert told == [("da2", True), ("da2", False), ("", None)]
