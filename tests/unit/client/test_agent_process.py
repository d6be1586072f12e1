"""What the agent tells the tunnel's process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from portico.client.agent import ClientAgent
from portico.client.identity import ClientFiles
from portico.supervisor import ChildState


class Process:
    """The tunnel's process, as its supervisor shows it."""

    state = ChildState.STARTING

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def request(self, what: str, **values: Any) -> None:
        assert what == "configure"
        self.told.append(values["config"]["addresses"])


def test_a_server_that_is_found_elsewhere_while_the_process_starts_is_told_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        agent, process = ClientAgent(ClientFiles(tmp_path)), Process()
        monkeypatch.setattr(agent, "_config", lambda: {"addresses": list(agent._addresses)})
        agent._addresses, agent._supervisor = ("192.168.1.1",), process  # type: ignore[assignment]
        agent._given = agent._config()

        # What a captive portal's DNS has said is put right before the process can be told.
        agent._addresses = ("203.0.113.11",)
        await agent._reconfigure()
        assert process.told == []
        process.state = ChildState.RUNNING
        agent._on_child(ChildState.RUNNING, "")
        await asyncio.gather(*agent._tasks)
        assert process.told == [["203.0.113.11"]]

        # Nothing is told twice to a process that was started with what is so.
        agent._given = agent._config()
        agent._on_child(ChildState.RUNNING, "")
        await asyncio.gather(*agent._tasks)
        assert len(process.told) == 1

    asyncio.run(body())
