"""Datagrams of many clients sent into a deployed cluster, and which server's stack got each of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from types import TracebackType
from typing import Literal, Self

from portico.balancing.nlb.nft import open_nftables
from portico.lab.hosts import Host
from tests.lab.helpers import SERVER_ADDRESS
from tests.lab.nlb_network import deliver, framed, packet, strangers, udp

__all__ = ["NLB_MODES", "Arrivals", "Sniffer", "deliver", "framed", "hardware", "probe", "sender", "strangers"]

PORT = 40_009
"""Nobody listens there."""
TABLE = "lab_arrivals"
NLB_MODES: dict[str, Literal["unicast", "multicast", "igmp"]] = {
    "unicast": "unicast",
    "multicast": "multicast",
    "igmp_multicast": "igmp",
}

Client = tuple[IPv4Address, int]


class Arrivals:
    """What reaches a server's stack behind its filter, by client; it goes no further."""

    def __init__(self, host: Host) -> None:
        with host.network():
            self._nft = open_nftables()

    def __enter__(self) -> Self:
        self._nft.run(
            f"table inet {TABLE} {{\n"
            "counter arrived { }\n"
            "set clients { type ipv4_addr . inet_service; size 65535; flags dynamic; }\n"
            "chain arrive { type filter hook prerouting priority -400;\n"
            f"udp dport {PORT} add @clients {{ ip saddr . udp sport }}\n"
            f"udp dport {PORT} counter name arrived drop\n"
            "}\n}\n"
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nft.run(f"delete table inet {TABLE}\n")
        self._nft.close()

    def count(self) -> int:
        found = self._nft.query(f"list counter inet {TABLE} arrived")
        return int(next(item["counter"] for item in found if "counter" in item)["packets"])

    def clients(self) -> set[Client]:
        found = self._nft.query(f"list set inet {TABLE} clients")
        entries = next(item["set"] for item in found if "set" in item).get("elem", ())
        return {(IPv4Address(address), int(port)) for address, port in (entry["concat"] for entry in entries)}

    def forget(self) -> None:
        self._nft.run(f"flush set inet {TABLE} clients\nreset counter inet {TABLE} arrived\n")


class Sniffer:
    """Frames that the switch sends to a host, as long as it is open."""

    def __init__(self, host: Host) -> None:
        with host.network():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._socket.bind(("eth0", 3))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
        self._socket.setblocking(False)

    def frames(self) -> list[bytes]:
        found: list[bytes] = []
        with self._socket:
            while True:
                try:
                    frame, address = self._socket.recvfrom(128)
                except BlockingIOError:
                    return found
                if address[2] != 4:
                    found.append(frame)


def hardware(host: Host) -> bytes:
    """The MAC of a host's card on the Internet's side."""
    with host.network(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as asking:
        asking.bind(("eth0", 0))
        found: bytes = asking.getsockname()[4]
        return found


def probe(source: object, port: int) -> bytes:
    """A datagram from a client to the VIP."""
    assert isinstance(source, IPv4Address)
    vip = IPv4Address(SERVER_ADDRESS)
    return packet(source, vip, 17, udp(source, vip, port, PORT, b"x"))


@contextmanager
def sender(host: Host) -> Iterator[Callable[[bytes], object]]:
    """Sends frames from a host's card on the Internet's side."""
    with host.network():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        raw.bind(("eth0", 0))
    with raw:
        yield raw.send
