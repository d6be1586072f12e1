"""The cluster's store in etcd: real members on loopback, one for each agent."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable

import pytest

from portico.errors import Conflict, PorticoError, Unavailable
from portico.server.etcd.member import Place
from portico.settings.model import Settings
from tests.unit.server.peers.conftest import Cluster, Scenario, Server, until
from tests.unit.server.peers.test_conflicts import both, settled

Play = Callable[[Scenario], None]

pytestmark = pytest.mark.usefixtures("etcd_program")


async def three(cluster: Cluster) -> tuple[Server, Server, Server]:
    """Three servers with etcd on each."""
    first = await cluster.found()
    second, third = await cluster.join(first, "da2"), await cluster.join(first, "da3")
    await first.agent.peers.moves.to_etcd("test")
    for server in (first, second, third):
        await until(lambda server=server: server.agent.peers.keeper.quorum())  # type: ignore[misc]
    return first, second, third


def kill_etcd(server: Server) -> None:
    """As the kernel would."""
    pid = server.agent.peers.keeper.process.supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def alone(*servers: Server) -> None:
    """Stops servers as a power failure does: without a word, and with their etcd."""
    for server in servers:
        await server.stop()


def test_settings_move_to_etcd_and_back(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        keeper = first.agent.peers.keeper
        assert keeper.store is not None
        assert {member.name for member in keeper.store.client.members()} == {"da1", "da2", "da3"}
        number = await second.change("report")
        assert keeper.store.newest() == (number, second.agent.store().latest().sha256)  # type: ignore[union-attr]
        await until(lambda: all(s.in_force == (number, "report") for s in (first, second, third)))
        assert [r.number for r in keeper.store.history(limit=3)] == [number, number - 1, number - 2]
        _, told = await both(second, third, number)
        assert told.difference is not None and len(told.difference.changes) == 1
        await settled(number + 1, first, second, third)
        await third.agent.peers.moves.to_sqlite("test")
        await until(lambda: all(s.agent.revision.settings.store.kind == "sqlite" for s in cluster.servers.values()))  # type: ignore[union-attr]
        await until(lambda: not any(s.agent.peers.keeper.process.running for s in cluster.servers.values()))
        assert await first.change("repair") == number + 3

    play(scenario)


def test_one_lost_server_of_three_is_nothing_and_comes_back_by_itself(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        kill_etcd(third)
        number = await first.change("report")
        await until(lambda: third.in_force == (number, "report"))
        await until(lambda: third.agent.peers.keeper.process.running and third.agent.peers.keeper.quorum())
        # Its disk is empty: it becomes another member, without a command.
        await third.agent.peers.keeper.process.stop()
        shutil.rmtree(cluster.root / "da3" / "etcd")
        before = (cluster.root / "da3" / "store.json").read_text()
        await until(lambda: (cluster.root / "da3" / "store.json").read_text() != before)
        await until(lambda: voting(first) == {"da1", "da2", "da3"})
        assert await third.change("repair") == number + 1
        # The machine is lost for good.
        await alone(third)
        settings = cluster_settings(first)
        await first.agent.change(without(settings, "da3"), expected=None, author="test", lost=frozenset({"da3"}))
        await until(lambda: voting(first) == {"da1"})
        assert await second.change("report") > number

    play(scenario)


def test_two_lost_servers_of_three_leave_settings_readable_and_recover_by_command(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        number = await first.change("report")
        await until(lambda: third.in_force == (number, "report"))
        await alone(first, second)
        keeper = third.agent.peers.keeper
        with pytest.raises(Unavailable) as error:
            await third.change("repair")
        assert error.value.code == "STORE_NO_QUORUM"
        assert "read-only" in error.value.why and "da1, da2, da3" in error.value.why
        assert "portico cluster store recover" in error.value.resolution
        assert f"revision {number}" in error.value.resolution
        # Service goes on, also across a restart.
        assert third.in_force == (number, "report")
        await third.stop()
        third = cluster.add("da3")
        await third.start()
        assert third.in_force == (number, "report")
        keeper = third.agent.peers.keeper
        await until(lambda: keeper.problem is not None)
        status = await keeper.status()
        assert status["read_only"] and status["problem"]["code"] == "STORE_NO_QUORUM"
        outcome = await third.agent.peers.moves.recover("test")
        assert outcome.revision.number == number + 1
        assert await third.change("repair") == number + 2
        # The others come back: they follow, and are members of the new etcd.
        for name in ("da1", "da2"):
            await cluster.add(name).start()
        await until(lambda: voting(third) == {"da1", "da2", "da3"})
        await until(lambda: all(s.in_force == (number + 2, "repair") for s in cluster.servers.values()))
        with pytest.raises(Conflict) as works:
            await third.agent.peers.moves.recover("test")
        assert works.value.code == "STORE_WORKS"

    play(scenario)


def test_a_cluster_that_lost_power_comes_back_by_itself(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        number = await servers[1].change("report")
        await until(lambda: all(s.in_force == (number, "report") for s in servers))
        await until(lambda: voting(servers[0]) == {"da1", "da2", "da3"}, 60)
        for server in servers:
            kill_etcd(server)
        await asyncio.gather(*(alone(server) for server in servers))
        # One of three comes back first, and not the one that began the store: it serves and refuses changes.
        third = cluster.add("da3")
        await third.start()
        assert third.in_force == (number, "report")
        with pytest.raises(Unavailable) as error:
            await third.change("repair")
        assert error.value.code == "STORE_NO_QUORUM" and "read-only" in error.value.why
        assert third.agent.peers.keeper.read_only() is not None
        # The others follow in any order, and nobody gives a command.
        for name in ("da1", "da2"):
            await cluster.add(name).start()
        await until(lambda: all(s.agent.peers.keeper.quorum() for s in cluster.servers.values()), 60)
        assert await third.change("repair") == number + 1
        await until(lambda: all(s.in_force == (number + 1, "repair") for s in cluster.servers.values()), 40)
        assert voting(third) == {"da1", "da2", "da3"}
        # All at once, as power comes back.
        await asyncio.gather(*(alone(server) for server in list(cluster.servers.values())))
        again = [cluster.add(name) for name in ("da2", "da3", "da1")]
        await asyncio.gather(*(server.start() for server in again))
        await until(lambda: all(s.agent.peers.keeper.quorum() for s in again), 60)
        assert await again[0].change("report") == number + 2
        await until(lambda: all(s.in_force == (number + 2, "report") for s in again), 40)

    play(scenario)


def test_a_member_is_found_where_the_document_says_that_it_is_now(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        await until(lambda: voting(first) == {"da1", "da2", "da3"}, 60)
        where = cluster.locate_store

        def moved(settings: Settings, name: str) -> Place:
            return Place(f"{cluster.network}.103") if name == "da3" else where(settings, name)

        for server in (first, second, third):
            server.agent.peers.keeper.locate = moved
            server.agent.peers.keeper.poke()
        url = f"https://{cluster.network}.103:2380"
        await until(lambda: url in places(first), 60)
        # It is needed now, and reached.
        await alone(second)
        number = await first.change("report")
        await until(lambda: third.in_force == (number, "report"))

    play(scenario)


def places(server: Server) -> set[str]:
    """Where the members of etcd look for each other."""
    store = server.agent.peers.keeper.store
    try:
        return {url for member in store.client.members() for url in member.peer_urls} if store is not None else set()
    except PorticoError:
        return set()


def test_all_data_of_etcd_is_lost_and_made_anew_from_one_servers_copy(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        number = await servers[0].change("report")
        await until(lambda: all(s.in_force == (number, "report") for s in servers))
        history = [r.sha256 for r in servers[1].agent.store().history(limit=100)]
        for server in servers:
            await server.agent.peers.keeper.process.stop()
            shutil.rmtree(cluster.root / server.name / "etcd")
        second = servers[1]
        with pytest.raises(Unavailable) as error:
            await second.change("repair")
        assert error.value.code == "STORE_NO_QUORUM"
        await until(lambda: second.agent.peers.keeper.read_only() is not None)
        assert second.in_force == (number, "report")
        await second.agent.peers.moves.recover("test")
        await until(lambda: voting(second) == {"da1", "da2", "da3"})
        assert [r.sha256 for r in second.agent.store().history(limit=100)][1:] == history
        store = second.agent.peers.keeper.store
        assert store is not None
        assert [r.sha256 for r in store.history(limit=100)][1:] == history
        assert await servers[2].change("repair") == number + 2

    play(scenario)


def voting(server: Server) -> set[str]:
    """The members of etcd that vote, as a server's etcd has them."""
    store = server.agent.peers.keeper.store
    if store is None:
        return set()
    try:
        return {member.name for member in store.client.members() if not member.learner}
    except PorticoError:
        return set()


def cluster_settings(server: Server) -> Settings:
    latest = server.agent.store().latest()
    assert latest is not None
    return latest.settings


def without(settings: Settings, name: str) -> Settings:
    from portico.settings.cluster import remove_server

    return remove_server(settings, name)
