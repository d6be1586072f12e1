"""Everybody can see how far each server is that is being added, step by step, also with several of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from portico.errors import Conflict, LimitReached, NotFound, PorticoError
from portico.server.additions.core import Addition, State
from portico.server.additions.follow import Followers, Waiting, look
from tests.unit.server.peers.conftest import Cluster, Scenario, Server

Play = Callable[[Scenario], None]


def heartbeats(server: Server, cluster: Cluster, **states: str) -> None:
    """What the balancer of a server hears of the others."""

    async def status() -> dict[str, Any]:
        return {"servers": [{"name": name, "state": state, "buckets": [20]} for name, state in states.items()]}

    cluster.patch.setattr(server.agent.balancer, "status", status)


async def at(server: Server, name: str) -> tuple[str, str]:
    """The step that a server is at, and its state."""
    (found,) = await look(server.agent, [name])
    step = next((item for item in found.steps if item.state is not State.DONE), found.steps[-1])
    return step.step.value, step.state.value


def test_each_step_of_each_server_can_be_seen(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        heartbeats(first, cluster)
        token = await cluster.token(first, "da2")
        await cluster.token(first, "da3")
        assert [item.server for item in await look(first.agent)] == ["da2", "da3"]
        assert await at(first, "da2") == await at(first, "da3") == ("checking", "waiting")
        joining = cluster.joining(token, "da2")
        joining.report("nobody hears this")
        await asyncio.to_thread(joining.ask)
        assert await at(first, "da2") == ("joining", "running")
        await asyncio.to_thread(joining.report, "Read the records of certificates")
        (found,) = await look(first.agent, ["da2"])
        assert found.steps[2].detail == "Read the records of certificates"
        await asyncio.to_thread(joining.fetch_records)
        await asyncio.to_thread(joining.finish)
        assert await at(first, "da2") == ("converging", "waiting")
        followed: list[Addition | Waiting] = []

        async def follow() -> None:
            async for item in Followers().follow(first.agent, ["da2"]):
                followed.append(item)

        looking = asyncio.ensure_future(follow())
        second = cluster.add("da2")
        await second.start()
        heartbeats(first, cluster, da1="Default", da2="Converged")
        await asyncio.wait_for(looking, 60)
        last = [item for item in followed if isinstance(item, Addition)][-1]
        assert last.state is State.DONE
        assert last.steps[3].detail.startswith("Converged, 20 of 60 buckets, revision ")
        assert await at(first, "da3") == ("checking", "waiting"), "another one is where it was"

    play(scenario)


def test_a_refusal_is_seen_with_its_reason_and_the_next_attempt_begins_anew(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        heartbeats(first, cluster)
        joining = cluster.joining(await cluster.token(first, "da2"), "da2")
        with monkeypatch.context() as patch:
            patch.setattr("portico.server.peers.joining.__version__", "0.0.1")
            with pytest.raises(PorticoError):
                await asyncio.to_thread(joining.ask)
        (found,) = await look(first.agent, ["da2"])
        assert found.state is State.FAILED and found.steps[1].failure is not None
        assert found.steps[1].failure["code"] == "VERSION_DIFFERS"
        items = [item async for item in Followers().follow(first.agent, ["da2"])]
        assert items == [found], "whoever follows is told and let go"
        await asyncio.to_thread(joining.ask)
        assert await at(first, "da2") == ("joining", "running")
        failure = Conflict("The machine cannot serve", why="x" * 5000)
        await asyncio.to_thread(joining.report, "", failure)
        await asyncio.to_thread(joining.abandon)
        assert await at(first, "da2") == ("joining", "failed")

    play(scenario)


def test_a_member_tells_of_itself_only_and_nothing_malformed_is_kept(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        wrong: list[dict[str, Any]] = [{}, {"doing": 1}, {"doing": "x" * 300}, {"failure": []}]
        for body in [*wrong, {"failure": {"what": "x" * 2000}}]:
            with pytest.raises(PorticoError) as error:
                await first.agent.peers.admission.progress("da2", body)
            assert error.value.code == "MESSAGE_MALFORMED"
        assert first.agent.peers.admission.attempts.names() == []

    play(scenario)


def test_onlookers_are_bounded(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        heartbeats(first, cluster)
        await cluster.token(first, "da2")
        followers = Followers(limit=1)
        one = followers.follow(first.agent, [])
        await anext(one)
        with pytest.raises(LimitReached) as error:
            await anext(followers.follow(first.agent, []))
        assert error.value.code == "TOO_MANY_FOLLOWERS"
        await one.aclose()  # type: ignore[attr-defined]
        await anext(followers.follow(first.agent, []))

    play(scenario)


def test_a_server_alone_has_nobody_to_add(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        alone = cluster.add("da1")
        with pytest.raises(NotFound) as error:
            await look(alone.agent)
        assert error.value.code == "LB_DISABLED"

    play(scenario)
