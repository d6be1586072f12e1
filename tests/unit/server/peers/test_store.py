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

Play = Callable[[Scenario], None]

pytestmark = pytest.mark.skipif(shutil.which("etcd") is None, reason="needs etcd-server")


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
        await third.agent.peers.moves.to_sqlite("test")
        await until(lambda: all(s.agent.revision.settings.store.kind == "sqlite" for s in cluster.servers.values()))  # type: ignore[union-attr]
        await until(lambda: not any(s.agent.peers.keeper.process.running for s in cluster.servers.values()))
        assert await first.change("repair") == number + 2

    play(scenario)
