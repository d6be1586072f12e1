"""The gateway over real TUN queues, in a network namespace of its own, and two workers with sessions on both."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from .conftest import HOST, PREFIX, Client, Server, _gateway, listeners, server_config, udp, wait_for

T = TypeVar("T")

_TUNSETIFF = 0x400454CA
_TUN, _NO_PI, _MULTI_QUEUE, _VNET_HDR = 0x0001, 0x1000, 0x0100, 0x4000
_CLONE_NEWNET = 0x40000000

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/net/tun").exists(), reason="needs root and /dev/net/tun"
)


def in_a_namespace(work: Callable[[], T]) -> T:
    """Runs `work` on a thread with an empty network; threads that it starts share it, and it goes with the last."""

    def enter() -> T:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        run("ip link set lo up")
        return work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(enter).result()


def run(command: str) -> None:
    subprocess.run(command, shell=True, check=True)


def queue(name: str, flags: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return fd


def workers_of(server: Server) -> dict[int, set[str]]:
    """Client addresses by worker: a session's number tells its worker."""
    found: dict[int, set[str]] = {0: set(), 1: set()}
    for session in server.sessions():
        found[session["session"] % 2] |= {a for a in session["addresses"] if a.startswith(PREFIX)}
    return found


@needs_namespaces
def test_sessions_of_two_workers_talk_through_real_queues(
    authority: object, start_client: Callable[..., Client]
) -> None:
    def work() -> None:
        queues = [queue("pt", _TUN | _NO_PI | _MULTI_QUEUE | _VNET_HDR) for _ in range(2)]
        run(
            "sysctl -qw net.ipv6.conf.pt.addr_gen_mode=1 net.ipv6.conf.all.forwarding=1;"
            f"ip link set pt mtu 1280 up; ip addr add {PREFIX}::1/64 dev pt nodad; ip addr add {HOST}/128 dev lo nodad"
        )
        config = server_config(authority, 2)  # type: ignore[arg-type]
        fds, port = listeners(2)
        gateway = _gateway.Gateway(
            json.dumps(config), tunnel_fds=queues, nat64_fds=[], listener_fds=fds, dns_udp_fds=[], dns_tcp_fds=[]
        )
        server = Server(authority, config, [], [], port, gateway)  # type: ignore[arg-type]
        echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        echo.bind((HOST, 2000))
        echo.settimeout(30.0)
        clients: list[tuple[Client, str]] = []
        try:
            for number in range(1, 13):
                client = start_client(server, link_local=f"fe80::c:{number:x}")
                client.wait_up()
                address = f"{PREFIX}::c:{number:x}"
                clients.append((client, address))
                # to the server on the host, and back
                client.tun.send(udp(address, HOST, b"question"))
                _, sender = echo.recvfrom(2048)
                assert sender[0] == address
                echo.sendto(b"answer", sender)
                assert client.tun.packet()[48:] == b"answer"
            spread = workers_of(server)
            assert spread[0] and spread[1], "the kernel spreads connections over both listeners"
            for client, source in clients:
                for other, destination in clients:
                    if other is not client:
                        text = f"{source} to {destination}".encode()
                        client.tun.send(udp(source, destination, text))
                        assert other.tun.packet()[48:] == text
            stats = server.stats()
            # the kernel's own multicast listener reports are the link's to drop
            drops = {name for name, count in stats["gateway"].items() if name.startswith("drop") and count}
            assert drops <= {"drop_link"}
            assert stats["offloads"]["tunnel"][:2] == ["csum", "tso"]
            assert stats["tunnel"]["refused"] == 0
        finally:
            for client, _ in clients:
                client.tunnel.close()
            gateway.close()
            echo.close()

    in_a_namespace(work)


@needs_namespaces
def test_a_queue_without_virtio_headers_is_refused_by_name(authority: object) -> None:
    def work() -> None:
        fds, _ = listeners(1)
        with pytest.raises(OSError, match="IFF_VNET_HDR"):
            _gateway.Gateway(
                json.dumps(server_config(authority)),  # type: ignore[arg-type]
                tunnel_fds=[queue("bare", _TUN | _NO_PI)],
                nat64_fds=[],
                listener_fds=fds,
                dns_udp_fds=[],
                dns_tcp_fds=[],
            )

    in_a_namespace(work)


def thread_of(name: str) -> int:
    """The number of this process's youngest thread of that name."""
    tasks = Path("/proc/self/task").iterdir()
    return max(int(task.name) for task in tasks if (task / "comm").read_text().strip() == name)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_a_worker_that_is_behind_costs_only_its_own_packets(
    start_server: Callable[..., Server], start_client: Callable[..., Client]
) -> None:
    """Packets for sessions of a worker that gets no processor fill its queue, are dropped and counted."""
    server = start_server(workers=2)
    clients: list[tuple[Client, str]] = []

    def on_both() -> bool:
        number = len(clients) + 1
        address = f"{PREFIX}::c:{number:x}"
        client = start_client(server, link_local=f"fe80::c:{number:x}")
        client.wait_up()
        client.tun.send(udp(address, HOST, b"here"))
        wait_for(lambda: any(address in found for found in workers_of(server).values()), "the address")
        clients.append((client, address))
        spread = workers_of(server)
        return bool(spread[0] and spread[1])

    wait_for(on_both, "sessions on both workers", 30.0)
    spread = workers_of(server)
    near = next((client, address) for client, address in clients if address in spread[0])
    far = next((client, address) for client, address in clients if address in spread[1])
    busy = min(os.sched_getaffinity(0))
    worker = thread_of("portico-worker1")
    spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(spinner.pid, {busy})
        os.sched_setaffinity(worker, {busy})
        os.sched_setscheduler(worker, os.SCHED_IDLE, os.sched_param(0))
        packet = udp(HOST, far[1], bytes(200))

        def full() -> int:
            for _ in range(500):
                server.tuns[0].send(packet)
            return int(server.stats()["gateway"]["drop_handover_full"])

        server.tuns[0].socket.settimeout(30.0)
        wait_for(full, "drops at the full queue", 30.0)
        to_near = udp(HOST, near[1], b"not held up")
        server.tuns[0].send(to_near)
        assert near[0].tun.packet() == to_near
    finally:
        spinner.kill()
        spinner.wait()
        os.sched_setscheduler(worker, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(worker, os.sched_getaffinity(0))
    # of another flow, so that it is not merged with what waits
    last = udp(HOST, far[1], b"served again", (9, 9))
    deadline = time.monotonic() + 60.0
    got = b""
    while got != last:
        assert time.monotonic() < deadline
        try:
            got = far[0].tun.packet(0.5)
        except TimeoutError:
            server.tuns[0].send(last)
