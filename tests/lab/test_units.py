"""Server and client under exactly what their units leave them: accounts, capabilities, system calls, files, devices.

Where systemd does not run, `tests.lab.in_unit` stands in for it. The packet paths have units of their own and connect.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator

import pytest
import yaml

from portico.lab import deployment, wait
from portico.lab.deployment import CLIENT, SERVER
from portico.lab.hosts import PYTHON, Host
from portico.lab.lab import Lab
from tests.lab.helpers import APP4, APP6, agent_pid, reaches
from tests.lab.units import capabilities, start_unit

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd knows its groups of calls")

GATEWAY, TUNNEL = "portico-gateway", "portico-tunnel"
SOCKET = "/run/portico/gateway/agent.sock"


@pytest.fixture(scope="module")
def lab(network: Lab) -> Iterator[Lab]:
    """A whole deployment under the units, with a connected client."""
    server, client = network.host("da1"), network.host("client1")
    document = yaml.safe_dump(deployment.settings("da1"), sort_keys=False)
    server.write("/etc/portico/lab.yaml", document, 0o600)
    server.run("portico", "server", "install", "--file", "/etc/portico/lab.yaml", "--yes", "--no-start", timeout=60.0)
    # As the installation of the program does, before anybody enrols.
    client.run("useradd", "--system", "--no-create-home", "portico-client")
    start_unit(server, GATEWAY)
    start_unit(server, SERVER)
    deployment.wait_for_server(server)
    start_unit(client, CLIENT)
    start_unit(client, TUNNEL)
    client.run("portico", "client", "enrol", deployment.enrolment_token(server, "client1"), timeout=60.0)
    deployment.wait_for_client(client)
    yield network


def status(host: Host, pid: int) -> dict[str, str]:
    lines = host.output("cat", f"/proc/{pid}/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def gateway(server: Host) -> dict[str, object]:
    found: dict[str, object] = json.loads(server.run("portico", "server", "status", "--json", check=False).stdout)[
        "gateway"
    ]
    return found


def came_back(server: Host, client: Host, old: int, timeout: float) -> None:
    """Another gateway runs, and the client reaches both kinds of servers through it."""
    wait.until(
        "another gateway to run",
        lambda: gateway(server)["state"] == "running" and gateway(server)["pid"] != old,
        timeout=timeout,
        evidence=lambda: server.log_tail(SERVER, 30) + server.log_tail(GATEWAY),
    )
    for name in (APP4, APP6):
        wait.until(f"{name} to answer", lambda name=name: reaches(client, name), timeout=20.0)  # type: ignore[misc]


def test_a_client_reaches_the_intranet(client: Host) -> None:
    assert reaches(client, APP4)
    assert reaches(client, APP6)


@pytest.mark.parametrize("name", [SERVER, CLIENT])
def test_the_agent_has_the_capabilities_of_its_unit_and_no_more(lab: Lab, name: str) -> None:
    host = lab.host("da1" if name == SERVER else "client1")
    found = status(host, agent_pid(host, name))
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(found[kind], 16) == capabilities(name), kind
    assert found["NoNewPrivs"] == "1"
    assert found["Seccomp_filters"] == "2"


@pytest.mark.parametrize(("name", "account"), [(GATEWAY, "portico-gateway"), (TUNNEL, "portico-client")])
def test_the_packet_path_has_an_account_of_its_own_and_nothing_else(lab: Lab, name: str, account: str) -> None:
    host = lab.host("da1" if name == GATEWAY else "client1")
    pid = agent_pid(host, name)
    found = status(host, pid)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[kind], 16) == 0, kind
    assert set(found["Uid"].split()) == {host.output("id", "-u", account)}
    assert found["Groups"] == ""
    assert found["NoNewPrivs"] == "1"
    assert int(found["Seccomp_filters"]) > 2, "those of its unit and its own"


def test_the_status_names_the_unit(server: Host) -> None:
    found = gateway(server)
    assert (found["state"], found["unit"]) == ("running", "portico-gateway.service")
    assert found["pid"] == agent_pid(server, GATEWAY)
    assert "portico-gateway.service" in server.output("portico", "server", "status")


def test_nobody_else_reaches_the_socket_of_the_gateway(server: Host) -> None:
    talk = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({SOCKET!r})"
    got = server.run("setpriv", "--reuid=nobody", "--clear-groups", "python3", "-c", talk, check=False)
    assert "PermissionError" in got.stderr


def test_settings_change_and_drift_is_repaired(client: Host, server: Host) -> None:
    before = agent_pid(server, GATEWAY)
    document = server.json("portico", "settings", "show", "--json")["settings"]
    document["dns64"]["latency_milliseconds"] = 10
    server.write("/etc/portico/changed.yaml", json.dumps(document))
    server.run("portico", "settings", "apply", "/etc/portico/changed.yaml", "--yes")
    server.run("nft", "delete", "table", "inet", "portico")
    server.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0")
    wait.until(
        "the table and forwarding to be back",
        lambda: (
            server.run("nft", "list", "table", "inet", "portico", check=False).returncode == 0
            and server.output("sysctl", "-n", "net.ipv6.conf.all.forwarding") == "1"
        ),
        timeout=20.0,
    )
    wait.until("the client to be back", lambda: reaches(client, APP4) and reaches(client, APP6), timeout=20.0)
    assert agent_pid(server, GATEWAY) == before, "nobody had to be started again"


def test_a_killed_gateway_comes_back(client: Host, server: Host) -> None:
    old = agent_pid(server, GATEWAY)
    server.run("kill", "-KILL", str(old))
    came_back(server, client, old, 10.0)


def test_a_gateway_that_stands_still_is_replaced(client: Host, server: Host) -> None:
    """The agent may not send it signals: it cuts its lifeline."""
    old = agent_pid(server, GATEWAY)
    server.run("kill", "-STOP", str(old))
    came_back(server, client, old, 60.0)
    assert server.service(GATEWAY)["status"] in (None, -signal.SIGKILL)


def test_a_killed_tunnel_comes_back(client: Host) -> None:
    old = agent_pid(client, TUNNEL)
    client.run("kill", "-KILL", str(old))
    wait.until("another tunnel process", lambda: client.service(TUNNEL)["pid"] not in (None, old), timeout=10.0)
    wait.until("the client to be back", lambda: reaches(client, APP4) and reaches(client, APP6), timeout=20.0)


def test_the_gateway_ends_with_its_agent_and_both_come_back(client: Host, server: Host) -> None:
    agent, old = agent_pid(server), agent_pid(server, GATEWAY)
    server.run("kill", "-KILL", str(agent))
    wait.until("another agent", lambda: server.service(SERVER)["pid"] not in (None, agent), timeout=10.0)
    wait.until("its API", lambda: server.run("portico", "server", "status", check=False).returncode == 0, timeout=30.0)
    came_back(server, client, old, 20.0)


def test_a_second_gateway_is_refused(client: Host, server: Host) -> None:
    first = agent_pid(server, GATEWAY)
    account = ["setpriv", "--reuid=portico-gateway", "--regid=portico-gateway", "--clear-groups"]
    program = [PYTHON, "-P", "-m", "portico.server.gateway_process", "--connect", SOCKET]
    got = server.run(*account, *program, check=False)
    assert got.returncode == 1
    assert "another process is there" in got.stderr
    assert agent_pid(server, GATEWAY) == first
    assert reaches(client)


def test_disconnecting_and_connecting_gives_everything_back_and_takes_it_again(client: Host) -> None:
    client.run("portico", "client", "disconnect")
    assert "portico" not in client.output("cat", "/etc/resolv.conf").lower()
    assert client.run("nft", "list", "table", "inet", "portico", check=False).returncode != 0
    client.run("portico", "client", "connect")
    deployment.wait_for_client(client)
    assert reaches(client, APP4)
