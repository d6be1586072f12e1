"""The cluster's settings are in etcd, and service goes on whatever becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from portico.lab import deployment, wait
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from tests.lab.continuity import SERVERS
from tests.lab.helpers import reaches


def store(host: Host) -> dict[str, Any]:
    """The store as a server sees it."""
    return dict(deployment.ask_server(host, "/v1/cluster/store"))


def states(host: Host) -> dict[str, str]:
    return {str(item["name"]): str(item["state"]) for item in store(host)["members"]}


def in_force(host: Host) -> int:
    return int(deployment.ask_server(host, "/v1/status")["revision"])


def change(host: Host, value: str, *, check: bool = True) -> Any:
    command = ("portico", "settings", "set", f"drift={value}", "--yes", "--json")
    return host.run(*command, check=check, timeout=120.0)


@pytest.mark.timeout(900)
def test_service_goes_on_without_a_quorum_and_across_a_restart(cluster: Lab) -> None:
    first, second, third = (cluster.host(name) for name in SERVERS)
    client = cluster.host("client1")
    wait.until("client1 to reach the intranet", lambda: reaches(client), timeout=60.0)
    first.run("portico", "cluster", "store", "move", "etcd", "--yes", timeout=180.0)
    assert set(states(first)) == set(SERVERS)
    change(second, "report")
    number = in_force(second)
    wait.until("all to have it", lambda: all(in_force(cluster.host(name)) == number for name in SERVERS), timeout=60.0)
    # Two of three lose power: the last one serves, refuses changes, and says what to do.
    for host in (second, third):
        cluster.kill(host.name)
    refused = change(first, "repair", check=False)
    assert refused.returncode != 0
    assert "etcd has no quorum" in refused.stdout + refused.stderr
    assert "portico cluster store recover" in refused.stdout + refused.stderr
    deployment.start_server(first)
    wait.until("client1 to be back on the last server", lambda: reaches(client), timeout=60.0)
    assert in_force(first) == number
    wait.until("it to say so", lambda: store(first)["read_only"], timeout=60.0)
    first.run("portico", "cluster", "store", "recover", "--yes", timeout=180.0)
    change(first, "repair")
    assert reaches(client)
    # The others come back: they are members of the new etcd and have the newest settings.
    for host in (second, third):
        cluster.restart(host.name)
    wait.until(
        "three voters",
        lambda: sorted(states(first).values()) == ["leads", "votes", "votes"],
        timeout=120.0,
    )
    wait.until(
        "all to have it",
        lambda: len({in_force(cluster.host(name)) for name in SERVERS}) == 1,
        timeout=60.0,
    )
    deployment.wait_for_convergence(cluster, SERVERS, timeout=60.0)
