"""Servers of neighbouring versions work together while a cluster is upgraded; what one cannot read is no mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from portico.errors import Conflict, PorticoError
from portico.management.api.cluster import with_versions
from portico.settings.document import load_data
from portico.settings.model import Settings
from portico.settings.problems import CATALOGUE, SettingsRefused
from tests.unit.server.peers.conftest import Cluster, Scenario, Server, until

Play = Callable[[Scenario], None]


async def two(cluster: Cluster, version: str) -> tuple[Server, Server]:
    """A cluster whose second server says that it has another version."""
    first = await cluster.found()
    second = await cluster.join(first, "da2")
    greeting = second.agent.peers.catching_up.greeting

    async def other() -> dict[str, Any]:
        return {**await greeting(), "version": version}

    cluster.patch.setattr(second.agent.peers.catching_up, "greeting", other)
    link = first.agent.peers.links.get("da2")
    assert link is not None
    await until(lambda: link.said.get("version") == version)
    return first, second


def test_settings_are_changed_with_a_neighbouring_version(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second = await two(cluster, "0.2.0")
        number = await first.change("report")
        assert second.in_force == (number, "report")
        status = with_versions(first.agent, {"servers": [{"name": "da1"}, {"name": "da2"}, {"name": "da3"}]})
        assert [server["version"] for server in status["servers"]] == ["0.1.0", "0.2.0", None]

    play(scenario)


def test_settings_are_not_changed_with_a_version_too_far_away(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second = await two(cluster, "0.7.0")
        before = first.in_force
        with pytest.raises(Conflict) as error:
            await first.change("report")
        assert error.value.code == "VERSIONS_APART"
        assert "da2 has Portico 0.7.0" in error.value.why and "portico server upgrade" in error.value.resolution
        assert first.in_force == second.in_force == before
        alone = first.agent.store().latest()
        assert alone is not None and alone.settings.load_balancing is not None
        data = alone.settings.as_data()
        data["load_balancing"]["servers"] = data["load_balancing"]["servers"][:1]
        await first.agent.change(load_data(data), expected=None, author="test")
        assert first.in_force[0] == before[0] + 1, "taking it out is possible"

    play(scenario)


def test_what_an_older_server_cannot_read_is_told_as_what_it_is(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second = await two(cluster, "0.0.9")
        before = first.in_force
        kind = CATALOGUE["SETTINGS_UNKNOWN_KEY"]
        problem = kind.problem("drift_seconds", key="drift_seconds", known="drift", hint="Remove it")

        def old(_text: str, **_: Any) -> Settings:
            raise SettingsRefused("the settings from da1 cannot be used", [problem])

        cluster.patch.setattr("portico.server.peers.distribution.load", old)
        with pytest.raises(PorticoError) as error:
            await first.change("report")
        assert error.value.code == "SETTINGS_TOO_NEW"
        assert error.value.what == "da2 cannot read these settings"
        assert "0.0.9, which does not know 'drift_seconds'" in error.value.why
        assert first.in_force == second.in_force == before

    play(scenario)
