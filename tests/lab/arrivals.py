"""Datagrams of many clients sent into a deployed cluster, and which server got each of them."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Address
from typing import Literal, Self

from portico.lab import wait
from portico.lab.hosts import Host
from portico.lab.wait import NeverHappened
from tests.lab.helpers import SERVER_ADDRESS
from tests.lab.nlb_network import framed, packet, strangers, udp

__all__ = ["NLB_MODES", "Arrivals", "Client", "Sniffer", "clients_of", "hardware", "owners", "send_all", "sender"]

PORT = 40_009
"""Of UDP; nothing else is there."""
BATCH = 100
LOST = 2.0
"""Seconds after which what has not arrived was dropped."""
_SO_RCVBUFFORCE = 33
NLB_MODES: dict[str, Literal["unicast", "multicast", "igmp"]] = {
    "unicast": "unicast",
    "multicast": "multicast",
    "igmp_multicast": "igmp",
}

Client = tuple[IPv4Address, int]


class Arrivals:
    """What reaches a server behind its filter, as long as it is open. Nobody answers."""

    def __init__(self, host: Host) -> None:
        self.clients: Counter[Client] = Counter()
        with host.network():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        self._socket.setblocking(False)
        self._socket.bind((SERVER_ADDRESS, PORT))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def look(self) -> int:
        """Takes what came; returns how many came until now."""
        with suppress(BlockingIOError):
            while True:
                _, (address, port) = self._socket.recvfrom(16)
                self.clients[IPv4Address(address), port] += 1
        return self.clients.total()


class Sniffer:
    """Frames that the switch sends to a host, as long as it is open."""

    def __init__(self, host: Host) -> None:
        with host.network():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._socket.bind(("eth0", 3))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
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


def clients_of(count: int, seed: int) -> list[Client]:
    """Different clients; the same ones for the same seed."""
    return [(address, port) for address, port in strangers(4, count, seed) if isinstance(address, IPv4Address)]


def send_all(
    send: Callable[[bytes], object],
    clients: Iterable[Client],
    macs: tuple[bytes, bytes],
    arrivals: Mapping[str, Arrivals],
) -> None:
    """Sends a datagram of each client to the VIP, no faster than they are taken: the backlog of a CPU is 1000 packets,
    and a switch that floods makes several of each. Ends where one does not arrive; the caller finds what is missing.

    Args:
        macs: of the sender and of the cluster.
    """
    vip = IPv4Address(SERVER_ADDRESS)
    source_mac, cluster_mac = macs
    waiting = list(clients)
    for start in range(0, len(waiting), BATCH):
        batch = waiting[start : start + BATCH]
        goal = _arrived(arrivals) + len(batch)
        for source, port in batch:
            send(framed(source_mac, cluster_mac, packet(source, vip, 17, udp(source, vip, port, PORT, b"x"))))
        try:
            wait.until("arrival", partial(_reached, arrivals, goal), timeout=LOST, interval=0.002)
        except NeverHappened:
            return


def _reached(arrivals: Mapping[str, Arrivals], goal: int) -> bool:
    return _arrived(arrivals) >= goal


def _arrived(arrivals: Mapping[str, Arrivals]) -> int:
    return sum(one.look() for one in arrivals.values())


def owners(arrivals: Mapping[str, Arrivals], clients: Sequence[Client]) -> dict[str, set[Client]]:
    """The clients of each server.

    Raises:
        AssertionError: somebody's packet was accepted by two, or by a server that was sent none.
    """
    for one in arrivals.values():
        one.look()
    found = {name: set(one.clients) for name, one in arrivals.items()}
    everybody: Counter[Client] = sum((one.clients for one in arrivals.values()), Counter())
    twice = [client for client, times in everybody.items() if times > 1]
    assert not twice, f"accepted twice: {[(c, [n for n in found if c in found[n]]) for c in twice[:5]]}"
    assert everybody.keys() <= set(clients)
    return found


@contextmanager
def sender(host: Host) -> Iterator[Callable[[bytes], object]]:
    """Sends frames from a host's card on the Internet's side."""
    with host.network():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        raw.bind(("eth0", 0))
    with raw:
        yield raw.send
