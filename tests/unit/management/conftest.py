"""A server's API as it is on the network: real TLS, real agent; only kernel and gateway are left out."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from portico.management.api.listener import ApiListener
from portico.management.api.serve import api_config
from portico.management.cli.profiles import Profile
from portico.management.cli.remote import tls
from portico.settings.document import load_data
from tests.unit.server.test_last_good_state import DATA, Server, make_authority

ROLES = [
    {"source": "certificate", "name": "alice", "role": "administrator"},
    {"source": "certificate", "name": "oscar", "role": "operator"},
]


class Network:
    """One server whose API listens on a loopback address of this test alone."""

    def __init__(self, server: Server, listener: ApiListener, address: str) -> None:
        self.server, self.listener, self.address = server, listener, address
        self.agent = server.agent
        self.url = f"https://{address}:2506"

    @property
    def authority(self) -> str:
        known = self.agent.access.authority.known()
        assert known is not None
        return known.pem

    def context(self, certificate: Path | None = None) -> ssl.SSLContext:
        return tls(Profile("test", self.url, self.authority, certificate=str(certificate) if certificate else None))

    def http(self, token: str | None = None, certificate: Path | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(
            base_url=self.url, verify=self.context(certificate), headers=headers, trust_env=False, timeout=120.0
        )

    async def token(self, role: str = "viewer", name: str = "test") -> str:
        from datetime import timedelta

        from portico.administration.roles import Role

        return (await self.agent.access.create_token(name, Role.parse(role), timedelta(hours=1), "root"))[1]

    def audited(self) -> list[dict[str, Any]]:
        return self.agent.access.audit.entries(limit=1000)


async def until(holds: Callable[[], bool]) -> None:
    """Waits until something holds."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  # what it waits for tells nobody
            await asyncio.sleep(0.01)


Body = Callable[[Network], Awaitable[None]]


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the body of a test with a server; keywords go into the section `management`."""

    def run(body: Body, **management: Any) -> None:
        async def whole() -> None:
            chosen = random.Random()
            address = f"127.{chosen.randrange(1, 255)}.{chosen.randrange(1, 255)}.{chosen.randrange(1, 255)}"
            server = Server(tmp_path / "state", monkeypatch)
            section = {"listen": [address], "roles": ROLES, **management}
            make_authority(server.agent.state)
            server.agent.credentials.reload_authority()
            await server.agent.change(load_data({**DATA, "management": section}), expected=0, author="test")
            listener = ApiListener(server.agent, api_config(server.agent))
            following = asyncio.create_task(listener.run())
            try:
                await until(lambda: bool(listener.places))
                await body(Network(server, listener, address))
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await server.agent.stop()

        asyncio.run(whole())

    return run
