"""A remote computer with its agent, command line and tunnel, at one or two servers with gateways."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from ipaddress import IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from typer.testing import CliRunner

from portico.certificates.issue import make_request
from portico.client.agent import ClientAgent
from portico.client.control import ControlServer, listen
from portico.client.control_client import ask
from portico.client.identity import ClientFiles, ClientSettings
from portico.management.cli import user_login
from portico.management.cli.app import app
from portico.management.cli.login import Login
from portico.server.credentials import now_utc
from portico.server.enrolment import client_settings
from portico.server.users import users
from portico.settings.document import load_data
from tests.gateway.conftest import udp
from tests.peers.front import Client, Front, until
from tests.peers.provider import Browser, free_port, started
from tests.unit.server.peers.conftest import Cluster, Server

NAME = "da.example.net"
WEB = "fd7c:1a2b:3c4d:7777::a00:4"
"""10.0.0.4 through NAT64."""


@pytest.fixture(scope="session")
def provider() -> Iterator[str]:
    """Says slow_down to the first question about each device, as one that has many to serve."""
    with started(free_port(), slow_downs=1) as issuer:
        yield issuer


class Person:
    """Sits at the computer with a command line, and with a browser at another one.

    Attributes:
        does: opens the page that the command line shows; None leaves it alone.
        asked: what the command line told the agent, newest last.
        waited: seconds between the command line's questions.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.does: Browser | None = None
        self.waited: list[float] = []
        self.asked: list[dict[str, str]] = []
        patch.setattr(user_login, "note", self._read)
        patch.setattr(user_login, "ask", self._ask)
        patch.setattr(Login.__init__, "__kwdefaults__", {**(Login.__init__.__kwdefaults__ or {}), "sleep": self._wait})

    def run(self, *arguments: str, fails: bool = False) -> Any:
        """What a command prints, or how it fails."""
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert bool(result.exit_code) is fails, result.output
        if fails:
            return json.loads(result.stderr[result.stderr.index("{") :])["error"]
        return json.loads(result.stdout)

    def login(self, does: Browser | None, *, fails: bool = False) -> Any:
        self.does, self.waited = does, []
        return self.run("client", "login", fails=fails)

    def token(self, issuer: str, client: str, does: Browser) -> str:
        """What the provider gives another program of this person."""
        self.does = does
        with httpx.Client(timeout=60.0, trust_env=False) as http:
            return Login(issuer, client, ["openid", "profile"], http, self._read).device()

    def _ask(self, method: str, what: str, *, body: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
        self.asked += [body] if body is not None else []
        return ask(method, what, body=body, **more)

    def _read(self, text: str) -> None:
        url = re.search(r"https?://\S+", text)
        if url is not None and self.does is not None:
            threading.Thread(target=self.does.open, args=(url[0],)).start()

    def _wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        time.sleep(0.02)


class Site:
    """The servers and the computer."""

    def __init__(self, cluster: Cluster, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.cluster, self.person = cluster, Person(patch)
        self.servers: dict[str, Server] = {}
        self.fronts: dict[str, Front] = {}
        self.tunnel: Client
        self._files = ClientFiles(directory / "client")
        self._socket = directory / "client.sock"
        self._led_to = ""
        self._ahead = 0.0
        self._patch = patch
        patch.setenv("PORTICO_RUNTIME_DIR", str(directory))
        patch.setattr(users, "time", SimpleNamespace(time=lambda: time.time() + self._ahead, monotonic=time.monotonic))

    async def start(self, stack: AsyncExitStack, issuer: str, names: tuple[str, ...]) -> None:
        first = self.servers[names[0]] = await self.cluster.found()
        for name in names[1:]:
            self.servers[name] = await self.cluster.join(first, name)
        latest = first.agent.store().latest()
        assert latest is not None
        access = {"user_authentication": "oidc", "user_oidc": {"issuer": issuer, "client_id": "portico"}}
        document = latest.settings.as_data()
        document["access"] = {**document.get("access", {}), **access, "user_lifetime_hours": 2}
        await first.agent.change(load_data(document), expected=None, author="test")
        port = 0
        for number, name in enumerate(names, 1):
            front = Front(self.servers[name].agent, f"{self.cluster.network}.{100 + number}", port)
            self.fronts[name] = await stack.enter_async_context(front)
            port = front.port
        self._lead(names[0])
        await self._enrol(first, port)
        stack.callback(self.tunnel.close)
        control = ControlServer(ClientAgent(self._files), listen(self._socket))
        serving = asyncio.create_task(control.run_until_stopped())

        async def stop() -> None:
            control.should_exit = True
            await serving

        stack.push_async_callback(stop)
        await until("the tunnel", lambda: self.tunnel.up)

    async def _enrol(self, server: Server, port: int) -> None:
        agent = server.agent
        settings, values = agent.platform.settings, agent.platform.values
        assert settings is not None and values is not None
        key, request = make_request("laptop1")
        chain = agent.credentials.issuer().client("laptop1", request, days=30, now=now_utc())
        trust = agent.credentials.trust(settings)
        url = f"https://{NAME}:{port}{urlsplit(values.url).path}"
        given = ClientSettings.model_validate({**client_settings(settings, values, 1), "url": url})
        self._files.adopt(key_pem=key, chain_pem=chain, trust=trust, settings=given)
        self.tunnel = Client(url, self.fronts[server.name].address, trust=trust, chain=chain, key=key)

    def _lead(self, name: str) -> None:
        """The ConnectTo name leads to a server."""
        if not self._led_to:
            resolve = socket.getaddrinfo

            def answer(host: Any, *rest: Any, **more: Any) -> Any:
                return resolve(self._led_to if host in (NAME, NAME.encode()) else host, *rest, **more)

            self._patch.setattr(socket, "getaddrinfo", answer)
        self._led_to = self.fronts[name].address

    async def roam(self, name: str) -> None:
        """The computer comes back on another server."""
        self._lead(name)
        self.tunnel.move(self.fronts[name].address)
        agent = self.servers[name].agent
        await until(f"the tunnel at {name}", lambda: self.tunnel.up and len(agent.users._tunnels) == 1)

    def ahead(self, seconds: float) -> None:
        """What users are allowed is judged so much later from now on."""
        self._ahead = seconds

    async def login(self, does: Browser | None, *, fails: bool = False) -> Any:
        return await asyncio.to_thread(lambda: self.person.login(does, fails=fails))

    async def run(self, *arguments: str) -> Any:
        return await asyncio.to_thread(self.person.run, *arguments)

    async def level(self) -> str:
        """What the computer's own command line says."""
        return str((await self.run("client", "status"))["level"])

    def opened(self, name: str) -> list[str]:
        """Whom the packet filter of a server would let into the intranet."""
        return [str(member.address) for member in self.servers[name].agent.users.members()]

    def passes(self, name: str) -> bool:
        """Sends a packet through NAT64 from time to time; whether one came out at the server's intranet side."""
        # The address in the first /64 of the cluster, which all servers share.
        self.tunnel.tun.send(udp(self.address, WEB, b"hello"))
        return any(packet[0] >> 4 == 4 for packet in self.fronts[name].nat64.packets())

    def refused(self, name: str) -> bool:
        """The same; whether it was answered "administratively prohibited" and nothing came out."""
        self.passes(name)
        prohibited = any(packet[6] == 58 and packet[40:42] == b"\1\1" for packet in self.tunnel.tun.packets())
        return prohibited and not self.passes(name)

    @property
    def address(self) -> str:
        settings = self.fronts["da1"].agent.platform.values
        assert settings is not None
        return str(IPv6Address(int(settings.link_prefix.network_address) + 0xC1))


Scenario = Callable[[Site], Coroutine[Any, Any, None]]


@pytest.fixture
def users_at(tmp_path: Path, provider: str) -> Callable[..., None]:
    """Runs a scenario at the servers with these names."""

    def run(scenario: Scenario, *names: str) -> None:
        async def body() -> None:
            with pytest.MonkeyPatch.context() as patch:
                cluster = Cluster(tmp_path, patch)
                try:
                    async with AsyncExitStack() as stack:
                        site = Site(cluster, tmp_path, patch)
                        await site.start(stack, provider, names or ("da1",))
                        await scenario(site)
                finally:
                    await cluster.stop()

        asyncio.run(body())

    return run
