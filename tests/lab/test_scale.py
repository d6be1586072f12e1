"""Thousands of tunnels on one server. `make bench-capacity` does it with ten thousand and writes the figures down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from portico.lab import deployment, wait
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from tests.lab.helpers import SERVER_ADDRESS, gateway_pid
from tests.peers.crowd import Credentials, Crowd
from tests.peers.enrolment import enrol

SERVER_IN_TUNNEL = "fd7c:1a2b:3c4d:1000::1"
SOURCES = [f"203.0.113.{number}" for number in range(200, 208)]
CROWD = 2000
STORM = 1000
KIB_PER_TUNNEL = 16

pytestmark = pytest.mark.alone

StartCrowd = Callable[..., Any]


@pytest.fixture(scope="module")
def start_crowd(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> StartCrowd:
    """`with start_crowd(key=value) as crowd:` dials from the Internet, from several addresses."""
    internet = lab.host("internet")
    for address in SOURCES:
        internet.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
    token = deployment.enrolment_token(lab.host("da1"), "crowd")
    directory = tmp_path_factory.mktemp("crowd")
    with internet.network():
        identity = enrol(SERVER_ADDRESS, token, directory)
    credentials = Credentials(identity.trust, identity.certificate, identity.key)

    @contextmanager
    def start(**options: Any) -> Iterator[Crowd]:
        network = lab.state.netns("internet")
        targets = [f"{SERVER_ADDRESS}:443"]
        with Crowd(network, directory, targets, credentials, SERVER_IN_TUNNEL, sources=SOURCES, **options) as crowd:
            yield crowd
        wait.until("the server to forget them", lambda: _stats(lab.host("da1"))["sessions"] <= 1, timeout=30.0)

    return start


def test_idle_tunnels_cost_little_memory_and_no_time(server: Host, start_crowd: StartCrowd) -> None:
    pid = gateway_pid(server)
    with start_crowd() as crowd:
        before = _anonymous_kib(server, pid)
        crowd.connect(CROWD)
        seconds = crowd.wait(CROWD)
        each = (_anonymous_kib(server, pid) - before) / CROWD
        assert len(set(crowd.addresses())) == CROWD
        began, spent = time.monotonic(), _cpu_seconds(server, pid)
        listed = server.json("portico", "clients", "list", "--json", timeout=60.0)
        assert sum(len(client["sessions"]) for client in listed["clients"]) == CROWD + 1
        time.sleep(1.0)
        busy = _cpu_seconds(server, pid)
        time.sleep(2.0)
        idle = (_cpu_seconds(server, pid) - busy) / 2.0
        assert crowd.figures()["lost"] == {}
    print(f"{CROWD} tunnels in {seconds:.1f} s, {each:.1f} KiB each, {idle:.1%} of a core when idle")
    print(f"listing them cost {busy - spent:.2f} s of the gateway in {time.monotonic() - began:.1f} s")
    assert each <= KIB_PER_TUNNEL
    assert idle <= 0.03


def test_a_reconnect_storm_is_served_in_order_and_disturbs_nobody(server: Host, start_crowd: StartCrowd) -> None:
    """Everybody dials at once: all come up, none is refused, and who is up already hardly notices."""
    with start_crowd() as calm, start_crowd(first=1_000_000, reconnect="at_once", resume=True) as storm:
        calm.connect(20)
        calm.wait(20)
        calm.profile({"kind": "ping", "interval_ms": 100})
        storm.connect(STORM)
        storm.wait(STORM)
        figures = storm.figures(reset=True)
        assert figures["failed"] == {} and figures["lost"] == {}, figures
        pings = calm.figures(reset=True)
        assert pings["ping_losses"] == 0 and pings["lost"] == {}, pings
        # Both crowds and the server share the processors, so a few wait for others' handshakes; most must not.
        assert pings["round_trip"]["p50_ms"] < 100.0 and pings["round_trip"]["p90_ms"] < 1000.0, pings["round_trip"]

        calm.profile({"kind": "idle"})
        server.run("kill", "-9", str(gateway_pid(server)))
        wait.until("the tunnels to break", lambda: storm.state()["reachable"] < STORM, timeout=30.0)
        seconds = storm.wait(STORM, timeout=30.0)
        figures = storm.figures()
        assert figures["failed"] == {}, figures
        resumed = figures["resumed"] / STORM
        print(f"{STORM} tunnels are back {seconds:.1f} s after the gateway's death, {resumed:.0%} resumed; {figures}")
        assert resumed > 0.9


def _stats(server: Host) -> dict[str, Any]:
    counters: dict[str, Any] = server.json("portico", "server", "status", "--json")["counters"]
    return counters


def _anonymous_kib(server: Host, pid: int) -> int:
    for line in server.output("cat", f"/proc/{pid}/status").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise LookupError(f"/proc/{pid}/status has no RssAnon")


def _cpu_seconds(server: Host, pid: int) -> float:
    fields = Path(f"/proc/{_outer(server, pid)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100.0


def _outer(server: Host, pid: int) -> int:
    """The machine's number of a process of a host."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "status").read_text()
            same = (entry / "ns/pid").readlink() == Path(f"/proc/{server.pid}/ns/pid").readlink()
        except OSError:
            continue
        if same and f"\t{pid}\n" in status.partition("NSpid:")[2]:
            return int(entry.name)
    raise LookupError(f"{server.name} has no process {pid}")
