"""The lab with several servers: what breaks breaks as it should and heals, switches prune, routers are strict."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from portico.errors import InvalidInput, NotFound
from portico.lab import faults, links, switch, wait
from portico.lab.hosts import HostDown
from portico.lab.lab import Lab
from portico.lab.pcap import Capture
from portico.lab.probe.prober import Prober
from portico.lab.probe.tap import Tap
from portico.lab.topology import crowd_sources
from tests.lab.helpers import ECHO_PORT, echo_service

SERVERS = ("da1", "da2", "da3")
VIP, VIP6, GROUP = "203.0.113.99", "2001:db8:ffff::99", "239.255.113.99"
CLUSTER_MAC = "02:bf:cb:00:71:63"
MULTICAST_MAC, IGMP_MAC = "03:bf:cb:00:71:63", "01:00:5e:7f:71:63"
HEARTBEATS = 7946


def pings(lab: Lab, host: str, address: str) -> bool:
    return lab.host(host).run("ping", "-c", "1", "-W", "1", address, check=False).returncode == 0


def wait_for_ping(lab: Lab, host: str, address: str) -> None:
    """After a fault has healed: a neighbour that did not answer meanwhile is asked again only after a while."""
    wait.until(f"{host} to reach {address}", lambda: pings(lab, host, address))


def dip(lab: Lab, host: str, interface: str = "eth1") -> str:
    return lab.topology.host(host).address(4, interface)


def report(lab: Lab, host: str, kind: int, to: str) -> None:
    """An IGMPv2 message about the cluster's group, as a server sends it on its own clock (RFC 2236 section 2)."""
    message = struct.pack("!BBH4s", kind, 0, 0, socket.inet_aton(GROUP))
    checksum = sum(struct.unpack("!4H", message))
    message = struct.pack("!BBH4s", kind, 0, ~((checksum >> 16) + checksum) & 0xFFFF, socket.inet_aton(GROUP))
    source = socket.inet_aton(dip(lab, host, "eth0"))
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 1, 2, 0, source, socket.inet_aton(to))
    group = b"\x01\x00\x5e" + bytes([socket.inet_aton(to)[1] & 0x7F]) + socket.inet_aton(to)[2:]
    frame = group + bytes.fromhex(links.mac(host, "eth0").replace(":", "")) + b"\x08\x00" + header + message
    with lab.host(host).network(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
        raw.sendto(frame, ("eth0", 0))


def join(lab: Lab, host: str) -> None:
    report(lab, host, 0x16, GROUP)
    wait.until(f"{host} to be a member", lambda: (links.port(host, "eth0"), IGMP_MAC) in switch.members(lab.state))


def leave(lab: Lab, host: str) -> None:
    report(lab, host, 0x17, "224.0.0.2")
    wait.until(f"{host} to be none", lambda: (links.port(host, "eth0"), IGMP_MAC) not in switch.members(lab.state))


@contextmanager
def virtual_address(lab: Lab, *hosts: str, mac: str = IGMP_MAC) -> Iterator[None]:
    """The hosts have one address together, and the router sends its packets to a group."""
    for host in hosts:
        links.ip(lab.state, host, f"addr add {VIP}/32 dev lo")
    links.add_static_neighbour(lab.state, "internet", "eth0", VIP, mac)
    try:
        yield
    finally:
        links.ip(lab.state, "internet", f"neigh del {VIP} dev eth0")
        for host in hosts:
            links.ip(lab.state, host, f"addr del {VIP}/32 dev lo")


def test_three_servers_stand_on_both_networks(three_servers: Lab) -> None:
    assert pings(three_servers, "crowd", "203.0.113.11")
    for server in SERVERS[1:]:
        assert pings(three_servers, "client2", dip(three_servers, server, "eth0"))
        assert pings(three_servers, "mgmt", dip(three_servers, server))
        assert three_servers.host("mgmt").output("dig", "+short", f"{server}.corp.example.net") == dip(
            three_servers, server
        )
    entrance = three_servers.host("client1").output("dig", "+short", "da.example.net")
    assert entrance == "203.0.113.11", "the name stands for the entrance, not for each server"


def test_another_process_finds_all_hosts_of_the_lab(three_servers: Lab) -> None:
    again = Lab.open(three_servers.name)
    assert again.topology == three_servers.topology
    assert again.host("da3").output("hostname") == "da3"


@pytest.mark.parametrize("source", [*crowd_sources(2), "198.51.100.200"])
def test_the_crowd_speaks_from_any_of_its_addresses(three_servers: Lab, source: str) -> None:
    crowd = three_servers.host("crowd")
    seen = crowd.output("curl", "-s", "--interface", source, "http://203.0.113.1/")
    assert seen.endswith(f"sees you as {source}")


def test_the_crowd_speaks_from_many_ipv6_networks(three_servers: Lab) -> None:
    for source in crowd_sources(3, version=6):
        seen = three_servers.host("crowd").output("curl", "-s", "--interface", source, "http://[2001:db8:ffff::1]/")
        assert seen.endswith(f"sees you as {source}")


@pytest.mark.parametrize("server", SERVERS)
def test_every_server_can_lose_its_power_and_come_back(three_servers: Lab, server: str) -> None:
    three_servers.kill(server)
    with pytest.raises(HostDown):
        three_servers.host(server).run("true")
    assert not pings(three_servers, "mgmt", dip(three_servers, server))
    three_servers.restart(server)
    wait_for_ping(three_servers, "mgmt", dip(three_servers, server))
    wait_for_ping(three_servers, "internet", dip(three_servers, server, "eth0"))


@pytest.mark.parametrize("server", SERVERS)
def test_one_cable_of_every_server_can_be_cut(three_servers: Lab, server: str) -> None:
    three_servers.cut(server, "eth1")
    assert not pings(three_servers, "mgmt", dip(three_servers, server))
    assert pings(three_servers, "internet", dip(three_servers, server, "eth0")), "the other one is not"
    three_servers.heal(server, "eth1")
    wait_for_ping(three_servers, "mgmt", dip(three_servers, server))


def test_a_frozen_host_answers_pings_but_does_nothing(three_servers: Lab) -> None:
    app4, mgmt = three_servers.host("app4"), three_servers.host("mgmt")
    others = [faults.processes(host) for host in three_servers.hosts() if host.name != "app4"]
    assert three_servers.freeze("app4") == len(faults.processes(app4))
    assert faults.frozen(app4)
    assert pings(three_servers, "mgmt", dip(three_servers, "app4", "eth0"))
    assert mgmt.run("curl", "-s", "--max-time", "1", "http://10.0.0.4/", check=False).returncode == 28
    stopped = [pid for pids in others for pid in pids if "\tT (stopped)" in Path(f"/proc/{pid}/status").read_text()]
    assert not stopped, "nobody else is"
    three_servers.thaw("app4")
    assert not faults.frozen(app4)
    assert mgmt.output("curl", "-s", "--max-time", "5", "http://10.0.0.4/").startswith("app4 answers")


def test_a_frozen_host_can_lose_its_power(three_servers: Lab) -> None:
    three_servers.freeze("da2")
    status = [sys.executable, "-m", "portico", "lab", "status", "--name", three_servers.name]
    assert "frozen" in subprocess.run(status, capture_output=True, text=True, check=True).stdout
    three_servers.restart("da2")
    assert three_servers.host("da2").output("echo", "back") == "back"


def test_the_command_line_freezes_thaws_and_loads(three_servers: Lab) -> None:
    def portico(*words: str) -> Any:
        command = [sys.executable, "-m", "portico", "lab", *words, "--name", three_servers.name, "--json"]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    da2 = three_servers.host("da2")
    assert portico("freeze", "da2")["processes"] == len(faults.processes(da2))
    assert {row["host"]: row["state"] for row in portico("status")["hosts"]}["da2"] == "frozen"
    portico("thaw", "da2")
    assert portico("load", "da2", "--seconds", "0.1")["seconds"] == 0.1
    with switch.partition(three_servers.state, ["da1"], ["da2"], "inet") as fault:
        assert portico("status")["faults"] == [fault.what]
    status = portico("status")
    assert (status["servers"], status["clients"], status["faults"]) == ([*SERVERS], ["client1", "client2"], [])
    assert "frozen" not in {row["state"] for row in status["hosts"]}


def test_a_killed_process_is_started_again_where_the_host_does_so(three_servers: Lab) -> None:
    da3 = three_servers.host("da3")
    da3.start_service("kept", ["sleep", "1000"], restart=True)
    before = da3.service("kept")["pid"]
    assert faults.kill_process(da3, "kept") == before
    wait.until("its next life", lambda: da3.service("kept")["pid"] not in (None, before))
    da3.stop_service("kept")
    with pytest.raises(NotFound):
        faults.kill_process(da3, "kept")


def test_a_load_is_made_inside_and_ends(three_servers: Lab) -> None:
    da3 = three_servers.host("da3")
    idle = len(faults.processes(da3))
    with faults.loaded(da3, 30.0):
        wait.until("busy processes", lambda: len(faults.processes(da3)) > idle + 1)
    wait.until("their end", lambda: len(faults.processes(da3)) == idle)
    with faults.loaded(da3, 0.1) as short:
        assert short.wait(20.0) == 0, "it ends by itself"
    with pytest.raises(InvalidInput), faults.loaded(da3, 1e6):
        pass


def test_a_partition_separates_two_sides_and_heals(three_servers: Lab) -> None:
    state = three_servers.state
    with switch.partition(state, ["da1"], ["da2", "da3"], "corp") as fault:
        assert switch.faults(state) == [fault.what]
        assert not pings(three_servers, "da1", dip(three_servers, "da2"))
        assert not pings(three_servers, "da3", dip(three_servers, "da1"))
        assert pings(three_servers, "da2", dip(three_servers, "da3"))
        assert pings(three_servers, "mgmt", dip(three_servers, "da1"))
        assert pings(three_servers, "da1", dip(three_servers, "da2", "eth0")), "the other network is whole"
    assert not switch.faults(state)
    wait_for_ping(three_servers, "da1", dip(three_servers, "da2"))
    wait_for_ping(three_servers, "da3", dip(three_servers, "da1"))
    with pytest.raises(InvalidInput):
        switch.partition(state, ["da1"], ["da1", "da2"], "corp")
    with pytest.raises(NotFound):
        switch.partition(state, ["da1"], ["client1"], "corp")


def test_heartbeats_alone_can_be_kept_from_each_other(three_servers: Lab, tmp_path: Path) -> None:
    """Frames of the NLB EtherType and datagrams to one port vanish; everything else passes."""
    da1, da2 = three_servers.host("da1"), three_servers.host("da2")
    frame = b"\xff" * 6 + bytes.fromhex(links.mac("da1", "eth1").replace(":", "")) + b"\x88\x6f" + bytes(46)

    def beat() -> None:
        with da1.network(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.sendto(frame, ("eth1", 0))
        with da1.network(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for port in (HEARTBEATS, HEARTBEATS + 1):
                udp.sendto(b"beat", (dip(three_servers, "da2"), port))

    def seen(recording: Capture) -> list[str]:
        # not what the unreachable port's ICMP error quotes
        beats = f"eth.type == 0x886f or (udp.dstport in {{{HEARTBEATS}, {HEARTBEATS + 1}}} and not icmp)"
        return recording.packets(beats, ["udp.dstport"])

    with switch.partition(three_servers.state, ["da1"], ["da2"], "corp", heartbeats=HEARTBEATS):
        with Capture(da2, "eth1", tmp_path / "cut.pcap") as recording:
            beat()
            assert pings(three_servers, "da1", dip(three_servers, "da2"))
        assert seen(recording) == [str(HEARTBEATS + 1)]
    with Capture(da2, "eth1", tmp_path / "whole.pcap") as recording:
        beat()
        assert pings(three_servers, "da1", dip(three_servers, "da2"))
    assert sorted(seen(recording)) == ["", str(HEARTBEATS), str(HEARTBEATS + 1)]


def test_a_port_can_go_deaf_for_one_address(three_servers: Lab) -> None:
    with switch.deafen(three_servers.state, "da3", "eth1", links.mac("da3", "eth1")):
        assert not pings(three_servers, "mgmt", dip(three_servers, "da3"))
        assert pings(three_servers, "mgmt", dip(three_servers, "da2"))
    wait_for_ping(three_servers, "mgmt", dip(three_servers, "da3"))


def test_the_switch_says_what_it_has_learned_and_can_be_wrong(three_servers: Lab, tmp_path: Path) -> None:
    state = three_servers.state
    assert pings(three_servers, "mgmt", dip(three_servers, "da2"))
    assert switch.learned(state, links.mac("da2", "eth1")) == links.port("da2", "eth1")
    assert switch.learned(state, CLUSTER_MAC) is None

    def heard(host: str) -> bool:
        with Capture(three_servers.host(host), "eth0", tmp_path / f"{host}.pcap") as recording:
            three_servers.host("internet").run("ping", "-c", "1", "-W", "0.2", VIP, check=False)
            # what comes behind it says that it would have come
            assert pings(three_servers, "internet", three_servers.topology.host(host).address(4, "eth0"))
        return bool(recording.packets(f"eth.dst == {CLUSTER_MAC}"))

    links.add_static_neighbour(state, "internet", "eth0", VIP, CLUSTER_MAC)
    try:
        assert heard("da2") and heard("da3") and heard("bystander"), "an address nobody has is flooded"
        with switch.learn(state, CLUSTER_MAC, "da3", "eth0"):
            assert switch.learned(state, CLUSTER_MAC) == links.port("da3", "eth0")
            assert heard("da3") and not heard("da2")
        assert switch.learned(state, CLUSTER_MAC) is None
        assert heard("da2")
    finally:
        links.ip(state, "internet", f"neigh del {VIP} dev eth0")


def test_multicast_flooding_of_a_port_can_be_turned_off(three_servers: Lab, tmp_path: Path) -> None:
    def sees() -> bool:
        with Capture(three_servers.host("bystander"), "eth0", tmp_path / "bystander.pcap") as recording:
            three_servers.host("internet").run("ping", "-c", "1", "-W", "0.2", VIP, check=False)
            assert pings(three_servers, "internet", dip(three_servers, "bystander", "eth0"))
        return bool(recording.packets(f"eth.dst == {MULTICAST_MAC}"))

    with virtual_address(three_servers, "da2", mac=MULTICAST_MAC):
        assert sees()
        switch.set_mcast_flood(three_servers.state, "bystander", "eth0", on=False)
        assert not sees()
        switch.set_mcast_flood(three_servers.state, "bystander", "eth0", on=True)
        assert sees()


def test_the_pruning_switch_sends_only_to_members_and_double_answers_are_counted(
    three_servers: Lab, tmp_path: Path
) -> None:
    """Two members that both answer are found out; one member alone answers once; a bystander sees nothing."""
    sources = crowd_sources(10)
    crowd, bystander = three_servers.host("crowd"), three_servers.host("bystander")

    def ask() -> tuple[Tap, int]:
        with (
            Tap(three_servers.state, list(SERVERS), "inet", f"udp src port {ECHO_PORT}") as tap,
            Prober(crowd, (VIP, ECHO_PORT), sources, interval=0.05) as prober,
        ):
            prober.wait_for_answers()
            wait.until("some questions", lambda: min(client.answered for client in prober.report().clients) >= 5)
            figures = prober.report()
        assert tap.missed == 0
        return tap, figures.duplicates

    with (
        virtual_address(three_servers, "da2", "da3"),
        echo_service(three_servers.host("da2"), VIP),
        echo_service(three_servers.host("da3"), VIP),
        Capture(bystander, "eth0", tmp_path / "bystander.pcap") as recording,
    ):
        join(three_servers, "da2")
        before = switch.pruned(three_servers.state)
        tap, duplicates = ask()
        assert (tap.answers.doubles, duplicates) == (0, 0)
        assert set(tap.answers.by_server) == {"da2"}
        assert switch.pruned(three_servers.state) > before

        join(three_servers, "da3")
        tap, duplicates = ask()
        assert tap.answers.doubles > 0 and duplicates > 0
        assert set(tap.answers.by_server) == {"da2", "da3"}

        leave(three_servers, "da2")
        tap, duplicates = ask()
        assert (tap.answers.doubles, duplicates) == (0, 0)
        assert set(tap.answers.by_server) == {"da3"}
        leave(three_servers, "da3")
        assert pings(three_servers, "internet", dip(three_servers, "bystander", "eth0"))
    assert not recording.packets(f"eth.dst == {IGMP_MAC}")


def test_a_kernels_own_membership_counts_as_well(three_servers: Lab) -> None:
    port = links.port("da3", "eth0")
    wanted = struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton(dip(three_servers, "da3", "eth0")))
    with three_servers.host("da3").network():
        member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with member:
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, wanted)
        wait.until("membership by IGMPv3", lambda: (port, IGMP_MAC) in switch.members(three_servers.state))
    wait.until("its end", lambda: (port, IGMP_MAC) not in switch.members(three_servers.state))


def test_silence_is_measured_while_a_server_is_without_power(three_servers: Lab) -> None:
    """The prober's figure is at least the time during which nobody answered for certain."""
    address = dip(three_servers, "da3", "eth0")
    with echo_service(three_servers.host("da3"), address):
        with Prober(three_servers.host("crowd"), (address, ECHO_PORT), crowd_sources(5), interval=0.02) as prober:
            prober.wait_for_answers()
            three_servers.kill("da3")
            dead = time.monotonic()
            before = prober.report()
            enough = before.clients[0].asked + 20
            wait.until("questions nobody hears", lambda: prober.report().clients[0].asked >= enough)
            certain = time.monotonic() - dead
            three_servers.restart("da3")
            wait.until(
                "the echo to answer everybody again",
                lambda: all(
                    now.answered > then.answered
                    for now, then in zip(prober.report().clients, before.clients, strict=True)
                ),
            )
            report = prober.report()
        assert min(client.silence for client in report.clients) >= certain
        assert report.duplicates == 0


def test_a_strict_router_refuses_multicast_answers_until_the_static_entry(three_servers: Lab) -> None:
    internet = three_servers.host("internet")
    da2 = three_servers.host("da2")
    answers = f"""
    table arp answers {{ chain out {{
        type filter hook output priority 0; policy accept;
        arp operation reply arp saddr ip {VIP} arp saddr ether set {MULTICAST_MAC}
    }}
    }}
    """
    da2.run("nft", "-f", "-", input_text=answers)
    try:
        links.ip(three_servers.state, "da2", f"addr add {VIP}/32 dev lo")
        refused = links.refused_neighbours(internet)
        assert not pings(three_servers, "internet", VIP)
        assert links.refused_neighbours(internet) > refused
        links.add_static_neighbour(three_servers.state, "internet", "eth0", VIP, MULTICAST_MAC)
        assert pings(three_servers, "internet", VIP)
        assert pings(three_servers, "crowd", VIP), "and everybody behind the router"
    finally:
        links.ip(three_servers.state, "internet", f"neigh flush to {VIP} nud all")
        links.ip(three_servers.state, "da2", f"addr del {VIP}/32 dev lo")
        da2.run("nft", "delete", "table", "arp", "answers")


@pytest.mark.parametrize(("mac", "believed"), [(MULTICAST_MAC, False), ("0a:bf:cb:00:71:63", True)])
def test_a_strict_router_refuses_multicast_neighbour_advertisements(
    three_servers: Lab, mac: str, believed: bool
) -> None:
    """An unsolicited advertisement that overrides what the router knows (RFC 4861 section 7.2.5)."""
    address = "2001:db8:ffff::22"
    state, internet = three_servers.state, three_servers.host("internet")
    assert pings(three_servers, "internet", address)
    refused = links.refused_neighbours(internet)
    target = socket.inet_pton(socket.AF_INET6, address)
    option = b"\x02\x01" + bytes.fromhex(mac.replace(":", ""))
    with three_servers.host("da2").network(), socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58) as raw:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
        raw.bind((address, 0))
        raw.sendto(b"\x88\x00\x00\x00\x20\x00\x00\x00" + target + option, ("2001:db8:ffff::1", 0))

    def known() -> str:
        return internet.output("ip", "neigh", "show", "to", address)

    try:
        if believed:
            wait.until("the router to believe it", lambda: mac in known())
            assert links.refused_neighbours(internet) == refused
        else:
            wait.until("the router to refuse it", lambda: links.refused_neighbours(internet) > refused)
            assert mac not in known()
    finally:
        links.ip(state, "internet", f"neigh flush to {address} nud all")
