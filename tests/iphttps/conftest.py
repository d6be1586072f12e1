"""A gateway under test and bare-socket peers around it: loopback, socketpairs for TUN devices, no privileges."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import (
    HOST,
    SERVER_NAME,
    VIRTIO,
    Authority,
    Client,
    Server,
    Tun,
    start_client,
    start_server,
    wait_for,
)
from tests.peers.iphttps_peer import (
    ECHO_REPLY,
    ECHO_REQUEST,
    ICMPV6,
    Packet,
    Peer,
    Refused,
    icmpv6,
    tls,
)

__all__ = ["start_client", "start_server"]

TARGET = IPv6Address(HOST)
"""A host of the intranet."""
LINK_LOCAL = IPv6Address("fe80::1")
"""The server's."""


class Intranet:
    """What is behind the server's TUN device: answers echo requests for every address and keeps what else it hears."""

    def __init__(self, tun: Tun) -> None:
        self.tun = tun
        self.packets: list[Packet] = []
        self.headers: list[bytes] = []
        self.answers = True
        self._stopped = False
        tun.socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._run, name="intranet")
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped:
            try:
                data = self.tun.socket.recv(1 << 17)
            except TimeoutError:
                continue
            except OSError:
                return
            if not data:
                return
            packet = Packet(data[VIRTIO:])
            self.headers.append(data[:VIRTIO])
            self.packets.append(packet)
            if self.answers and packet.icmp_type == ECHO_REQUEST:
                self.send(icmpv6(packet.destination, packet.source, ECHO_REPLY, packet.payload[4:], hop_limit=64))

    def send(self, packet: bytes, header: bytes = bytes(VIRTIO)) -> None:
        self.tun.send(packet, header)

    def heard(self, wanted: Callable[[Packet], bool]) -> list[Packet]:
        return [packet for packet in list(self.packets) if wanted(packet)]

    def stop(self) -> None:
        self._stopped = True
        self.tun.socket.shutdown(socket.SHUT_RD)
        self._thread.join()


def from_source(source: IPv6Address) -> Callable[[Packet], bool]:
    return lambda packet: packet.source == source


@dataclass
class Site:
    """A server, its intranet and the files of its clients."""

    server: Server
    folder: Path
    intranet: Intranet
    mode: str
    others: list[Intranet] = field(default_factory=list)
    """The same intranet at the device queues of further workers."""
    peers: list[Peer] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.server.port

    def files(
        self, name: str, *, authority: Authority | None = None, lifetime: timedelta = timedelta(days=1)
    ) -> tuple[Path, Path]:
        """Certificate and key of a new identity."""
        chain, key, _ = (authority or self.server.authority).issue(name, lifetime=lifetime)
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        paths[0].write_text(chain)
        paths[1].write_text(key)
        return paths

    @property
    def trust(self) -> Path:
        path = self.folder / "trust.pem"
        path.write_text(self.server.authority.pem)
        return path

    def context(self, name: str | None = "client1", **how: Any) -> ssl.SSLContext:
        """TLS settings of a client; one without a certificate when `name` is None, or in mode None."""
        if name is None or self.mode == "none":
            return tls(self.trust)
        return tls(self.trust, *self.files(name, **how))

    def connect(self, name: str | None = "client1", *, context: ssl.SSLContext | None = None) -> Peer:
        """TLS is up, no request is sent."""
        peer = Peer.connect(
            "127.0.0.1", self.port, context=context or self.context(name), name=SERVER_NAME, timeout=30.0
        )
        peer.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peers.append(peer)
        return peer

    def open(self, name: str | None = "client1", *, context: ssl.SSLContext | None = None) -> Peer:
        """The tunnel is up, no address is made."""
        peer = self.connect(name, context=context)
        peer.open()
        return peer

    def join(self, name: str = "client1", *, context: ssl.SSLContext | None = None) -> Peer:
        """The tunnel is up with one address."""
        peer = self.open(name, context=context)
        peer.configure(wait=0.05)
        return peer

    def settle(self, *peers: Peer) -> None:
        """Takes in what is under way, such as probes of those who joined later."""
        for peer in peers:
            peer.everything(0.05)

    def drops(self, reason: str) -> int:
        count: int = self.server.stats()["link"]["drops"][reason]
        return count

    def happened(self, event: str) -> int:
        count: int = self.server.stats()["link"]["events"][event]
        return count

    def refused(self, count: int = 1) -> list[str]:
        """Waits for so many refused connections; their reasons."""
        return [event["reason"] for event in wait_for(lambda: self._refusals(count), f"{count} refusals")]

    def _refusals(self, count: int) -> list[dict[str, Any]]:
        events = self.server.events("refused")
        return events if len(events) >= count else []

    def down(self, count: int = 1) -> list[str]:
        """Waits for so many ended sessions; why they ended."""

        def enough() -> list[dict[str, Any]]:
            events = self.server.events("session_down")
            return events if len(events) >= count else []

        return [event["reason"] for event in wait_for(enough, f"{count} ended sessions")]

    def close(self) -> None:
        for intranet in (self.intranet, *self.others):
            intranet.stop()
        for peer in self.peers:
            peer.close()


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def make_site(start_server: Callable[..., Server], tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts servers with changes to `iphttps` as keywords, or to everything by a function."""
    sites: list[Site] = []

    def make(
        mode: str = "certificates",
        *,
        change: Callable[[dict[str, Any]], None] = lambda config: None,
        workers: int = 1,
        **iphttps: Any,
    ) -> Site:
        def configure(config: dict[str, Any]) -> None:
            config["iphttps"] |= {"authentication": mode} | iphttps
            config["http"]["paths"] = ["/portico/v1/trust", "/portico/v1/enrol"]
            change(config)

        server = start_server(configure, workers)
        folder = tmp_path / f"site{len(sites)}"
        folder.mkdir()
        intranet, *others = [Intranet(tun) for tun in server.tuns]
        site = Site(server, folder, intranet, mode, others)
        sites.append(site)
        return site

    yield make
    for site in sites:
        site.close()


@pytest.fixture(params=["certificates", "none"])
def mode(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
def site(make_site: Callable[..., Site], mode: str) -> Site:
    """A server, once in each authentication mode."""
    return make_site(mode)


class Dissector:
    """tshark, as an opinion on packets that nobody here wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fields(self, packet: bytes, *names: str) -> dict[str, list[str]]:
        """The values of fields, in the order they occur; also `faults`: malformed parts and warnings."""
        faults = ["_ws.malformed", "_ws.expert.message", "icmpv6.checksum.status"]
        path = self.folder / "packet.pcap"
        head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 229)  # LINKTYPE_IPV6
        path.write_bytes(head + struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet)
        command = ["tshark", "-r", str(path), "-T", "fields"]
        command += ["-E", "occurrence=a", "-E", "aggregator=|", "-E", "separator=/t"]
        for name in [*names, *faults]:
            command += ["-e", name]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        # Versions write truth as True or as 1.
        output = run.stdout.rstrip("\n").replace("True", "1").replace("False", "0")
        cells = [cell.split("|") if cell else [] for cell in output.split("\t")]
        values = dict(zip([*names, *faults], cells, strict=True))
        assert values.pop("icmpv6.checksum.status") == ["1"], "the checksum is wrong"
        values["faults"] = values.pop("_ws.malformed") + values.pop("_ws.expert.message")
        return values


@pytest.fixture
def dissector(tmp_path: Path) -> Dissector:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    return Dissector(tmp_path)


def read_status(client: Client) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(client.tunnel.status())
    return status


def is_echo_reply(packet: Packet) -> bool:
    return packet.protocol == ICMPV6 and packet.icmp_type == ECHO_REPLY


def until_closed(peer: Peer) -> list[Packet]:
    """Everything that comes before the server closes the connection."""
    packets = []
    while True:
        try:
            packets.append(peer.receive())
        except Refused:
            return packets
