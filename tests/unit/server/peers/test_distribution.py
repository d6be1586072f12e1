"""One settings document on all servers: everywhere or nowhere, and never two of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from portico.errors import PorticoError
from portico.server.peers.caller import PeerUnreachable
from portico.settings.cluster import remove_server
from portico.settings.problems import Problem, SettingsRefused
from portico.settings.store import SettingsChanged
from tests.unit.server.peers.conftest import Cluster, Scenario, Server, until

Play = Callable[[Scenario], None]


async def three(cluster: Cluster) -> tuple[Server, Server, Server]:
    first = await cluster.found()
    return first, await cluster.join(first, "da2"), await cluster.join(first, "da3")


def part(one: Server, other: Server) -> None:
    _break(one, other.name)
    _break(other, one.name)


def _break(server: Server, name: str) -> None:
    link = server.agent.peers.links.get(name)
    assert link is not None

    async def silent(*_: object, **__: object) -> None:
        raise PeerUnreachable(f"The server {name} does not answer", why="the cable is cut")

    link.caller._call = silent  # type: ignore[method-assign]
    link.answered = float("-inf")


def heal(*servers: Server) -> None:
    for server in servers:
        for link in server.agent.peers.links.all():
            vars(link.caller).pop("_call", None)


def test_a_change_on_any_server_is_in_force_on_all_when_it_returns(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        for server, drift in zip(servers, ("report", "repair", "report"), strict=True):
            number = await server.change(drift)
            assert {other.in_force for other in servers} == {(number, drift)}

    play(scenario)


def test_a_change_that_one_server_cannot_apply_is_undone_on_all(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        first, second, third = servers
        third.broken = "report"
        with pytest.raises(PorticoError) as error:
            await second.change("report")
        assert "da3" in str(error.value) and "the device is on fire" in str(error.value)
        await until(lambda: len({server.in_force for server in servers}) == 1)
        number, drift = first.in_force
        assert drift == "repair"
        texts = [server.agent.store().get(number).text for server in servers]
        assert len(set(texts)) == 1
        assert first.applied[-2:] == ["report", "repair"]

    play(scenario)


def test_a_change_that_its_own_server_cannot_apply_touches_no_other(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, _third = await three(cluster)
        second.broken = "report"
        with pytest.raises(PorticoError):
            await second.change("report")
        await until(lambda: first.in_force == second.in_force)
        assert "report" not in first.applied
        assert first.in_force[1] == "repair"

    play(scenario)


def test_a_document_that_another_server_refuses_is_stored_nowhere(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        before = first.in_force

        async def refuses(*_: object, **__: object) -> list[Problem]:
            return [Problem("LB_TEST", "server", "What", "why", "do this")]

        monkeypatch.setattr(third.agent, "check", refuses)
        with pytest.raises(SettingsRefused) as error:
            await second.change("report")
        assert "da3" in str(error.value)
        assert {server.in_force for server in (first, second, third)} == {before}
        assert second.agent.store().latest().number == before[0]  # type: ignore[union-attr]

    play(scenario)


def test_of_two_conflicting_changes_one_wins_and_the_other_is_told(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        first, second, _third = servers
        base = first.in_force[0]
        await first.change("report", expected=base)
        with pytest.raises(SettingsChanged):
            await second.change("repair", expected=base)
        results = await asyncio.gather(
            first.change("repair", expected=base + 1),
            second.change("repair", expected=base + 1),
            return_exceptions=True,
        )
        assert sum(isinstance(result, int) for result in results) <= 1
        await until(lambda: len({server.in_force for server in servers}) == 1)

    play(scenario)


def test_a_half_without_quorum_serves_and_is_read_only(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        first, second, third = servers
        part(first, third)
        part(second, third)
        with pytest.raises(PorticoError) as error:
            await third.change("report")
        assert error.value.code == "NO_QUORUM"
        number = await second.change("report")
        assert first.in_force == second.in_force == (number, "report")
        assert third.in_force == (number - 1, "repair")
        heal(*servers)
        await until(lambda: third.in_force == (number, "report"))

    play(scenario)


def test_of_two_servers_only_the_first_changes_settings_alone(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        part(first, second)
        with pytest.raises(PorticoError) as error:
            await second.change("report")
        assert error.value.code == "NO_QUORUM"
        await until(lambda: not second.agent.peers.quorum())  # an answer may have been on its way
        number = await first.change("report")
        heal(first, second)
        await until(lambda: second.in_force == (number, "report"))

    play(scenario)


def test_a_server_that_was_away_starts_with_what_it_missed(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        await third.stop()
        await until(lambda: "da3" not in first.agent.peers.present())
        for drift in ("report", "repair", "report"):
            number = await second.change(drift)
        again = cluster.add("da3")
        await again.start()
        assert again.in_force == (number, "report")
        assert again.applied == ["report"], "it served from stale settings"
        assert [r.number for r in again.agent.store().after(number - 3)] == [number - 2, number - 1, number]

    play(scenario)


def test_a_server_that_reaches_nobody_serves_from_what_it_applied_last(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        before = second.in_force
        await first.stop()
        await second.stop()
        again = cluster.add("da2")
        await again.start()
        assert again.in_force == before
        assert again.agent.problem is None

    play(scenario)


def test_a_server_that_failed_keeps_the_former_settings_and_tries_again(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portico.server.peers.catching_up.RETRY_FAILED", 0.3)

    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        first, second, third = servers
        part(first, third)
        part(second, third)
        number = await first.change("report")
        third.broken = "report"
        heal(*servers)
        await until(lambda: "failed" in (entry.times if (entry := third.agent.progress.get(number)) else {}))
        await until(lambda: third.in_force == (number - 1, "repair"))
        third.broken = ""
        await until(lambda: third.in_force == (number, "report"))

    play(scenario)


def test_a_server_that_is_taken_out_stops_and_keeps_no_key(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        latest = second.agent.store().latest()
        assert latest is not None
        await second.agent.change(remove_server(latest.settings, "da3"), expected=None, author="test")
        await until(lambda: third.agent.problem is not None and third.agent.problem.code == "NOT_IN_CLUSTER")
        assert third.agent.store().latest() is None and third.agent.store().applied() is None
        assert third.agent.problem is not None
        await until(lambda: not (cluster.root / "da3" / "cluster").exists())
        assert not (cluster.root / "da3" / "certificates").exists()
        assert first.in_force == second.in_force
        assert "da3" not in second.agent.peers.state.members  # type: ignore[union-attr]
        await until(lambda: "da3" not in first.agent.peers.state.members)  # type: ignore[union-attr]

    play(scenario)


def test_a_server_that_was_taken_out_while_it_was_away_never_comes_back(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, _second, third = await three(cluster)
        await third.stop()
        latest = first.agent.store().latest()
        assert latest is not None
        await first.agent.change(remove_server(latest.settings, "da3"), expected=None, author="test")
        again = cluster.add("da3")
        await again.start()
        await until(lambda: again.agent.problem is not None and again.agent.problem.code == "NOT_IN_CLUSTER")
        assert again.agent.store().latest() is None and again.agent.store().applied() is None
        await until(lambda: set(first.agent.peers.present()) == {"da1", "da2"})

    play(scenario)


def test_of_two_the_survivor_takes_a_lost_first_server_out_when_told_that_it_is_lost(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        await first.stop()
        latest = second.agent.store().latest()
        assert latest is not None
        without = remove_server(latest.settings, "da1")
        with pytest.raises(PorticoError) as error:
            await second.agent.change(without, expected=None, author="test")
        assert error.value.code == "NO_QUORUM"
        await second.agent.change(without, expected=None, author="test", lost=frozenset({"da1"}))
        assert second.agent.peers.quorum()
        await second.change("report")

    play(scenario)
