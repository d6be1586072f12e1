"""How soon clients are back when their server is in trouble: three servers and two hundred clients, in a lab.

Everybody shares this machine's cores: servers, clients and their TLS handshakes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from benchmarks.loads import Figures
from benchmarks.network import Network
from portico.balancing.nlb import mac
from portico.lab import deployment, faults, switch, wait
from portico.lab.lab import Lab, destroy
from portico.lab.topology import Switch, build, crowd_sources
from tests.lab.continuity import tunnels
from tests.peers.crowd import Credentials, Crowd
from tests.peers.enrolment import enrol

VIP, INTRANET = "203.0.113.11", "fd7c:1a2b:3c4d:1::6"
SERVERS = ("da1", "da2", "da3")
CLIENTS = 200
REST = 6.0
"""Seconds in which what follows two hundred handshakes (accounting, answers to late neighbours) comes to rest."""
OTHERS = 1
"""The lab's own client, which is not of the crowd."""
PATIENCE = 60.0
FIGURES = frozenset(
    {"back_power", "back_gateway", "back_agent", "back_frozen", "back_cut_out", "back_cut_in", "deaf_s"}
)
COST = 200.0
"""About how many seconds a turn takes, half of them for the lab."""


@dataclass
class _Cluster:
    lab: Lab
    crowd: Crowd

    def settle(self) -> None:
        """All servers serve their share of the clients, and every client has answers.

        Those that moved in the last trouble stay where they are for as long as their tunnels live: all dial anew.
        """
        deployment.wait_for_convergence(self.lab, SERVERS, timeout=PATIENCE)
        self.crowd.disconnect(CLIENTS)
        wait.until("the former tunnels to be gone", lambda: tunnels(self.lab).total() <= OTHERS, timeout=PATIENCE)
        self.crowd.connect(CLIENTS)
        self.crowd.profile({"kind": "ping", "interval_ms": 100}, 0, CLIENTS // 2)
        self.crowd.profile({"kind": "idle"}, CLIENTS // 2, CLIENTS)
        self.crowd.wait(CLIENTS)
        time.sleep(REST)

    def busiest(self) -> tuple[str, int]:
        """The server with most tunnels, and how many it has."""
        [(name, count)] = tunnels(self.lab).most_common(1)
        return name, count


def reaction(net: Network, wanted: frozenset[str], seconds: float) -> Figures:
    """Raises NeverHappened, CrowdFailed: clients did not come back, or nobody found that a server is deaf."""
    faulty: dict[str, Callable[[_Cluster, str], contextlib.AbstractContextManager[None]]] = {
        "back_power": _power,
        "back_gateway": _gateway,
        "back_agent": _agent,
        "back_frozen": _frozen,
        "back_cut_out": lambda cluster, name: _cable(cluster, name, "eth0"),
        "back_cut_in": lambda cluster, name: _cable(cluster, name, "eth1"),
    }
    found: Figures = {}
    with _cluster(net) as cluster:
        for figure in sorted(wanted & set(faulty)):
            cluster.settle()
            found[figure] = _back(cluster, faulty[figure])
        if "deaf_s" in wanted:
            cluster.settle()
            found["deaf_s"] = _deaf(cluster)
    return found


@contextlib.contextmanager
def _cluster(net: Network) -> Iterator[_Cluster]:
    name = f"bench-{net.run}"
    try:
        lab = Lab.create(name, build(len(SERVERS), 1, switch=Switch.PRUNING))
        deployment.deploy(lab, lambda _text: contextlib.nullcontext())
        token = deployment.enrolment_token(lab.host(SERVERS[0]), "crowd")
        with lab.host("crowd").network():
            identity = enrol(VIP, token, net.directory)
        credentials = Credentials(identity.trust, identity.certificate, identity.key)
        with Crowd(
            lab.state.netns("crowd"), net.directory, [f"{VIP}:443"], credentials, INTRANET,
            sources=crowd_sources(CLIENTS), reconnect="at_once", retry_seconds=0.2, attempt_seconds=5.0, resume=True,
        ) as crowd:  # fmt: skip
            crowd.connect(CLIENTS)
            crowd.wait(CLIENTS)
            yield _Cluster(lab, crowd)
    finally:
        destroy(name)


def _back(cluster: _Cluster, fault: Callable[[_Cluster, str], contextlib.AbstractContextManager[None]]) -> float:
    """Milliseconds until 99 of 100 clients of a server in trouble had a tunnel that carries packets again."""
    name, count = cluster.busiest()
    cluster.crowd.figures(reset=True)
    with fault(cluster, name):
        wait.until(
            f"{count} clients of {name} to be back", lambda: _counted(cluster) >= count - OTHERS, timeout=PATIENCE
        )
        figures = cluster.crowd.figures()["since_reset"]
    return float(figures["p99_ms"])


def _counted(cluster: _Cluster) -> int:
    return int(cluster.crowd.figures()["since_reset"]["count"])


def _deaf(cluster: _Cluster) -> float:
    """Seconds until the others have the buckets of a server that the switch sends no frame for the VIP any more."""
    name, _ = cluster.busiest()
    other = cluster.lab.host(next(one for one in SERVERS if one != name))
    cluster.crowd.profile({"kind": "ping", "interval_ms": 100}, 0, CLIENTS)
    time.sleep(2.0)  # a window of frames that everybody has seen
    virtual = mac.text(mac.cluster_mac("unicast", IPv4Address(VIP)))
    with switch.deafen(cluster.lab.state, name, "eth0", virtual):
        began = time.time()
        moved: list[float] = []

        def found() -> bool:
            status = deployment.cluster_status(other)
            if not status or _buckets(status, name):
                return False
            moved.extend(e["at"] for e in status["events"] if e["kind"] == "MapChanged" and e["at"] > began)
            return bool(moved)

        # Of the clock of the machine that all of them are on: asking takes its time, the event has its own.
        wait.until(f"{name} to give its buckets away", found, timeout=PATIENCE)
    return min(moved) - began


def _buckets(status: dict[str, Any], name: str) -> bool:
    return any(any(server["buckets"]) for server in status["servers"] if server["name"] == name)


@contextlib.contextmanager
def _power(cluster: _Cluster, name: str) -> Iterator[None]:
    cluster.lab.kill(name)
    try:
        yield
    finally:
        cluster.lab.restart(name)


@contextlib.contextmanager
def _gateway(cluster: _Cluster, name: str) -> Iterator[None]:
    host = cluster.lab.host(name)
    host.run("kill", "-KILL", host.output("pgrep", "-f", "portico.server.gateway_process").split()[-1])
    yield


@contextlib.contextmanager
def _agent(cluster: _Cluster, name: str) -> Iterator[None]:
    faults.kill_process(cluster.lab.host(name), deployment.SERVER)
    yield


@contextlib.contextmanager
def _frozen(cluster: _Cluster, name: str) -> Iterator[None]:
    cluster.lab.freeze(name)
    try:
        yield
    finally:
        cluster.lab.thaw(name)


@contextlib.contextmanager
def _cable(cluster: _Cluster, name: str, interface: str) -> Iterator[None]:
    cluster.lab.cut(name, interface)
    try:
        yield
    finally:
        cluster.lab.heal(name, interface)
