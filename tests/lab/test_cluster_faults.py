"""Three servers behave as one when one of them is half dead, drains or has no time."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest

from portico.balancing.nlb import mac
from portico.lab import deployment, faults, switch, wait
from portico.lab.lab import Lab
from tests.lab.continuity import (
    PING_MS,
    SERVERS,
    TUNNELS,
    continuity,
    everybody_answers,
    one_tunnel_each,
    server_in,
    server_of,
    status,
)
from tests.lab.helpers import SERVER_ADDRESS
from tests.peers.crowd import Crowd

HEARTBEATS = 2504
"""The UDP port of heartbeats that do not go by layer 2."""
LOAD_SECONDS = float(os.environ.get("PORTICO_LOAD_SECONDS", "10"))


def test_clients_of_a_killed_agent_are_back(cluster: Lab, crowd: Crowd, checksum: str) -> None:
    with continuity(cluster, crowd, checksum, "killed agent", everybody=False) as trouble:
        faults.kill_process(cluster.host(trouble.server), deployment.SERVER)
    everybody_answers(crowd)
    deployment.wait_for_convergence(cluster, SERVERS, timeout=60.0)


def test_clients_of_a_frozen_server_are_back_and_it_returns(cluster: Lab, crowd: Crowd, checksum: str) -> None:
    server = server_of(cluster)
    try:
        with continuity(cluster, crowd, checksum, "frozen server") as trouble:
            cluster.freeze(server)
        assert server_of(cluster) in trouble.others
        everybody_answers(crowd)
    finally:
        cluster.thaw(server)
    deployment.wait_for_convergence(cluster, SERVERS, timeout=60.0)
    everybody_answers(crowd)


@pytest.mark.parametrize("interface", ["eth0", "eth1"])
def test_clients_of_a_server_with_a_cut_cable_are_back(
    cluster: Lab, crowd: Crowd, checksum: str, interface: str
) -> None:
    server = server_of(cluster)
    try:
        with continuity(cluster, crowd, checksum, f"cut of {interface}"):
            cluster.cut(server, interface)
        everybody_answers(crowd)
    finally:
        cluster.heal(server, interface)
    deployment.wait_for_convergence(cluster, SERVERS, timeout=60.0)
    everybody_answers(crowd)


def test_a_drain_loses_nothing(cluster: Lab, crowd: Crowd) -> None:
    more = 30
    server = server_of(cluster)
    before = one_tunnel_each(cluster)
    other = next(name for name in SERVERS if name != server)
    cluster.host(server).run("portico", "cluster", "drain", server)
    wait.until("the drain", lambda: server_in(status(cluster, other), server)["state"] == "Draining")
    deployment.wait_for_convergence(cluster, [name for name in SERVERS if name != server])
    crowd.connect(more)
    crowd.wait(TUNNELS + more)
    assert one_tunnel_each(cluster, more)[server] == before[server]
    everybody_answers(crowd)
    cluster.host(server).run("portico", "cluster", "start", server)
    deployment.wait_for_convergence(cluster, SERVERS)
    everybody_answers(crowd)
    figures = crowd.figures()
    assert figures["lost"] == {} and figures["dialled"] == more, figures
    crowd.disconnect(more)
    wait.until("the goodbyes", lambda: crowd.state()["clients"] == TUNNELS)


def test_a_deaf_server_is_found(cluster: Lab, crowd: Crowd) -> None:
    """A switch that no longer sends it the VIP's frames, and says nothing."""
    server = server_of(cluster)
    other = next(name for name in SERVERS if name != server)
    crowd.profile({"kind": "ping", "interval_ms": PING_MS}, 0, TUNNELS)
    virtual = mac.text(mac.cluster_mac("unicast", IPv4Address(SERVER_ADDRESS)))
    with switch.deafen(cluster.state, server, "eth0", virtual):
        began = time.monotonic()
        wait.until(
            f"{server} to give its buckets away",
            lambda: not any(server_in(status(cluster, other), server)["buckets"]),
            timeout=30.0,
        )
        took = time.monotonic() - began
        assert "deaf" in server_in(status(cluster, server), server)["conditions"]
        crowd.wait(TUNNELS)
        everybody_answers(crowd)
    print(f"deaf: {server} had given its buckets away after {took:.1f} s")
    deployment.wait_for_convergence(cluster, SERVERS, timeout=60.0)


def test_a_busy_machine_changes_nothing_hands(cluster: Lab, crowd: Crowd) -> None:
    """PORTICO_LOAD_SECONDS=60 is what is demanded; the few seconds of every day find what is broken as well."""
    version = _version(cluster)
    with ExitStack() as loads:
        running = [loads.enter_context(faults.loaded(cluster.host(name), LOAD_SECONDS)) for name in SERVERS]
        for load in running:
            load.wait(LOAD_SECONDS + 20.0)
    assert _version(cluster) == version
    deployment.wait_for_convergence(cluster, SERVERS)
    assert crowd.figures()["lost"] == {}


def _version(cluster: Lab) -> int:
    """The version of the map that all servers follow."""
    (version,) = {status(cluster, name)["map_version"] for name in SERVERS}
    return int(version)
