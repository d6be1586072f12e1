"""A server is started, stopped, drained, suspended and resumed from any server of its cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from portico.errors import Conflict, InvalidInput, NotFound
from portico.server.peers.caller import PeerUnreachable
from tests.unit.server.peers.conftest import Cluster, Scenario, Server

Play = Callable[[Scenario], None]


def recorded(server: Server, patch: pytest.MonkeyPatch) -> list[str]:
    """What the server's balancer is told to do."""
    told: list[str] = []

    async def command(name: str) -> None:
        if name == "start" and told == ["suspend"]:
            raise Conflict("The server refuses to start", why="it is suspended")
        told.append(name)

    patch.setattr(server.agent.balancer, "command", command)
    return told


def test_a_command_reaches_the_server_that_is_meant_and_no_other(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        mine, theirs = recorded(first, monkeypatch), recorded(second, monkeypatch)
        await first.agent.peers.command("da2", "drain")
        await second.agent.peers.command("da1", "stop")
        assert (mine, theirs) == (["stop"], ["drain"])

    play(scenario)


def test_a_refusal_comes_back_in_the_other_server_s_words(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        recorded(second, monkeypatch)
        await first.agent.peers.command("da2", "suspend")
        with pytest.raises(Conflict, match="it is suspended"):
            await first.agent.peers.command("da2", "start")
        link = first.agent.peers.links.get("da2")
        assert link is not None
        wrong: list[dict[str, Any]] = [{}, {"command": 7}, {"command": "x" * 300}]
        for body in wrong:
            with pytest.raises(InvalidInput):
                await link.caller.post("/v1/cluster/command", body)

    play(scenario)


def test_a_server_that_is_not_there_is_named(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        with pytest.raises(NotFound, match="da9"):
            await first.agent.peers.command("da9", "stop")
        await second.stop()
        with pytest.raises(PeerUnreachable):
            await first.agent.peers.command("da2", "stop")

    play(scenario)
