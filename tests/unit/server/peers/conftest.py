"""Several agents in one process, each with its own state and a peers' listener on a loopback address of its own."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from portico.certificates.ca import CertificateAuthority
from portico.errors import PorticoError
from portico.server.agent import Agent
from portico.server.cluster_secrets import ClusterSecrets
from portico.server.credentials import DIRECTORY, now_utc
from portico.server.etcd.member import Place
from portico.server.peers.joining import Joining
from portico.server.peers.tokens import JoinToken
from portico.settings.document import load_data
from portico.settings.load_balancing import ClusterServer
from portico.settings.model import Settings

PORT = 2505
_GIVEN_UP = (
    "caller.CONNECT_SECONDS",
    "catching_up.GREETING_SECONDS",
    "peers.GREETING_SECONDS",
    "peers.START_SECONDS",
    "records.TELL_SECONDS",
)

DATA: dict[str, Any] = {
    "schema_version": 1,
    "deployment": {
        "domain": "corp.example.net",
        "connect_to": "da.example.net",
        "organisation_prefix": "fd7c:1a2b:3c4d::/48",
    },
    "server": {
        "name": "da1",
        "internet_interface": "lo",
        "internal_interface": "lo",
        "internal_ipv4": "127.0.0.1",
        "workers": 1,
    },
}


def balanced() -> Settings:
    """The document of a cluster of one."""
    section = {
        "internal_virtual_addresses": ["10.0.0.2/24"],
        "servers": [{"name": "da1", "priority": 1, "internal_dedicated_addresses": ["10.0.0.11/24"]}],
    }
    return load_data({**DATA, "load_balancing": section})


class Server:
    """An agent without a kernel, a gateway and a balancer.

    Real balancers would need capabilities, and all of them share the host's loopback interface with those of every
    other process of tests. Here the others are told what heartbeats would find out. Nor are there pages on the
    intranet, whose process needs an account of its own.

    Attributes:
        applied: drift settings of the documents in the order in which they were applied: what tests change.
        broken: documents with this drift setting cannot be applied.
        sessions: the tunnels of its gateway.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.cluster = cluster
        self.agent = Agent(cluster.root / name)
        self.agent.peers.links.locate = cluster.locate
        self.agent.peers.keeper.locate = cluster.locate_store
        self.agent.peers.keeper.founding_host = f"{cluster.network}.200"
        # etcd takes nobody in or out until all members have been connected for five seconds.
        self.agent.peers.keeper.part.tuning = ("--strict-reconfig-check=false",)
        self.applied: list[str] = []
        self.broken = ""
        self.sessions: list[dict[str, Any]] = []
        self.running = False
        platform, patch = self.agent.platform, cluster.patch

        async def apply(settings: Settings, values: Any) -> list[Any]:
            if settings.drift == self.broken:
                raise PorticoError("the device is on fire")
            await asyncio.to_thread(platform.credentials.secrets, settings, now_utc())
            platform.settings, platform.values = settings, values
            self.applied.append(settings.drift)
            return []

        async def refresh() -> None:
            if platform.settings is not None:
                await asyncio.to_thread(platform.credentials.secrets, platform.settings, now_utc())

        async def nothing(*_: Any, **__: Any) -> list[Any]:
            return []

        async def balance(local: Settings, _revision: int, secrets: ClusterSecrets | None) -> None:
            if local.load_balancing is not None and secrets is None:
                raise PorticoError("Load balancing cannot begin", why="no secrets", code="CLUSTER_SECRETS_MISSING")

        async def rests() -> None:
            await asyncio.Event().wait()

        async def sessions() -> list[dict[str, Any]]:
            return list(self.sessions)

        async def disconnect(numbers: list[int]) -> int:
            before = len(self.sessions)
            self.sessions = [s for s in self.sessions if s["session"] not in numbers]
            return before - len(self.sessions)

        patch.setattr(platform, "apply", apply)
        patch.setattr(platform, "refresh", refresh)
        patch.setattr(platform, "drift", nothing)
        patch.setattr(platform, "stop", nothing)
        patch.setattr(self.agent.balancer, "apply", balance)
        patch.setattr(self.agent.location, "run", rests)
        patch.setattr(platform.gateway, "sessions", sessions)
        patch.setattr(platform.gateway, "disconnect", disconnect)
        patch.setattr(self.agent, "check", nothing)

    async def start(self) -> None:
        await self.agent.start()
        self.running = True
        self._heard(alive=True)

    async def stop(self) -> None:
        if self.running:
            self.running = False
            await self.agent.stop()
            self._heard(alive=False)

    def _heard(self, *, alive: bool) -> None:
        """What heartbeats tell the other servers."""
        for other in self.cluster.servers.values():
            if other is not self and other.running:
                other.agent.peers.heard(self.name, alive)
                if alive:
                    self.agent.peers.heard(other.name, True)

    async def change(self, drift: str, *, expected: int | None = None) -> int:
        """Changes the settings on this server; returns the new revision."""
        latest = self.agent.store().latest()
        assert latest is not None
        settings = latest.settings.model_copy(update={"drift": drift})
        outcome = await self.agent.change(settings, expected=expected, author="test")
        assert outcome.revision is not None
        return outcome.revision.number

    @property
    def in_force(self) -> tuple[int, str]:
        revision = self.agent.revision
        assert revision is not None
        return revision.number, revision.settings.drift


class Cluster:
    """Servers that find each other on loopback addresses of this test alone."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.patch = root, patch
        # The machine goes on: nothing has to outlive the power.
        patch.setattr(os, "fsync", lambda _descriptor: None)
        # A server of these tests that does not answer in time is one that got no processor; the dead ones refuse.
        for given_up in _GIVEN_UP:
            patch.setattr(f"portico.server.peers.{given_up}", 30.0)
        patch.setattr("portico.server.peers.links.SILENCE", 8.0)
        patch.setattr("portico.server.peers.peers.GREETING_INTERVAL", 0.1)
        patch.setattr("portico.server.etcd.keeper.LOOK_INTERVAL", 0.2)
        chosen = random.Random()
        self.network = f"127.{chosen.randrange(1, 255)}.{chosen.randrange(1, 255)}"
        self.servers: dict[str, Server] = {}

    def locate(self, server: ClusterServer) -> tuple[str, int]:
        return f"{self.network}.{int(server.name.removeprefix('da'))}", PORT

    def locate_store(self, _settings: Settings, name: str) -> Place:
        """A member of etcd."""
        return Place(f"{self.network}.{int(name.removeprefix('da'))}")

    async def found(self) -> Server:
        """The first server, with a CA and load balancing."""
        server = self.add("da1")
        CertificateAuthority.create(server.agent.state / DIRECTORY, name="corp.example.net", now=now_utc())
        server.agent.credentials.reload_authority()
        await server.start()
        await server.agent.change(load_data(DATA), expected=0, author="test")
        await server.agent.change(balanced(), expected=1, author="test")
        return server

    def add(self, name: str) -> Server:
        server = self.servers[name] = Server(self, name)
        return server

    def joining(self, token: str, name: str) -> Joining:
        host = f"10.0.0.{10 + int(name.removeprefix('da'))}/24"
        return Joining(JoinToken.parse(token), self.root / name, "lo", "lo", {"lo": ["127.0.0.1/8", host]})

    async def token(self, by: Server, name: str, **wish: Any) -> str:
        return (await by.agent.peers.admission.create_token(name, wish)).text

    async def join(self, by: Server, name: str, **wish: Any) -> Server:
        """A new machine joins and starts."""
        joining = self.joining(await self.token(by, name, **wish), name)

        def steps() -> None:
            joining.ask()
            joining.fetch_records()
            joining.finish()

        await asyncio.to_thread(steps)
        server = self.add(name)
        await server.start()
        await until(lambda: set(by.agent.peers.present()) >= {by.name, name})
        return server

    async def stop(self) -> None:
        for server in self.servers.values():
            await server.stop()


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.02)


Scenario = Callable[[Cluster], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[[Scenario], None]]:
    """Runs a scenario with a cluster that is stopped afterwards."""

    def run(scenario: Scenario) -> None:
        async def body() -> None:
            with pytest.MonkeyPatch.context() as patch:
                cluster = Cluster(tmp_path, patch)
                try:
                    await scenario(cluster)
                finally:
                    await cluster.stop()

        asyncio.run(body())

    yield run
