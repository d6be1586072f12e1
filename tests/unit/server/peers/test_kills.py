"""A process dies at each step of each operation on the cluster: the old document or the new one, and it says which.

Steps are writes of files and commits of the store, messages to other servers (before they go, and before their answer
is used), and what is done to the kernel. The operation is repeated with the victim dying one step later, until it ends
before that step comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from portico.errors import Conflict
from portico.server.install import refuse_second_installation
from portico.server.peers.joining import Joining
from portico.settings import cluster as edits
from portico.settings.document import dump, load_data
from portico.settings.model import Settings
from portico.settings.store import digest
from tests.unit.server.peers.conftest import DATA, Cluster, Scenario, Server, balanced, until
from tests.unit.server.peers.kills import Blade, in_force, kept, prepare, put_back, settled, strike

Play = Callable[[Scenario], None]
MOST_STEPS = 60


async def found(cluster: Cluster, *more: str) -> Blade:
    """A cluster of these servers, each of which can be ended at a step."""
    blade = Blade(cluster.root, cluster.patch)
    cluster.patch.setattr("portico.server.peers.peers.GREETING_INTERVAL", 0.05)
    add = cluster.add

    def prepared(name: str) -> Server:
        return prepare(add(name), blade)

    cluster.patch.setattr(cluster, "add", prepared)
    make = Joining._caller

    def owned(joining: Joining, context: Any) -> Any:
        caller = make(joining, context)
        caller.owner = joining.name  # type: ignore[attr-defined]
        return caller

    cluster.patch.setattr(Joining, "_caller", owned)
    first = await cluster.found()
    for name in more:
        await cluster.join(first, name)
    return blade


def newest(server: Server) -> Settings:
    latest = server.agent.store().latest()
    assert latest is not None
    return latest.settings


async def change(server: Server, settings: Settings) -> None:
    await server.agent.change(settings, expected=None, author="test")


def says_which(server: Server, old: str, new: str) -> None:
    """A coordinator that died tells what became of the change, once it had begun."""
    told, now = server.agent.transactions.interrupted.problem, in_force(server)
    assert now in (old, new)
    if told is not None:
        assert told.why.startswith("it took place" if now == new else "it did not take place")
        assert f"revision {server.in_force[0]} " in told.why


async def restart(cluster: Cluster, name: str) -> Server:
    """The process of a server is started again, on what the dead one left."""
    server = cluster.add(name)
    await server.start()
    return server


@pytest.mark.parametrize("victim", ["da1", "da2"])
def test_a_process_that_dies_at_any_step_of_a_change_of_mode(play: Play, victim: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        blade, told = await found(cluster, "da2"), 0
        for step in range(1, MOST_STEPS):
            first = cluster.servers["da1"]
            settings = newest(first)
            assert settings.load_balancing is not None
            mode = "multicast" if settings.load_balancing.mode == "unicast" else "unicast"
            wanted = edits.set_mode(settings, mode)  # type: ignore[arg-type]
            old, new = digest(dump(settings)), digest(dump(wanted))
            died, error = await strike(cluster, blade, victim, step, change(first, wanted))
            if not died:
                break
            restarted = await restart(cluster, victim)
            got = await settled(*cluster.servers.values())
            assert got in (old, new), blade.steps
            if victim == "da1":
                says_which(restarted, old, new)
                told += restarted.agent.transactions.interrupted.problem is not None
            else:
                assert got == (new if error is None else old), (blade.steps, error)
            if step % 5 == 0:  # nobody waits for the change any more: the next one goes through at once
                await until(partial(sees, cluster.servers["da2"], "da1"))
                await cluster.servers["da2"].change("report" if newest(first).drift == "repair" else "repair")
                await settled(*cluster.servers.values())
        assert step > (8 if victim == "da1" else 3), blade.steps
        assert victim != "da1" or told > 5

    play(scenario)


@pytest.mark.parametrize("victim", ["da1", "da2"])
def test_a_process_that_dies_at_any_step_of_taking_a_server_out(play: Play, victim: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        blade = await found(cluster, "da2")
        before = await kept(cluster)
        settings = newest(cluster.servers["da1"])
        wanted = edits.remove_server(settings, "da2")
        old, new = digest(dump(settings)), digest(dump(wanted))
        for step in range(1, MOST_STEPS):
            first = cluster.servers["da1"]
            died, _ = await strike(cluster, blade, victim, step, followed(cluster, blade, change(first, wanted)))
            if not died:
                break
            restarted = await restart(cluster, victim)
            first = cluster.servers["da1"]
            await until(partial(holds, first, old, new))
            if victim == "da1":
                says_which(restarted, old, new)
            if in_force(first) == old:
                assert await settled(*cluster.servers.values()) == old
                continue
            await gone(cluster, "da2")
            await put_back(cluster, before)
        assert step > 3, blade.steps

    play(scenario)


@pytest.mark.parametrize("victim", ["da1", "da2"])
def test_a_process_that_dies_at_any_step_of_ending_load_balancing(play: Play, victim: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.patch.setattr("portico.server.peers.farewell.AGAIN", 0.1)
        blade = await found(cluster, "da2")
        before = await kept(cluster)
        alone = load_data(DATA)
        old, new = digest(dump(newest(cluster.servers["da1"]))), digest(dump(alone))
        for step in range(1, MOST_STEPS):
            first = cluster.servers["da1"]
            died, _ = await strike(cluster, blade, victim, step, followed(cluster, blade, change(first, alone)))
            if not died:
                break
            restarted = await restart(cluster, victim)
            first = cluster.servers["da1"]
            await until(partial(holds, first, old, new))
            if victim == "da1":
                says_which(restarted, old, new)
            if in_force(first) == old:
                assert await settled(*cluster.servers.values()) == old
                continue
            await gone(cluster, "da2")
            if "send /v1/leave to da2" in blade.steps and not ended(first):
                # It died over the answer. Whether da2 knows cannot be known: it has left, or it is without power.
                told = first.agent.peers.farewell.problem()
                assert told is not None and told.code == "SERVERS_NOT_TOLD"
            else:
                await until(partial(ended, first))
            await put_back(cluster, before)
        assert step > 3, blade.steps

    play(scenario)


def test_a_process_that_dies_at_any_step_of_enabling_load_balancing(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        blade = await found(cluster)
        alone, wanted = load_data(DATA), balanced()
        old, new = digest(dump(alone)), digest(dump(wanted))
        for step in range(1, MOST_STEPS):
            first = cluster.servers["da1"]
            if in_force(first) != old:
                await change(first, alone)
            died, _ = await strike(cluster, blade, "da1", step, change(first, wanted))
            if not died:
                break
            restarted = await restart(cluster, "da1")
            await settled(restarted)
            says_which(restarted, old, new)
            assert restarted.agent.peers.files.exists() == (in_force(restarted) == new), blade.steps
        assert step > 8, blade.steps

    play(scenario)


@pytest.mark.parametrize("victim", ["da1", "da2"])
def test_a_process_that_dies_at_any_step_of_a_join(play: Play, victim: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        blade = await found(cluster)

        async def join(token: str) -> None:
            joining = cluster.joining(token, "da2")

            def steps() -> None:
                for one in (joining.ask, joining.fetch_records, joining.finish):
                    one()

            await asyncio.to_thread(steps)

        before = await kept(cluster)
        old = digest(dump(newest(cluster.servers["da1"])))
        for step in range(1, MOST_STEPS):
            first = cluster.servers["da1"]
            token = await cluster.token(first, "da2")
            died, error = await strike(cluster, blade, victim, step, join(token))
            if not died:
                break
            if victim == "da1":
                first = await restart(cluster, "da1")
            await settled(first)
            balancing = newest(first).load_balancing
            assert balancing is not None
            assert (balancing.server("da2") is None) == (in_force(first) == old)
            if error is not None and not installed(cluster.root / "da2"):
                await join(token)  # what is interrupted is repeated, with the same token
            second = cluster.add("da2")
            await second.start()
            await until(partial(sees, second, "da1"))
            assert await settled(first, second) == in_force(first)
            await put_back(cluster, before)
        assert step > 3, blade.steps

    play(scenario)


def holds(server: Server, *digests: str) -> bool:
    return in_force(server) in digests


def ended(server: Server) -> bool:
    return not server.agent.peers.files.exists()


def sees(server: Server, name: str) -> bool:
    return name in server.agent.peers.present()


def installed(state: Path) -> bool:
    """Whether the command that joins a machine would be refused on it."""
    try:
        refuse_second_installation(state)
    except Conflict:
        return True
    return False


async def followed(cluster: Cluster, blade: Blade, work: Any) -> None:
    """A change that takes da2 out, and what da2 does about it afterwards."""
    await work
    await until(lambda: blade.dead or not (cluster.root / "da2" / "certificates").exists())


async def gone(cluster: Cluster, name: str) -> None:
    """Waits until a server was told that it was taken out, and keeps nothing."""
    agent = cluster.servers[name].agent
    await until(lambda: agent.problem is not None and agent.problem.code == "NOT_IN_CLUSTER")
    await until(lambda: not (agent.state / "left.json").exists())
    assert not agent.peers.files.exists() and agent.store().latest() is None
