"""What scenarios of the cluster watch while a server is in trouble: two hundred tunnels, and what one client does."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from portico.lab import deployment, faults, wait
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from portico.lab.probe.tap import Tap
from portico.lab.services import nginx
from portico.management.client.transport import PAGE
from tests.lab.helpers import APP4, APP6, ECHO_PORT, LONGEST, SERVER_ADDRESS, Download, reaches, start_download
from tests.peers.crowd import Crowd

SERVERS = ("da1", "da2", "da3")
TUNNELS = 200
PINGING = TUNNELS // 2
PING_MS = 100
APP6_ADDRESS = "fd7c:1a2b:3c4d:1::6"
SIZE = 60_000_000
RATE = "12M"  # bytes a second: longer than anything here takes
OLD = 6.0
"""Seconds. A link that dies within 5 s of coming up has no short waits (docs/protocol-notes.md): no subject here."""
ANSWERS = f"tcp src port 443 and src host {SERVER_ADDRESS} and less 400"
"""Who answers shows in short frames as well; those of a download are too many for a tap on a busy machine."""


def living(cluster: Lab) -> Host:
    """A server that can be asked."""
    hosts = (cluster.host(name) for name in SERVERS)
    return next(host for host in hosts if host.alive and not faults.frozen(host))


def tunnels(cluster: Lab, ask: str | None = None) -> Counter[str]:
    """How many tunnels each server has, as one of them (any, when not given) knows."""
    host = cluster.host(ask) if ask is not None else living(cluster)
    return Counter(session["server"] for client in _clients(host) for session in client["sessions"])


def server_of(cluster: Lab, client: str = "client1", ask: str | None = None) -> str:
    """The server that a client's tunnel is on.

    Raises:
        ValueError: there is none, or several.
    """
    host = cluster.host(ask) if ask is not None else living(cluster)
    (server,) = [session["server"] for one in _clients(host) if one["name"] == client for session in one["sessions"]]
    return str(server)


def _clients(host: Host) -> list[dict[str, Any]]:
    """Every client, as a server knows it."""
    page = deployment.ask_server(host, "/v1/clients", limit=PAGE)
    assert page["next"] is None
    return list(page["clients"])


def status(cluster: Lab, name: str) -> dict[str, Any]:
    """The cluster as a server sees it; it must answer."""
    return wait.until(
        f"{name} to answer",
        lambda: deployment.cluster_status(cluster.host(name)),
        evidence=lambda: cluster.host(name).log_tail(deployment.SERVER),
    )


def server_in(seen: dict[str, Any], name: str) -> dict[str, Any]:
    """A server in a status."""
    return next(dict(server) for server in seen["servers"] if server["name"] == name)


def settle(cluster: Lab, crowd: Crowd) -> None:
    """Every server runs and serves, every client has its tunnel; then counting begins."""
    deployment.wait_for_convergence(cluster, SERVERS, timeout=60.0)
    crowd.wait(TUNNELS, timeout=60.0)
    client = cluster.host("client1")
    wait.until("client1 to reach the intranet", lambda: reaches(client), timeout=60.0)
    wait.until("its link to be old", lambda: time.time() - deployment.client_status(client)["since"] > OLD)
    crowd.profile({"kind": "ping", "interval_ms": PING_MS}, 0, PINGING)
    crowd.profile({"kind": "idle"}, PINGING, TUNNELS)
    crowd.figures(reset=True)


class Session:
    """A TCP session inside the tunnel of a client, idle most of the time. Use as a context manager."""

    def __init__(self, client: Host, address: str) -> None:
        with client.network():
            self._socket = socket.create_connection((address, ECHO_PORT), timeout=10.0)
        self._said = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def echoes(self, timeout: float = 20.0) -> None:
        """Says something new and waits for the echo.

        Raises:
            OSError: the session has ended, or nothing comes in time.
        """
        self._said += 1
        words = f"still here {self._said}\n".encode()
        self._socket.settimeout(timeout)
        self._socket.sendall(words)
        heard = b""
        while len(heard) < len(words):
            more = self._socket.recv(1024)
            if not more:
                raise ConnectionError("the session has ended")
            heard += more
        assert heard == words


class Gaps:
    """Pings from a client, 50 a second, and the longest time without an answer. Use as a context manager."""

    def __init__(self, client: Host, address: str) -> None:
        self._client, self._address = client, address
        self.longest = 0.0

    def __enter__(self) -> Self:
        self._process = self._client.popen(
            ["ping", "-6", "-D", "-n", "-i", "0.02", self._address],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        first = self._process.stdout.readline(), self._process.stdout.readline()
        assert "bytes from" in first[1], first
        return self

    def __exit__(self, *_: object) -> None:
        # nsenter does not pass signals on, and ping ends when nobody reads
        out = self._process.stdout
        assert out is not None
        ends = time.time()
        times = [ends]
        for line in out:
            found = re.match(r"\[(\d+\.\d+)\] .* bytes from", line)
            if found:
                times.append(float(found[1]))
                if times[-1] > ends:
                    break
        out.close()
        self._process.kill()
        self._process.wait()
        answers = sorted(times)
        self.longest = max((after - before for before, after in pairwise(answers)), default=0.0)


@dataclass
class Trouble:
    """A server is in trouble within the block.

    Attributes:
        server: the one that client1's tunnel is on.
        others: the survivors.
        tunnels: how many of the crowd's are on it.
    """

    server: str
    others: tuple[str, ...]
    tunnels: int


@contextmanager
def continuity(cluster: Lab, crowd: Crowd, checksum: str, what: str, *, everybody: bool = True) -> Iterator[Trouble]:
    """The block does something to the server that client1 is on; nobody may lose more than a moment.

    A download of client1 and its idle TCP session outlast it, names are resolved, every tunnel of the crowd is back, no
    attempt of a client to dial is answered by two servers. The figures are printed.

    Args:
        checksum: of the large file on app6.
        what: heads the figures.
        everybody: every tunnel of the server ends, and must have been dialled again.
    """
    client = cluster.host("client1")
    server = server_of(cluster)
    trouble = Trouble(server, tuple(name for name in SERVERS if name != server), tunnels(cluster)[server] - 1)
    assert trouble.tunnels > 0
    with (
        Tap(cluster.state, list(SERVERS), "inet", ANSWERS) as tap,
        Session(client, APP6_ADDRESS) as session,
        Gaps(client, APP6_ADDRESS) as gaps,
    ):
        session.echoes()
        download = _download(client)
        crowd.figures(reset=True)
        yield trouble
        if everybody:
            wait.until(
                f"{trouble.tunnels} tunnels to be dialled again",
                lambda: crowd.figures()["since_reset"]["count"] >= trouble.tunnels,
                timeout=60.0,
                evidence=lambda: evidence(cluster, crowd),
            )
        crowd.wait(TUNNELS, timeout=60.0)
        figures = crowd.figures()
        session.echoes()
        assert reaches(client, APP4, 5.0) and reaches(client, APP6, 5.0), "names are resolved, both kinds are reached"
        download.finish()
    back = figures["since_reset"]
    print(
        f"{what}: {trouble.tunnels} tunnels of {server}; {back['count']} dialled again and were back after "
        f"{back.get('p50_ms', 0)} ms (median), {back.get('p99_ms', 0)} ms (p99), {back.get('max_ms', 0)} ms (longest); "
        f"client1 heard nothing for {gaps.longest * 1000:.0f} ms; lost {figures['lost']}, failed {figures['failed']}"
    )
    assert (tap.answers.twice, tap.missed) == (0, 0), tap.answers.examples
    assert nginx.checksum(download.file) == checksum
    assert back.get("p99_ms", 0.0) < LONGEST * 1000, figures
    assert gaps.longest < LONGEST


def everybody_answers(crowd: Crowd) -> None:
    """Every tunnel of the crowd carries packets now, those of idle clients too, and loses none."""
    # A new profile forgets what is under way: what is lost from here on was sent from here on.
    crowd.profile({"kind": "ping", "interval_ms": PING_MS}, 0, TUNNELS)
    before = crowd.figures()
    # Longer than the crowd waits for an answer, so that none that is missing is overlooked.
    wanted = before["round_trip"]["count"] + 25 * TUNNELS
    wait.until("answers to everybody", lambda: crowd.figures()["round_trip"]["count"] >= wanted, timeout=60.0)
    after = crowd.figures()
    assert after["ping_losses"] == before["ping_losses"] and after["lost"] == before["lost"], (before, after)


def one_tunnel_each(cluster: Lab, more: int = 0) -> Counter[str]:
    """Waits until every client, of the crowd and client1, has one tunnel on one server; returns how many each has."""
    found: Counter[str] = Counter()

    def there() -> bool:
        nonlocal found
        found = tunnels(cluster)
        return sum(found.values()) == TUNNELS + 1 + more

    wait.until("one tunnel for each client", there, timeout=60.0, interval=0.2, evidence=lambda: str(found))
    return found


def evidence(cluster: Lab, crowd: Crowd) -> str:
    """The crowd's figures and what servers have written."""
    logs = [cluster.host(name).log_tail(deployment.SERVER, 20) for name in SERVERS]
    return "\n".join([str(crowd.figures()), *logs])


def _download(client: Host) -> Download:
    started = start_download(client, f"http://{APP6}/{nginx.LARGE}", rate=RATE)
    wait.until("the download to run", lambda: started.size() > SIZE // 20, timeout=60.0)
    return started
