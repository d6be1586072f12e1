"""Two administrators change settings at the same time on two servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from portico.settings.model import Settings
from portico.settings.store import SettingsChanged
from tests.unit.server.peers.conftest import Cluster, Scenario, Server, until

Play = Callable[[Scenario], None]


async def both(one: Server, other: Server, number: int) -> tuple[int, SettingsChanged]:
    """Two changes of the same setting on the same revision: what was stored, and what the loser was told."""

    def settings(server: Server, clients: int) -> Settings:
        latest = server.agent.store().latest()
        assert latest is not None and latest.number == number
        ip_https = latest.settings.ip_https.model_copy(update={"max_clients": clients})
        return latest.settings.model_copy(update={"ip_https": ip_https})

    with pytest.MonkeyPatch.context() as patch:  # who comes second is told, however slow this machine is
        patch.setattr("portico.server.peers.conflicts.EXPLAIN_SECONDS", 60.0)
        patch.setattr("portico.server.peers.distribution.TURN_SECONDS", 60.0)
        results = await asyncio.gather(
            one.agent.change(settings(one, 5000 + number), expected=number, author="anna"),
            other.agent.change(settings(other, 7000 + number), expected=number, author="otto"),
            return_exceptions=True,
        )
    stored = [result for result in results if not isinstance(result, BaseException)]
    lost = [result for result in results if isinstance(result, SettingsChanged)]
    assert len(stored) == 1 and len(lost) == 1, [getattr(result, "why", result) for result in results]
    revision = stored[0].revision
    assert revision is not None and revision.number == number + 1
    return revision.settings.ip_https.max_clients, lost[0]


async def settled(number: int, *servers: Server) -> None:
    """Waits until a revision is in force everywhere and nothing more happens."""
    await until(lambda: all(s.in_force[0] == number and not s.agent.peers.distribution.busy for s in servers))


def test_one_wins_and_the_other_is_told_the_difference(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second, third = await cluster.join(first, "da2"), await cluster.join(first, "da3")
        for one, other in ((first, second), (third, second), (second, first)):
            latest = first.agent.store().latest()
            assert latest is not None
            number = latest.number
            await settled(number, first, second, third)
            stored, error = await both(one, other, number)
            assert error.code == "SETTINGS_CHANGED" and error.difference is not None
            (change,) = error.difference.changes
            assert (change.path, change.after) == ("ip_https.max_clients", stored)
            assert error.newest is not None and error.newest.author in ("anna", "otto")

    play(scenario)


def test_the_loser_is_told_of_the_other_change_when_nothing_comes_of_it(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portico.server.peers.conflicts.EXPLAIN_SECONDS", 0.3)

    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        monkeypatch.setattr(first.agent.peers.distribution, "_coordinating", True)
        with pytest.raises(Exception, match="Another change is being made"):
            await second.change("report")

    play(scenario)
