"""Three servers behave as one, whatever happens to one of them."""

from __future__ import annotations

import secrets
import socket
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from portico.lab import deployment, switch, wait
from portico.lab.lab import Lab
from portico.lab.probe.tap import Tap
from tests.lab.continuity import (
    SERVERS,
    TUNNELS,
    continuity,
    everybody_answers,
    one_tunnel_each,
    server_of,
    status,
    tunnels,
)
from tests.lab.helpers import APP4, APP6, SERVER_ADDRESS, gateway_pid, reaches
from tests.peers.crowd import Crowd

HEARTBEATS = 2504
"""The UDP port of heartbeats that do not go by layer 2."""
LOAD_SECONDS = 10.0



def test_clients_are_spread_over_all_servers_and_reach_the_intranet(cluster: Lab, crowd: Crowd) -> None:
    assert len(set(crowd.addresses())) == TUNNELS
    found = one_tunnel_each(cluster)
    print(f"{TUNNELS} tunnels and client1's: {dict(found)}")
    assert min(found[name] for name in SERVERS) > TUNNELS / 3 / 2
    for name in SERVERS:
        assert tunnels(cluster, name) == found, "whichever server is asked"
    everybody_answers(crowd)
    client = cluster.host("client1")
    assert reaches(client, APP4) and reaches(client, APP6)


def test_a_download_and_an_idle_session_survive_a_power_cut(cluster: Lab, crowd: Crowd, checksum: str) -> None:
    # Who answers shows in short frames as well; those of the download are too many for a tap on a busy machine.
    expression = f"tcp src port 443 and src host {SERVER_ADDRESS} and less 400"
    killed = server_of(cluster)
    try:
        with Tap(cluster.state, list(SERVERS), "inet", expression) as tap:
            with continuity(cluster, crowd, checksum, "power cut") as trouble:
                cluster.kill(killed)
            everybody_answers(crowd)
        assert tap.answers.doubles == 0, tap.answers.examples
        assert tap.missed == 0
        now_on = server_of(cluster)
        assert now_on in trouble.others
        crowd.figures(reset=True)
    finally:
        cluster.restart(killed)
    deployment.wait_for_convergence(cluster, SERVERS, timeout=60.0)
    everybody_answers(crowd)
    figures = crowd.figures()
    assert figures["dialled"] == 0 and figures["ping_losses"] == 0, f"who comes back takes nobody's tunnel: {figures}"
    assert server_of(cluster) == now_on


def test_clients_of_a_killed_gateway_are_back(cluster: Lab, crowd: Crowd, checksum: str) -> None:
    with continuity(cluster, crowd, checksum, "killed gateway") as trouble:
        host = cluster.host(trouble.server)
        host.run("kill", "-KILL", str(gateway_pid(host)))
    everybody_answers(crowd)
    deployment.wait_for_convergence(cluster, SERVERS, timeout=60.0)


def test_a_partition_of_the_heartbeats_heals_to_one_owner_per_bucket(cluster: Lab, crowd: Crowd) -> None:
    alone = server_of(cluster)
    others = [name for name in SERVERS if name != alone]
    with ExitStack() as partitions:
        for network in ("inet", "corp"):
            partitions.enter_context(switch.partition(cluster.state, [alone], others, network, heartbeats=HEARTBEATS))
        wait.until(
            "both sides to miss the other",
            lambda: _up(cluster, others[0]) == set(others) and _up(cluster, alone) == {alone},
        )
    deployment.wait_for_convergence(cluster, SERVERS)
    crowd.wait(TUNNELS)
    owners = [[rule["owners"] for rule in status(cluster, name)["rules"]] for name in SERVERS]
    assert owners[0] == owners[1] == owners[2]
    version = _version(cluster)
    everybody_answers(crowd)
    one_tunnel_each(cluster)
    assert _version(cluster) == version, "it does not flap"


def test_forged_heartbeats_change_nothing(cluster: Lab, crowd: Crowd) -> None:
    version = _version(cluster)
    began = time.time()
    bystander = cluster.host("bystander")
    with (
        bystander.network(),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(switch.HEARTBEAT_ETHERTYPE)) as raw,
    ):
        raw.bind(("eth0", switch.HEARTBEAT_ETHERTYPE))
        raw.settimeout(5.0)
        heard = [raw.recv(2048) for _ in range(20)]
        for frame in heard:
            for forged in (
                frame,
                frame[:-1] + bytes([frame[-1] ^ 1]),
                frame[:40],
                frame[:14] + secrets.token_bytes(80),
            ):
                raw.send(forged)
    for name in SERVERS:
        wait.until(f"{name} to say so", lambda name=name: _refused(cluster, name, began))  # type: ignore[misc]
    assert _version(cluster) == version
    deployment.wait_for_convergence(cluster, SERVERS)
    everybody_answers(crowd)
    print({name: _refused(cluster, name, began) for name in SERVERS})


def _version(cluster: Lab) -> int:
    """The version of the map that all servers follow."""
    (version,) = {status(cluster, name)["map_version"] for name in SERVERS}
    return int(version)


def _up(cluster: Lab, name: str) -> set[str]:
    """The servers that one of them counts on."""
    return {server["name"] for server in status(cluster, name)["servers"] if server["state"] is not None}


def _refused(cluster: Lab, name: str, since: float) -> dict[str, int]:
    """Heartbeats that a server has refused, by reason."""
    found: Counter[str] = Counter()
    for event in status(cluster, name)["events"]:
        if event["kind"] == "Refused" and event["at"] >= since:
            found[str(event["reason"])] += int(event["count"])
    return dict(found)
