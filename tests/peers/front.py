"""The native gateway in this process, before an agent that has no kernel: real TLS, real tunnels, no privileges.

client (HTTPS, IP-HTTPS) --- gateway --- agent
                                |
                   socketpairs in place of TUN devices
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, Final

from portico._gateway import ClientTunnel
from portico._gateway import Gateway as Native
from portico.native_process import Slow
from portico.server.agent import Agent
from portico.server.credentials import now_utc
from portico.server.gateway_process import OPERATIONS
from portico.supervisor import ChildError, ChildState
from portico.transition.gateway_config import build_gateway_config

VIRTIO: Final = 12


class Tun:
    """A pair of sockets that stands for a queue of a TUN device; `fd` is the other end."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.fd = theirs.detach()

    def send(self, packet: bytes) -> None:
        self.socket.send(bytes(VIRTIO) + packet)

    def packets(self) -> list[bytes]:
        """What has arrived, neighbour and router discovery left out."""
        found: list[bytes] = []
        while True:
            try:
                packet = self.socket.recv(1 << 17)[VIRTIO:]
            except BlockingIOError:
                return found
            if not (packet[6] == 58 and packet[40] in (133, 134, 135, 136)):
                found.append(packet)

    def close(self) -> None:
        self.socket.close()


class _Here:
    """In place of the supervisor of a gateway's process."""

    def __init__(self, native: Native) -> None:
        self.state = ChildState.RUNNING
        self._native = native

    async def request(self, op: str, *, timeout: float = 10.0, **fields: Any) -> Any:  # noqa: ASYNC109
        operation = OPERATIONS[op]
        carry_out = operation.carry_out if isinstance(operation, Slow) else operation
        try:
            return await asyncio.to_thread(carry_out, self._native, fields)
        except ValueError as error:
            raise ChildError("The gateway refuses", why=str(error)) from None


class Front:
    """One server's gateway; it starts with what the agent has in force."""

    def __init__(self, agent: Agent, address: str, port: int = 0) -> None:
        self.agent = agent
        self.tun, self.nat64 = Tun(), Tun()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._listener.bind((address, port))
        self._listener.listen(64)
        self.address, self.port = self._listener.getsockname()

    async def __aenter__(self) -> Front:
        platform = self.agent.platform
        assert platform.settings is not None and platform.values is not None
        secrets = await asyncio.to_thread(platform.credentials.secrets, platform.settings, now_utc())
        config = build_gateway_config(platform.settings, platform.values, secrets)
        self._native = Native(
            json.dumps({**config, "workers": 1, "dns64": None}),
            tunnel_fds=[self.tun.fd],
            nat64_fds=[self.nat64.fd],
            listener_fds=[self._listener.detach()],
            dns_udp_fds=[],
            dns_tcp_fds=[],
        )
        gateway: Any = platform.gateway
        for name in ("sessions", "disconnect"):  # in case the agent was made to do without
            setattr(gateway, name, getattr(type(gateway), name).__get__(gateway))
        gateway.supervisor = _Here(self._native)
        self._events = asyncio.create_task(self._read(gateway._event))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._events.cancel()
        await asyncio.gather(self._events, return_exceptions=True)
        self._native.close()
        self.tun.close()
        self.nat64.close()

    async def _read(self, take: Callable[[dict[str, Any]], None]) -> None:
        while True:
            for line in await asyncio.to_thread(self._native.next_events, 0.2):
                take(json.loads(line))


class Client:
    """A remote computer's tunnel.

    Args:
        url: what is dialled; the name in it is that of the certificate.
    """

    def __init__(self, url: str, address: str, *, trust: str, chain: str, key: str) -> None:
        self.tun = Tun()
        self._config = {
            "url": url,
            "addresses": [address],
            "trust": trust,
            "certificate_chain": chain,
            "private_key": key,
            "proxy": None,
            "link_local": "fe80::c1",
            "segments": True,
            "connect_timeout": 10.0,
        }
        self._tunnel = ClientTunnel(json.dumps(self._config), tunnel_fd=self.tun.fd)

    @property
    def up(self) -> bool:
        return bool(json.loads(self._tunnel.status())["state"] == "link_up")

    def move(self, address: str) -> None:
        """Dials another server from now on."""
        self._config["addresses"] = [address]
        self._tunnel.configure(json.dumps(self._config))

    def close(self) -> None:
        self._tunnel.close()
        self.tun.close()


async def until(what: str, holds: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Waits until something holds; what it gave."""
    try:
        async with asyncio.timeout(seconds):
            while not (found := holds()):  # noqa: ASYNC110  # what it waits for tells nobody
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:.0f} s: {what}") from None
    return found
