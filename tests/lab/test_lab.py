"""The lab itself: plain networks, names, web servers, power cuts, and nothing left behind."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from portico.errors import Conflict, InvalidInput
from portico.lab import links, wait
from portico.lab.hosts import HostDown
from portico.lab.lab import Lab, destroy
from portico.lab.pcap import Capture
from portico.lab.services import bind, nginx
from portico.lab.state import DISKS, NETNS, RUNTIME, start_time


def _machine() -> dict[str, object]:
    """What must be the same before and after: the machine's own network, mounts and files."""

    def run(*argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    return {
        "links": [line.split(":")[1] for line in run("ip", "-o", "link").splitlines()],
        "addresses": run("ip", "-br", "addr"),
        "routes": run("ip", "route") + run("ip", "-6", "route"),
        "firewall": run("nft", "list", "ruleset"),
        "resolver": Path("/etc/resolv.conf").read_bytes(),
        "passwd": Path("/etc/passwd").read_bytes(),
        "hostname": os.uname().nodename,
    }


def _mounts(name: str) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line]


def test_down_leaves_nothing() -> None:
    name = f"test-{secrets.token_hex(4)}"
    before = _machine()
    lab = Lab.create(name)
    lab.host("da1").run("useradd", "--system", "lab-user")
    lab.host("da1").run("sh", "-c", "echo nameserver 192.0.2.1 > /etc/resolv.conf; ip route add 192.0.2.0/24 dev lo")
    pids = list(lab.state.inits.values())
    assert _machine() == before, "nothing in a lab touches the machine, not even while it runs"
    assert _mounts(name)
    assert destroy(name)
    assert _machine() == before
    assert not _mounts(name)
    assert not [path for path in NETNS.iterdir() if path.name.startswith(name)]
    assert not (RUNTIME / name).exists()
    assert not (DISKS / name).exists()
    assert not [pid for pid in pids if start_time(pid) is not None]
    assert not destroy(name), "there is nothing left to remove"


def test_down_cleans_up_after_a_crash() -> None:
    name = f"test-{secrets.token_hex(4)}"
    Lab.create(name)
    (RUNTIME / name / "lab.json").write_text('{"name": "half')
    assert destroy(name)
    assert not _mounts(name)
    assert not (RUNTIME / name).exists()


def test_two_labs_run_side_by_side(network: Lab) -> None:
    name = f"test-{secrets.token_hex(4)}"
    second = Lab.create(name)
    try:
        answer = second.host("client1").output("curl", "-s", "http://www.example.org/")
        assert answer == "internet answers, and sees you as 203.0.113.101"
        network.host("app4").run("touch", "/var/lib/only-here")
        assert second.host("app4").run("test", "-e", "/var/lib/only-here", check=False).returncode == 1
    finally:
        destroy(name)
    assert network.host("client1").output("curl", "-s", "http://www.example.org/")


def test_a_name_is_taken_once(network: Lab) -> None:
    with pytest.raises(Conflict):
        Lab.create(network.name)


@pytest.mark.parametrize("name", ["", "../etc", "UPPER", "a" * 25, "1st"])
def test_a_name_that_cannot_be_a_file_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        Lab.create(name)


def test_installing_on_several_servers_is_refused_before_anything_starts() -> None:
    name = f"test-{secrets.token_hex(4)}"
    command = [sys.executable, "-m", "portico", "lab", "up", "--name", name, "--servers", "3"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "--bare" in refused.stderr
    assert not (RUNTIME / name).exists()


def test_client_is_behind_a_nat(network: Lab) -> None:
    client = network.host("client1")
    assert client.output("curl", "-s", "http://www.example.org/").endswith("sees you as 203.0.113.101")
    unasked = network.host("internet").run("ping", "-c", "1", "-W", "1", "192.168.1.10", check=False)
    assert unasked.returncode != 0


def test_intranet_is_not_reachable_from_outside(network: Lab) -> None:
    client = network.host("client1")
    assert client.run("ping", "-c", "1", "-W", "1", "10.0.0.4", check=False).returncode != 0
    assert not client.output("dig", "+short", "app4.corp.example.net")


def test_corporate_dns_answers_both_ways(network: Lab) -> None:
    mgmt = network.host("mgmt")
    assert mgmt.output("dig", "+short", "app4.corp.example.net", "A") == "10.0.0.4"
    assert mgmt.output("dig", "+short", "app4.corp.example.net", "AAAA") == ""
    assert mgmt.output("dig", "+short", "app6.corp.example.net", "AAAA") == "fd7c:1a2b:3c4d:1::6"
    assert mgmt.output("dig", "+short", "-x", "10.0.0.4") == "app4.corp.example.net."
    assert mgmt.output("dig", "+short", "-x", "fd7c:1a2b:3c4d:1::6") == "app6.corp.example.net."
    assert "app6.corp.example.net IN AAAA" in bind.query_log(network.host("dns"))


def test_web_servers_say_who_they_are(network: Lab) -> None:
    mgmt = network.host("mgmt")
    for server, seen in (("app4", "10.0.0.9"), ("app6", "fd7c:1a2b:3c4d:1::9")):
        answer = mgmt.output("curl", "-s", f"http://{server}.corp.example.net/")
        assert answer == f"{server} answers, and sees you as {seen}"


def test_large_files_travel_both_ways(network: Lab) -> None:
    app4, mgmt = network.host("app4"), network.host("mgmt")
    checksum = nginx.put_large_file(app4, 20_000_000)
    mgmt.run("curl", "-sf", "-o", "/var/lib/large", "http://10.0.0.4/large.bin")
    assert mgmt.output("sha256sum", "/var/lib/large").startswith(checksum)
    mgmt.run("curl", "-sf", "-T", "/var/lib/large", "http://10.0.0.4/upload/back")
    assert nginx.checksum(nginx.uploaded(app4, "back")) == checksum


def test_offloads_are_on(network: Lab) -> None:
    features = network.host("da1").output("ethtool", "-k", "eth1")
    for feature in ("tcp-segmentation-offload", "tx-udp-segmentation", "generic-segmentation-offload"):
        assert f"{feature}: on" in features


def test_power_cut_is_silent_and_restart_brings_everything_back(network: Lab, tmp_path: Path) -> None:
    app4, mgmt = network.host("app4"), network.host("mgmt")
    app4.write("/var/lib/kept", "still here")
    talk = mgmt.popen(["socat", "-u", "TCP:10.0.0.4:80", "-"], stdout=subprocess.DEVNULL)
    wait.until("the connection", lambda: "10.0.0.4" in mgmt.output("ss", "-Htn"))
    with Capture(mgmt, "eth0", tmp_path / "mgmt.pcap") as recording:
        network.kill("app4")
    talk.kill()
    talk.wait()
    assert not recording.packets("ip.src == 10.0.0.4 and (tcp.flags.fin == 1 or tcp.flags.reset == 1)")
    with pytest.raises(HostDown):
        app4.run("true")
    network.restart("app4")
    assert app4.output("cat", "/var/lib/kept") == "still here"
    assert wait.until(
        "nginx on app4 again",
        lambda: mgmt.output("curl", "-s", "--max-time", "1", "http://app4.corp.example.net/").startswith("app4"),
    )


def test_cut_and_heal(network: Lab) -> None:
    mgmt = network.host("mgmt")
    network.cut("app4", "eth0")
    assert mgmt.run("ping", "-c", "1", "-W", "1", "10.0.0.4", check=False).returncode != 0
    assert "NO-CARRIER" in network.host("app4").output("ip", "link", "show", "eth0")
    network.heal("app4", "eth0")
    wait.until("app4 to be back", lambda: mgmt.run("ping", "-c", "1", "-W", "1", "10.0.0.4"))


def test_a_new_lease_changes_the_outside_address(network: Lab) -> None:
    client = network.host("client1")
    route = ["route add default via 203.0.113.1"]
    links.change_address(network.state, "nat1", "eth0", "203.0.113.101/24", "203.0.113.102/24", route)
    assert client.output("curl", "-s", "http://www.example.org/").endswith("203.0.113.102")
    links.change_address(network.state, "nat1", "eth0", "203.0.113.102/24", "203.0.113.101/24", route)
    assert client.output("curl", "-s", "http://www.example.org/").endswith("203.0.113.101")


def test_services_that_ask_for_it_are_restarted(network: Lab) -> None:
    app4 = network.host("app4")
    app4.start_service("short", ["sleep", "0.05"], restart=True)
    wait.until("three lives", lambda: app4.service("short")["restarts"] >= 2)
    app4.stop_service("short")
    app4.start_service("once", ["sh", "-c", "echo said; exit 3"])
    wait.until("its end", lambda: app4.service("once")["status"] == 3)
    assert app4.log("once").read_text() == "said\n"
    app4.stop_service("once")


def test_orphans_are_reaped(network: Lab) -> None:
    app4 = network.host("app4")
    app4.start_service("parent", ["sh", "-c", "(sleep 0.05; exit 0) & (exec sleep 0.1) & exit 0"])
    wait.until("no zombie", lambda: "Z" not in app4.output("ps", "-eo", "stat=,comm=").replace("\n", " "))
    app4.stop_service("parent")
