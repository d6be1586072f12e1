"""What the load-balancing filter costs: the same packets to one server with and without it.

The gateway's namespace stands for a server of the cluster: the VIP is on its loopback device, and the client's frames
carry the cluster MAC with the filter and the interface's own without. A server of a cluster of 2, 8 or 32 owns a half,
an eighth or a thirty-second of the buckets, among them the client's.

One thread sends and takes in again on the other side, so that its time is that of all the work that a packet makes:
sending, the filter, the stack, a socket. Between two programs the difference would drown in where the
scheduler puts them. Short slices with and without take turns, and medians of thousands of batches count: whatever slows
the machine down for a while meets both, or is left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median

from benchmarks.loads import Figures
from benchmarks.network import CLIENT_OUTER, CONGESTION_CONTROL, Network
from portico.balancing.nlb.choose import Preference, choose
from portico.balancing.nlb.hash import bucket_of
from portico.balancing.nlb.plan import BUCKETS, BalancingPlan, NicPlan, Owned, Rule, Share

VIP = "198.51.100.100"
PORT = 5201
SEED = 0x9E3779B9
LEASE_MS = 60_000
SLICE = 0.25
"""Seconds of load between two changes of the filter."""
CHANGE = 0.15
"""About how long a change takes."""
BATCH, PAYLOAD = 64, 64
CHUNK = 256 << 10

_SETTINGS: dict[str, tuple[int, str]] = {
    "filtered": (2, "bulk"),
    "unfiltered": (0, "bulk"),
    "filtered_small": (2, "small"),
    "unfiltered_small": (0, "small"),
    "small_of_2": (2, "small"),
    "small_of_8": (8, "small"),
    "small_of_32": (32, "small"),
}
"""Of how many servers this is one (0: no filter), and which load."""

FIGURES = frozenset(_SETTINGS)


def share(servers: int) -> Share:
    """Every `servers`-th bucket, as moves leave them, from the client's on."""
    bucket = bucket_of(IPv4Address(CLIENT_OUTER), 0, "single", SEED)
    return Share(owned=frozenset((bucket + n * servers) % BUCKETS for n in range(max(1, BUCKETS // servers))))


def cost(wanted: frozenset[str], seconds: float) -> float:
    """About how long a turn takes."""
    return len(wanted) * _slices(seconds) * (SLICE + CHANGE)


def turn(preference: Preference) -> Callable[[Network, frozenset[str], float], Figures]:
    """A turn with one of the filters. Raises RuntimeError: packets were lost; Unavailable: the kernel refuses it."""

    def measure(net: Network, wanted: frozenset[str], seconds: float) -> Figures:
        samples: dict[str, list[float]] = {name: [] for name in sorted(wanted)}
        with _cluster(net), _one_core():
            for number in range(_slices(seconds)):
                # There and back: who comes first is not always the same.
                for name in list(samples)[:: 1 if number % 2 == 0 else -1]:
                    servers, load = _SETTINGS[name]
                    with _filtered(net, preference, servers):
                        samples[name].append((_bulk if load == "bulk" else _small)(net))
        return {name: median(values) for name, values in samples.items()}

    return measure


def _slices(seconds: float) -> int:
    return max(4, round(seconds / SLICE))


@contextlib.contextmanager
def _cluster(net: Network) -> Iterator[None]:
    net.call("gateway", "ip", "addr", "add", f"{VIP}/32", "dev", "lo")
    net.call("client", "ip", "route", "add", f"{VIP}/32", "dev", "outer", "congctl", CONGESTION_CONTROL)
    try:
        yield
    finally:
        net.call("client", "ip", "route", "del", f"{VIP}/32", "dev", "outer", check=False)
        net.call("gateway", "ip", "addr", "del", f"{VIP}/32", "dev", "lo", check=False)


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """A packet is worked on where it was sent: on a core that stays the same."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _filtered(net: Network, preference: Preference, servers: int) -> Iterator[None]:
    """The filter of one of so many servers on the gateway's outer interface; none of 0."""
    own = bytes.fromhex(net.call("gateway", "cat", "/sys/class/net/outer/address").strip().replace(":", ""))
    nic = NicPlan("outer", "external", own, (IPv4Address(VIP),))
    entry = [VIP, "lladdr", (nic.cluster_mac if servers else own).hex(":"), "dev", "outer", "nud", "permanent"]
    net.call("client", "ip", "neigh", "replace", *entry)
    if not servers:
        yield
        return
    mine = share(servers)
    with _inside(net.namespace("gateway")):
        filter_ = choose(preference).filter
        filter_.install(BalancingPlan((nic,), (Rule(),), SEED, lease_ms=LEASE_MS), Owned(1, (mine,), mine))
    try:
        yield
        if not filter_.counters()["outer"].accepted:
            raise RuntimeError("the load did not pass the filter")
    finally:
        with _inside(net.namespace("gateway")):
            filter_.remove()


def _small(net: Network) -> float:
    """Datagrams a second from socket to socket, a system call for each, as programs do it."""
    with _inside(net.namespace("client")):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with _inside(net.namespace("gateway")):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.bind((VIP, PORT))
        receiver.setblocking(False)
        sender.connect((VIP, PORT))
        data, send, receive = bytes(PAYLOAD), sender.send, receiver.recv

        def batch() -> None:
            for _ in range(BATCH):
                send(data)
                receive(PAYLOAD)  # BlockingIOError would be a lost packet

        return BATCH / _median_time(batch)


def _bulk(net: Network) -> float:
    """Gbit/s of one TCP stream from the client to the server."""
    with _inside(net.namespace("gateway")):
        listener = socket.create_server((VIP, PORT))
    with _inside(net.namespace("client")):
        sender = socket.socket()
    with listener, sender:
        sender.settimeout(10.0)
        sender.connect((VIP, PORT))
        receiver, _ = listener.accept()
        data, room = bytes(CHUNK), bytearray(CHUNK)

        def chunk() -> None:
            sent = sender.send(data)
            while sent:
                sent -= receiver.recv_into(room, sent)

        with receiver:
            receiver.settimeout(10.0)
            return CHUNK * 8 / _median_time(chunk) / 1e9


def _median_time(work: Callable[[], None]) -> float:
    times = []
    end = time.perf_counter() + SLICE
    while (begin := time.perf_counter()) < end:
        work()
        times.append(time.perf_counter() - begin)
    return median(times)


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """This thread in another network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before, Path(f"/run/netns/{namespace}").open() as there:
        _enter(libc, there.fileno())
        try:
            yield
        finally:
            _enter(libc, before.fileno())


def _enter(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, 0x4000_0000) != 0:  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "a network namespace cannot be entered")
