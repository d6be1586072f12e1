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
from portico.lab.topology import CORP_DNS, dedicated
from tests.lab.helpers import APP4, APP6, agent_pid, reaches
from tests.lab.units import capabilities, start_unit

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd knows its groups of calls")

GATEWAY, TUNNEL, BALANCER = "portico-gateway", "portico-tunnel", "portico-balancer"
LOCATION = "portico-location"
SOCKET = "/run/portico/gateway/agent.sock"


@pytest.fixture(scope="module")
def lab(network: Lab) -> Iterator[Lab]:
    """A whole deployment under the units, with a connected client."""
    server, client = network.host("da1"), network.host("client1")
    deployment.give_dns_key(network, "da1")
    document = yaml.safe_dump(deployment.settings("da1"), sort_keys=False)
    server.write("/etc/portico/lab.yaml", document, 0o600)
    server.run("portico", "server", "install", "--file", "/etc/portico/lab.yaml", "--yes", "--no-start", timeout=60.0)
    # As the installation of the program does, before anybody enrols.
    client.run("useradd", "--system", "--no-create-home", "portico-client")
    start_unit(server, GATEWAY)
    start_unit(server, BALANCER)
    start_unit(server, LOCATION)
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


def process(server: Host, name: str) -> dict[str, object]:
    """The gateway or the balancer, as the agent sees it."""
    return dict(deployment.ask_server(server, "/v1/status")[name])


def gateway(server: Host) -> dict[str, object]:
    return process(server, "gateway")


def balancing(client: Host, server: Host) -> None:
    """The cluster converges, and its only server answers for the VIPs: the client comes through the entrance."""

    def logs() -> str:
        return server.log_tail(SERVER, 30) + server.log_tail(BALANCER, 30)

    def converged() -> bool:
        found = deployment.cluster_status(server)
        return bool(found.get("converged")) and found.get("problem") is None

    wait.until("the cluster to converge", converged, timeout=30.0, evidence=logs)
    for name in (APP4, APP6):
        wait.until(f"{name} to answer", lambda name=name: reaches(client, name), timeout=30.0, evidence=logs)  # type: ignore[misc]


def another_balancer(server: Host, old: int, timeout: float) -> None:
    wait.until(
        "another balancer to run",
        lambda: (
            server.service(BALANCER)["pid"] not in (None, old) and process(server, "balancer")["state"] == "running"
        ),
        timeout=timeout,
        evidence=lambda: server.log_tail(SERVER, 30) + server.log_tail(BALANCER, 30),
    )


def came_back(server: Host, client: Host, old: int, timeout: float) -> None:
    """Another gateway runs, and the client reaches both kinds of servers through it."""
    wait.until(
        "another gateway to run",
        lambda: gateway(server)["state"] == "running" and gateway(server)["pid"] != old,
        timeout=timeout,
        evidence=lambda: server.log_tail(SERVER, 30) + server.log_tail(GATEWAY),
    )
    for name in (APP4, APP6):
        # A client whose quick redials were all refused waits half a minute ([MS-IPHTTPS] 3.1.2.1).
        wait.until(f"{name} to answer", lambda name=name: reaches(client, name), timeout=60.0)  # type: ignore[misc]


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
        timeout=30.0,
    )
    wait.until("the client to be back", lambda: reaches(client, APP4) and reaches(client, APP6), timeout=30.0)
    assert agent_pid(server, GATEWAY) == before, "nobody had to be started again"


def test_a_killed_gateway_comes_back(client: Host, server: Host) -> None:
    old = agent_pid(server, GATEWAY)
    server.run("kill", "-KILL", str(old))
    came_back(server, client, old, 60.0)


def test_a_gateway_that_stands_still_is_replaced(client: Host, server: Host) -> None:
    """The agent may not send it signals: it cuts its lifeline."""
    old = agent_pid(server, GATEWAY)
    server.run("kill", "-STOP", str(old))
    came_back(server, client, old, 60.0)
    assert server.service(GATEWAY)["status"] in (None, -signal.SIGKILL)


def test_a_killed_tunnel_comes_back(client: Host) -> None:
    old = agent_pid(client, TUNNEL)
    client.run("kill", "-KILL", str(old))
    wait.until("another tunnel process", lambda: client.service(TUNNEL)["pid"] not in (None, old), timeout=30.0)
    wait.until("the client to be back", lambda: reaches(client, APP4) and reaches(client, APP6), timeout=30.0)


def test_the_gateway_ends_with_its_agent_and_both_come_back(client: Host, server: Host) -> None:
    agent, old = agent_pid(server), agent_pid(server, GATEWAY)
    server.run("kill", "-KILL", str(agent))
    wait.until("another agent", lambda: server.service(SERVER)["pid"] not in (None, agent), timeout=30.0)
    wait.until("its API", lambda: deployment.ask_server(server, "/v1/status")["serving"])
    came_back(server, client, old, 60.0)


def test_a_second_gateway_is_refused(client: Host, server: Host) -> None:
    first = agent_pid(server, GATEWAY)
    account = ["setpriv", "--reuid=portico-gateway", "--regid=portico-gateway", "--clear-groups"]
    program = [PYTHON, "-P", "-m", "portico.server.gateway_process", "--connect", SOCKET]
    got = server.run(*account, *program, check=False)
    assert got.returncode == 1
    assert "another process is there" in got.stderr
    assert agent_pid(server, GATEWAY) == first
    assert reaches(client)


def test_the_balancer_waits_while_load_balancing_is_off(server: Host) -> None:
    found = process(server, "balancer")
    assert (found["state"], found["configured"], found["unit"]) == ("stopped", False, "portico-balancer.service")
    assert "waits until load balancing is enabled" in str(found["reason"])
    assert "portico-balancer.service" in server.output("portico", "server", "status")


def test_nobody_else_reaches_the_socket_of_the_balancer(server: Host) -> None:
    talk = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/portico/balancer/agent.sock')"
    for account in ("nobody", "portico-gateway"):
        got = server.run("setpriv", f"--reuid={account}", "--clear-groups", "python3", "-c", talk, check=False)
        assert "PermissionError" in got.stderr


def test_an_address_that_another_machine_has_is_not_taken(server: Host) -> None:
    """The agent has no raw sockets: the balancer asks the link."""
    options = ["--internet-dedicated-address", "203.0.113.21/24", "--internal-dedicated-address", f"{CORP_DNS}/24"]
    refused = server.run("portico", "lb", "enable", *options, "--yes", check=False)
    assert refused.returncode != 0
    assert CORP_DNS in refused.stdout + refused.stderr
    assert "LB_ADDRESS_IN_USE" in refused.stdout + refused.stderr


def test_a_cluster_of_one_server_answers_for_its_addresses(client: Host, server: Host) -> None:
    options = []
    for side, interface in (("internet", "eth0"), ("internal", "eth1")):
        for address in dedicated(1)[interface]:
            options += [f"--{side}-dedicated-address", address]
    server.run("portico", "lb", "enable", *options, "--yes", timeout=60.0)
    balancing(client, server)
    found = process(server, "balancer")
    assert (found["state"], found["pid"], found["configured"]) == ("running", agent_pid(server, BALANCER), True)
    assert len(deployment.cluster_status(server)["servers"]) == 1


def test_the_balancer_has_an_account_of_its_own_and_the_capabilities_of_its_unit(server: Host) -> None:
    found = status(server, agent_pid(server, BALANCER))
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(found[kind], 16) == capabilities(BALANCER), kind
    assert int(found["CapAmb"], 16) == 0, "no program that it starts has them"
    assert set(found["Uid"].split()) == {server.output("id", "-u", BALANCER)}
    assert found["Groups"] == ""
    assert (found["NoNewPrivs"], found["Seccomp_filters"]) == ("1", "2")


def test_the_balancer_may_use_every_filter_that_the_machine_can(server: Host) -> None:
    """What the unit leaves decides nothing: without a unit the choice is the same."""
    script = "from portico.balancing.nlb.choose import choose; print(choose().name)"
    assert deployment.cluster_status(server)["filter"] == server.output(PYTHON, "-P", "-c", script)


def test_a_killed_balancer_comes_back(client: Host, server: Host) -> None:
    old = agent_pid(server, BALANCER)
    server.run("kill", "-KILL", str(old))
    another_balancer(server, old, 60.0)
    balancing(client, server)


def test_a_balancer_that_stands_still_is_replaced(client: Host, server: Host) -> None:
    """The agent may not send it signals: it cuts its lifeline, which another process watches."""
    old = agent_pid(server, BALANCER)
    server.run("kill", "-STOP", str(old))
    another_balancer(server, old, 60.0)
    balancing(client, server)


def test_the_balancer_says_goodbye_when_its_agent_dies(client: Host, server: Host) -> None:
    """It is not killed with the agent, as a gateway is: the other servers are told first."""
    agent, old = agent_pid(server), agent_pid(server, BALANCER)
    before = server.log_tail(BALANCER, 10_000).count("after='stopped'")
    server.run("kill", "-KILL", str(agent))
    another_balancer(server, old, 60.0)
    assert server.log_tail(BALANCER, 10_000).count("after='stopped'") == before + 1
    balancing(client, server)


def test_load_balancing_is_disabled_again(client: Host, server: Host) -> None:
    server.run("portico", "lb", "disable", "--yes", timeout=60.0)
    wait.until(
        "the balancer to wait",
        lambda: "waits until load balancing is enabled" in str(process(server, "balancer")["reason"]),
        timeout=30.0,
    )
    # Neighbours find the address at its interface's own MAC address again, and the client's back-off passes.
    wait.until("the client to be back", lambda: reaches(client, APP4) and reaches(client, APP6), timeout=150.0)


def test_disconnecting_and_connecting_gives_everything_back_and_takes_it_again(client: Host) -> None:
    client.run("portico", "client", "disconnect")
    assert "portico" not in client.output("cat", "/etc/resolv.conf").lower()
    assert client.run("nft", "list", "table", "inet", "portico", check=False).returncode != 0
    client.run("portico", "client", "connect")
    deployment.wait_for_client(client)
    assert reaches(client, APP4)
