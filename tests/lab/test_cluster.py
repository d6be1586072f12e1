"""Three servers behave as one, whatever happens to one of them."""

from __future__ import annotations

import secrets
import socket
import time
from collections import Counter
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import Any

from portico.balancing.nlb import mac
from portico.lab import deployment, switch, wait
from portico.lab.lab import Lab
from portico.lab.probe.tap import Tap
from tests.lab.arrivals import NLB_MODES, Arrivals, Client, Sniffer, clients_of, hardware, owners, send_all, sender
from tests.lab.continuity import (
    ANSWERS,
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
INTERNAL_VIP = "10.0.0.2"
STRANGERS = 10_000
ATTEMPTS = 5
"""At a packet from each of them."""


def test_clients_are_spread_over_all_servers_and_reach_the_intranet(cluster: Lab, crowd: Crowd) -> None:
    """Each time that all have dialled anew: a server that a busy machine held up meanwhile has lost its clients to the
    others, who keep them, and that is no fault."""
    for _ in range(ATTEMPTS):
        before = _disturbances(cluster)
        crowd.disconnect(TUNNELS)
        crowd.connect(TUNNELS)
        crowd.wait(TUNNELS)
        found = one_tunnel_each(cluster)
        if _disturbances(cluster) == before:
            break
        deployment.wait_for_convergence(cluster, SERVERS)
    else:
        raise AssertionError(f"{ATTEMPTS} times a server was held up meanwhile")
    assert len(set(crowd.addresses())) == TUNNELS
    print(f"{TUNNELS} tunnels and client1's: {dict(found)}")
    assert min(found[name] for name in SERVERS) > TUNNELS / 3 / 2
    for name in SERVERS:  # whichever is asked
        wait.until(f"{name} to know of all", lambda name=name: tunnels(cluster, name) == found)  # type: ignore[misc]
    everybody_answers(crowd)
    client = cluster.host("client1")
    assert reaches(client, APP4) and reaches(client, APP6)


def pages_answer(cluster: Lab) -> None:
    """The location server and the web probe are on the internal VIP, for hosts that different servers answer."""
    for name in ("app4", "dns", "mgmt"):
        for page in (f"https://{INTERNAL_VIP}/", f"http://{INTERNAL_VIP}/"):
            command = ("curl", "-sfk", "-o", "/dev/null", "--max-time", "2", page)
            wait.until(
                f"{page} to answer {name}",
                lambda name=name, command=command: cluster.host(name).run(*command, check=False).returncode == 0,  # type: ignore[misc]
                timeout=30.0,
            )


def test_a_download_and_an_idle_session_survive_a_power_cut(cluster: Lab, crowd: Crowd, checksum: str) -> None:
    killed = server_of(cluster)
    try:
        with Tap(cluster.state, list(SERVERS), "inet", ANSWERS) as tap:
            with continuity(cluster, crowd, checksum, "power cut") as trouble:
                cluster.kill(killed)
            everybody_answers(crowd)
            pages_answer(cluster)
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
    """With both filters. The switch learns nothing, and in IGMP mode sends nothing to who is no member.

    It is the last one here: the lab ends in the last of the modes.
    """
    first, router = cluster.host("da1"), cluster.host("internet")
    clients = clients_of(STRANGERS, 2)
    filters = {"unicast": "ebpf", "multicast": "nftables", "igmp_multicast": "nftables"}
    for mode, kind in filters.items():
        if mode == "multicast":
            first.run("portico", "settings", "set", f"load_balancing.filter={kind}", "--yes", timeout=60.0)
        if mode != "unicast":
            first.run("portico", "lb", "mode", mode, "--yes", timeout=60.0)
        virtual = mac.cluster_mac(NLB_MODES[mode], IPv4Address(SERVER_ADDRESS))
        if mode == "igmp_multicast":
            wait.until("all servers to be members", lambda: _members(cluster) >= len(SERVERS), timeout=90.0)
        shares, heard = _accepted(cluster, (mode, kind), (hardware(router), virtual), clients)
        assert all(abs(share - STRANGERS / 3) <= STRANGERS / 30 for share in shares.values()), shares
        assert switch.learned(cluster.state, mac.text(virtual)) is None
        assert (heard == 0) == (mode == "igmp_multicast"), f"{mode}: the bystander heard {heard}"
        print(f"{mode}, {kind}: {shares}, a bystander heard {heard}")
    crowd.wait(TUNNELS)
    everybody_answers(crowd)


def _accepted(
    cluster: Lab, how: tuple[str, str], macs: tuple[bytes, bytes], clients: list[Client]
) -> tuple[dict[str, int], int]:
    """How many clients' packets each server accepted, and how many frames for the cluster the bystander heard.

    A server that a busy machine held up for longer than its lease drops what it owns, and that is no fault: when
    anything like it happened meanwhile, all is sent again. A packet that two accepted is a fault in any case.

    Args:
        how: mode and filter that all servers must be in first.
        macs: of the sender and of the cluster.
    """
    for _ in range(ATTEMPTS):
        before = wait.until(f"all to serve in {how}", lambda: _serving(cluster, how), timeout=60.0, interval=0.5)
        with ExitStack() as opened, sender(cluster.host("internet")) as send:
            arrivals = {name: opened.enter_context(Arrivals(cluster.host(name))) for name in SERVERS}
            stranger = Sniffer(cluster.host("bystander"))
            send_all(send, clients, macs, arrivals)
            found = owners(arrivals, clients)
            heard = sum(frame[:6] == macs[1] for frame in stranger.frames())
        missing = set(clients).difference(*found.values())
        if missing:
            wait.until(
                "the reason of a loss",
                lambda before=before: _disturbances(cluster) != before,  # type: ignore[misc]
                evidence=lambda missing=missing: f"{len(missing)} reached nobody: {list(missing)[:5]}",  # type: ignore[misc]
            )
        elif _disturbances(cluster) == before:
            return {name: len(one) for name, one in found.items()}, heard
    raise AssertionError(f"{ATTEMPTS} times a server was held up meanwhile")


def _serving(cluster: Lab, how: tuple[str, str]) -> tuple[int, ...]:
    """What `_disturbances` says when all servers have converged in a mode with a filter, each with a third; else
    nothing."""
    seen = [status(cluster, name) for name in SERVERS]
    for one in seen:
        alike = [sorted(Counter(rule["owners"]).values()) == [20, 20, 20] for rule in one["rules"][1:]]
        if not (one["converged"] and (one["mode"], str(one["filter"]).lower()) == how and alike and all(alike)):
            return ()
    return _disturbed(seen)


def _disturbances(cluster: Lab) -> tuple[int, ...]:
    """Changes when a server could not serve what the map gives it, or the map changed."""
    return _disturbed([status(cluster, name) for name in SERVERS])


def _disturbed(seen: list[dict[str, Any]]) -> tuple[int, ...]:
    return tuple(value for one in seen for value in (one["map_version"], one["counters"]["eth0"]["lease"]))


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
