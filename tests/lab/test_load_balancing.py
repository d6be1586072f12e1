"""One server becomes the first of a cluster and serves alone again; clients and the administrator notice little."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from portico.lab import deployment, wait
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from portico.lab.services import nginx
from tests.lab.helpers import APP4, APP6, SERVER_ADDRESS, gateway_pid, reaches, start_download

VIP6, DIP6 = "fd7c:1a2b:3c4d:1::2", "fd7c:1a2b:3c4d:1::12"
ENABLE = (
    *("portico", "lb", "enable", "--yes"),
    *("--internet-dedicated-address", "203.0.113.12 /255.255.255.0"),
    *("--internal-dedicated-address", "10.0.0.12/24", "--internal-dedicated-address", f"{DIP6}/64"),
)


def machine(server: Host) -> list[str]:
    """Everything of the server's network that load balancing may touch, and nothing of Portico's own devices."""
    text = [
        server.output("ip", "-o", "addr"),
        server.output("ip", "-4", "route", "show", "table", "all"),
        server.output("ip", "-6", "route", "show", "table", "all"),
        server.output("sysctl", "net.ipv4.conf.eth0.promote_secondaries", "net.ipv4.conf.eth1.promote_secondaries"),
    ]
    return [line for part in text for line in sorted(part.splitlines()) if "portico-" not in line]


def addresses(server: Host) -> dict[str, set[str]]:
    """Global addresses by interface."""
    found: dict[str, set[str]] = {}
    for link in json.loads(server.output("ip", "-j", "addr")):
        found[link["ifname"]] = {
            f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"] if entry["scope"] == "global"
        }
    return found


def session(server: Host) -> dict[str, Any]:
    (client,) = deployment.ask_server(server, "/v1/clients")["clients"]
    assert len(client["sessions"]) == 1, client
    found: dict[str, Any] = client["sessions"][0]
    return found


@pytest.fixture
def server(lab: Lab) -> Iterator[Host]:
    """The server, with an address that the cluster has nothing to do with.

    Nobody answers for IPv6 addresses on `lo` by itself: here the kernel's neighbour proxy stands for the part of the
    load balancing that does.
    """
    host = lab.host("da1")
    host.run("ip", "addr", "add", "198.51.100.5/24", "dev", "eth0")
    host.run("sysctl", "-qw", "net.ipv6.conf.eth1.proxy_ndp=1", "net.ipv6.neigh.eth1.proxy_delay=0")
    host.run("ip", "-6", "neigh", "add", "proxy", VIP6, "dev", "eth1")
    try:
        yield host
    finally:
        host.run("portico", "lb", "disable", "--yes", check=False)
        host.run("ip", "addr", "del", "198.51.100.5/24", "dev", "eth0")
        host.run("ip", "-6", "neigh", "del", "proxy", VIP6, "dev", "eth1", check=False)


def test_load_balancing_can_be_enabled_and_disabled(lab: Lab, client: Host, server: Host, mgmt: Host) -> None:
    checksum = nginx.put_large_file(lab.host("app6"), 60_000_000)
    wait.until("the intranet", lambda: reaches(client), timeout=30.0)
    before, tunnel, gateway = machine(server), session(server)["session"], gateway_pid(server)
    inside = deployment.tunnel_address(client)
    planned = server.json(*ENABLE, "--dry-run", "--json")
    assert machine(server) == before
    assert any("existing address 203.0.113.11 becomes a VIP" in line for line in planned["difference"]["lines"])

    download = start_download(client, f"http://{APP6}/{nginx.LARGE}", rate="10M")
    wait.until("the download to run", lambda: download.size() > 1_000_000, timeout=30.0)
    server.run(*ENABLE)
    found = addresses(server)
    assert found["lo"] == {"203.0.113.11/32", "10.0.0.2/32", f"{VIP6}/128"}
    assert found["eth0"] == {"203.0.113.12/24", "198.51.100.5/24", "2001:db8:ffff::11/64"}
    assert found["eth1"] == {"10.0.0.12/24", f"{DIP6}/64"}
    assert "default via 203.0.113.1" in server.output("ip", "route")
    assert "default via 2001:db8:ffff::1" in server.output("ip", "-6", "route")
    assert "src 203.0.113.12" in server.output("ip", "route", "get", "203.0.113.1")

    download.finish()
    assert nginx.checksum(download.file) == checksum
    assert session(server)["session"] == tunnel, "the tunnel is the same one"
    assert gateway_pid(server) == gateway
    assert deployment.tunnel_address(client) == inside
    answer = client.output("curl", "-sf", "--max-time", "5", f"http://{APP4}/")
    assert answer == "app4 answers, and sees you as 10.0.0.12", "NAT64 translates to the dedicated address"
    mgmt.run("ping", "-6", "-c", "1", "-W", "2", inside)

    # Whoever has forgotten the server's MAC address finds it again, at the virtual address.
    lab.host("internet").run("ip", "neigh", "flush", "all")
    lab.host("nat1").run("ip", "neigh", "flush", "all")
    lab.host("app6").run("ip", "-6", "neigh", "flush", "all")
    server.run("portico", "clients", "disconnect", "client1", "--yes")
    wait.until("the client to have redialled", lambda: reaches(client), timeout=30.0)
    assert session(server)["session"] != tunnel
    peers = client.output("ss", "-Htn", "dport = :443")
    assert SERVER_ADDRESS in peers
    shown = server.output("portico", "lb", "show")
    assert "203.0.113.12/255.255.255.0" in shown
    assert server.json("portico", "server", "status", "--json")["drifting"] == []

    tunnel = session(server)["session"]
    server.run("portico", "lb", "disable", "--yes")
    assert machine(server) == before
    assert session(server)["session"] == tunnel
    assert client.output("curl", "-sf", "--max-time", "5", f"http://{APP4}/").endswith("10.0.0.2")


def test_a_failed_enable_leaves_everything_as_it_was(client: Host, server: Host) -> None:
    wait.until("the intranet", lambda: reaches(client), timeout=30.0)
    before, tunnel = machine(server), session(server)["session"]
    revision = server.json("portico", "server", "status", "--json")["revision"]
    # Two of the three interfaces are done when the kernel refuses an IPv6 address on the third.
    server.run("ip", "-6", "addr", "del", f"{VIP6}/64", "dev", "eth1")
    server.run("sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=1")
    crippled = machine(server)
    virtual = ("--internal-virtual-address", "10.0.0.2/24", "--internal-virtual-address", f"{VIP6}/64")
    failed = server.run(*ENABLE, *virtual, "--json", check=False)
    try:
        assert failed.returncode != 0
        error = json.loads(failed.stderr.splitlines()[-1])["error"]
        assert error["code"] == "APPLY_FAILED"
        assert "eth1" in error["why"]
        assert machine(server) == crippled
        status = server.json("portico", "server", "status", "--json")
        assert status["serving"] is True
        assert status["revision"] == revision + 2, "the former settings, stored again"
        assert server.json("portico", "settings", "show", "--json")["settings"]["load_balancing"] is None
    finally:
        server.run("sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=0")
        server.run("ip", "-6", "addr", "add", f"{VIP6}/64", "dev", "eth1", "nodad")
    assert machine(server) == before
    assert session(server)["session"] == tunnel
    wait.until("the intranet", lambda: reaches(client, APP4), timeout=30.0)


def test_an_impossible_enable_is_refused_before_anything_is_touched(server: Host) -> None:
    before = machine(server)
    wrong = ("--internet-dedicated-address", "203.0.113.11/24", "--internal-dedicated-address", "10.0.0.12/24")
    for options, code in (
        (wrong, "LB_NO_ADDRESSES"),
        (("--internet-dedicated-address", "192.0.2.9/24"), "LB_NO_ADDRESSES"),
        (("--internet-dedicated-address", "203.0.113.12/25", *wrong[2:]), "LB_PREFIX_LENGTH"),
        (("--internet-dedicated-address", "203.0.113.12"), "INVALID_INPUT"),
    ):
        refused = server.run("portico", "lb", "enable", *options, "--yes", "--json", check=False)
        assert refused.returncode != 0
        assert code in refused.stderr, refused.stderr
    assert machine(server) == before
