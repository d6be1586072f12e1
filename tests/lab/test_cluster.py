"""Three servers behave as one, whatever happens to one of them."""

from __future__ import annotations

import secrets
import socket
import time
from collections import Counter
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest

from portico.balancing.nlb import mac
from portico.lab import deployment, switch, wait
from portico.lab.lab import Lab
from portico.lab.probe.tap import Tap
from tests.lab.arrivals import NLB_MODES, Arrivals, Sniffer, deliver, framed, hardware, probe, sender, strangers
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

pytestmark = pytest.mark.alone


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


def test_every_packet_of_ten_thousand_clients_has_one_server_in_every_mode(cluster: Lab, crowd: Crowd) -> None:
    """With both filters; the switch learns nothing, and in IGMP mode sends nothing to who is no member."""
    first, router = cluster.host("da1"), cluster.host("internet")
    clients = strangers(4, 10_000, 2)
    with ExitStack() as probes, sender(router) as send:
        found = {name: probes.enter_context(Arrivals(cluster.host(name))) for name in SERVERS}
        for mode, filter_ in (
            ("unicast", "ebpf"),
            ("unicast", "nftables"),
            ("multicast", "nftables"),
            ("igmp_multicast", "nftables"),
            ("igmp_multicast", "ebpf"),
            ("multicast", "ebpf"),
        ):
            first.run("portico", "settings", "set", f"load_balancing.filter={filter_}", "--yes", timeout=60.0)
            first.run("portico", "lb", "mode", mode, "--yes", timeout=60.0)
            wait.until(f"{filter_} in {mode}", lambda: _in_use(cluster, mode, filter_), timeout=60.0)  # noqa: B023
            deployment.wait_for_convergence(cluster, SERVERS, timeout=60.0)
            virtual = mac.cluster_mac(NLB_MODES[mode], IPv4Address(SERVER_ADDRESS))
            if mode == "igmp_multicast":
                wait.until("all servers to be members", lambda: _members(cluster) >= len(SERVERS), timeout=90.0)
            stranger = Sniffer(cluster.host("bystander"))
            for arrivals in found.values():
                arrivals.forget()
            frames = [framed(hardware(router), virtual, probe(source, port)) for source, port in clients]
            deliver(send, frames, lambda: sum(arrivals.count() for arrivals in found.values()))
            got = {name: arrivals.clients() for name, arrivals in found.items()}
            assert sum(map(len, got.values())) == len(clients), f"{mode}, {filter_}: a packet was accepted twice"
            assert frozenset().union(*got.values()) == set(clients), f"{mode}, {filter_}: a packet reached nobody"
            shares = {name: len(one) for name, one in got.items()}
            assert all(abs(n - len(clients) / 3) <= len(clients) / 30 for n in shares.values()), shares
            assert switch.learned(cluster.state, mac.text(virtual)) is None
            heard = sum(frame[:6] == virtual for frame in stranger.frames())
            assert (heard == 0) == (mode == "igmp_multicast"), f"{mode}: the bystander heard {heard}"
            print(f"{mode}, {filter_}: {shares}, a bystander heard {heard}")
        first.run("portico", "lb", "mode", "unicast", "--yes", timeout=60.0)
        first.run("portico", "settings", "set", "load_balancing.filter=automatic", "--yes", timeout=60.0)
    deployment.wait_for_convergence(cluster, SERVERS, timeout=60.0)
    crowd.wait(TUNNELS)
    everybody_answers(crowd)


def _in_use(cluster: Lab, mode: str, filter_: str) -> bool:
    """Whether all servers work in a mode with a filter."""
    seen = [status(cluster, name) for name in SERVERS]
    return all(one["mode"] == mode and str(one["filter"]).lower() == filter_ for one in seen)


def _members(cluster: Lab) -> int:
    """The ports of the Internet's side that get frames of the cluster's group."""
    virtual = mac.text(mac.cluster_mac("igmp", IPv4Address(SERVER_ADDRESS)))
    return sum(group == virtual for _, group in switch.members(cluster.state))


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
