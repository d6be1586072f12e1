"""When the agent tells the gateway, and when it replaces it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from portico.server.gateway import Gateway
from portico.server.platform import Platform


class Recorder:
    """Stands for the gateway and its supervisor."""

    def __init__(self) -> None:
        self.running = True
        self.calls: list[str] = []
        self.supervisor = self

    def restart(self, reason: str) -> None:
        self.calls.append(f"restart: {reason}")

    async def configure(self, config: dict[str, Any]) -> None:
        self.calls.append(f"configure: {config['workers']}")

    async def wait_ended(self, _seconds: float) -> None:
        self.calls.append("ended")

    async def wait_ready(self, _seconds: float) -> None:
        self.calls.append("ready")


@pytest.mark.parametrize(
    ("config", "calls"),
    [
        ({"workers": 2, "nat64": None}, []),
        ({"workers": 2, "nat64": {}}, ["configure: 2"]),
        ({"workers": 3, "nat64": None}, ["restart: it needs other descriptors", "ended", "ready"]),
    ],
    ids=["the same", "another", "other workers"],
)
def test_another_number_of_workers_is_a_restart(tmp_path: Path, config: dict[str, Any], calls: list[str]) -> None:
    platform = Platform(tmp_path, cast("Any", None), cast("Any", None), cast("Any", None))
    recorder = Recorder()
    platform.gateway = cast("Gateway", recorder)
    platform._config = {"workers": 2, "nat64": None}
    platform._given = (platform.kernel.generation, id(platform.sockets))
    asyncio.run(platform._serve(config))
    assert recorder.calls == calls
