"""What dies comes back by itself, and what ran goes on."""

from __future__ import annotations

import time

import pytest

from portico.lab import deployment, links, wait
from portico.lab.deployment import CLIENT, SERVER
from portico.lab.hosts import CODE, PYTHON, Host
from portico.lab.lab import Lab
from portico.lab.services import nginx
from tests.lab.helpers import (
    APP4,
    APP6,
    LONGEST,
    SERVER_ADDRESS,
    Download,
    agent_pid,
    gateway_pid,
    reaches,
    start_download,
    time_until,
)

SIZE = 150_000_000
RATE = "30M"  # bytes a second: the download lasts five seconds


@pytest.fixture(scope="module")
def checksum(lab: Lab) -> str:
    nginx.put_large_file(lab.host("app6"), SIZE)
    return nginx.put_large_file(lab.host("app4"), SIZE)


@pytest.fixture(params=[APP4, APP6])
def download(request: pytest.FixtureRequest, client: Host, checksum: str) -> Download:
    """A download that is under way, through NAT64 and natively."""
    wait.until("the intranet", lambda: reaches(client), timeout=30.0)
    started = start_download(client, f"http://{request.param}/{nginx.LARGE}", rate=RATE)
    wait.until("the download to run", lambda: started.size() > SIZE // 10, timeout=30.0)
    return started


def entrance_answers(client: Host) -> bool:
    """Whether the server shakes hands and answers HTTP."""
    got = client.run(
        "curl", "-sk", "-o", "/dev/null", "--max-time", "1", f"https://{SERVER_ADDRESS}/portico/v1/trust", check=False
    )
    return got.returncode == 0


def test_a_killed_gateway_is_back_within_a_second(client: Host, server: Host) -> None:
    old = gateway_pid(server)
    server.run("kill", "-KILL", str(old))
    killed = time.monotonic()
    wait.until("the entrance to answer", lambda: entrance_answers(client), timeout=30.0, interval=0.01)
    seconds = time.monotonic() - killed
    print(f"the entrance answered {seconds:.2f} s after the gateway was killed")
    assert seconds < LONGEST  # a second, and room for a machine that is busy with something else
    assert gateway_pid(server) != old
    assert time_until("the client to have redialled", client) < LONGEST


def test_a_gateway_of_which_one_worker_stands_still_is_replaced(client: Host, server: Host) -> None:
    """The other worker goes on, and so does what answers the agent: half of the clients would wait for ever."""
    old = gateway_pid(server)
    stop = [PYTHON, f"{CODE}/tests/peers/stop_thread.py", str(old), "portico-worker"]
    server.start_service("stop", stop)
    try:
        wait.until(
            "the worker to stand still",
            lambda: "stands still" in server.log("stop").read_text(),
            evidence=lambda: server.log_tail("stop"),
        )
        wait.until("another gateway", lambda: gateway_pid(server) != old, timeout=60.0)
    finally:
        server.stop_service("stop")
    wait.until("the client to be back", lambda: reaches(client), timeout=60.0)
    log = server.log(SERVER).read_text()
    assert "no sign of life" in log


@pytest.mark.parametrize("download", [APP6], indirect=True)
def test_native_download_survives_a_killed_gateway(
    client: Host, server: Host, download: Download, checksum: str
) -> None:
    server.run("kill", "-KILL", str(gateway_pid(server)))
    download.finish()
    assert nginx.checksum(download.file) == checksum


def test_download_survives_a_disconnect_by_the_administrator(
    client: Host, server: Host, download: Download, checksum: str
) -> None:
    server.run("portico", "clients", "disconnect", "client1", "--yes")
    download.finish()
    assert nginx.checksum(download.file) == checksum


@pytest.mark.parametrize("download", [APP6], indirect=True)
def test_native_download_survives_an_agent_restart(
    client: Host, server: Host, download: Download, checksum: str
) -> None:
    old = agent_pid(server)
    server.run("kill", "-KILL", str(old))
    wait.until("a new agent", lambda: agent_pid(server) != old, timeout=30.0)
    download.finish()
    assert nginx.checksum(download.file) == checksum


def test_client_agent_restart_keeps_the_identity(client: Host) -> None:
    old = agent_pid(client, CLIENT)
    client.run("kill", "-TERM", str(old))
    wait.until("a new agent", lambda: client.service(CLIENT)["pid"] not in (None, old), timeout=30.0)
    time_until("the intranet", client)


def test_server_power_cut_and_restart(lab: Lab, client: Host, server: Host) -> None:
    lab.kill("da1")
    assert not reaches(client, seconds=1.0)
    lab.restart("da1")
    deployment.wait_for_server(server)
    time_until("the client to be back", client, timeout=60.0)


def test_client_power_cut_and_restart(lab: Lab, client: Host) -> None:
    lab.restart("client1")
    time_until("the intranet", client)


def test_download_survives_a_change_of_the_clients_public_address(
    lab: Lab, client: Host, download: Download, checksum: str
) -> None:
    route = ["route add default via 203.0.113.1"]
    links.change_address(lab.state, "nat1", "eth0", "203.0.113.101/24", "203.0.113.102/24", route)
    try:
        download.finish()
        assert nginx.checksum(download.file) == checksum
    finally:
        links.change_address(lab.state, "nat1", "eth0", "203.0.113.102/24", "203.0.113.101/24", route)
    time_until("the client to be back on its first address", client, timeout=60.0)


def test_client_changes_its_own_address(lab: Lab, client: Host) -> None:
    route = ["route add default via 192.168.1.1"]
    links.change_address(lab.state, "client1", "eth0", "192.168.1.10/24", "192.168.1.11/24", route)
    try:
        time_until("the intranet from the new address", client)
    finally:
        links.change_address(lab.state, "client1", "eth0", "192.168.1.11/24", "192.168.1.10/24", route)
    time_until("the intranet from the old address", client)


def test_a_pulled_cable_is_survived(lab: Lab, client: Host, download: Download, checksum: str) -> None:
    lab.cut("client1", "eth0")
    assert not reaches(client, seconds=1.0)
    lab.heal("client1", "eth0")
    download.finish()
    assert nginx.checksum(download.file) == checksum


def test_client_wakes_from_suspend(client: Host, server: Host) -> None:
    """Everything of the client stands still for longer than the server's patience with its session."""
    pids = client.output("pgrep", "-f", "portico").split()
    client.run("kill", "-STOP", *pids)
    server.run("portico", "clients", "disconnect", "client1", "--yes", check=False)
    server.run("kill", "-KILL", str(gateway_pid(server)))
    time.sleep(2.0)  # how long it sleeps is the scenario, not a guess
    client.run("kill", "-CONT", *pids)
    time_until("the intranet after waking", client)


def test_the_server_may_be_away_for_long(lab: Lab, client: Host, server: Host) -> None:
    server.stop_service(SERVER)
    time.sleep(3.0)  # the length of the outage is the scenario
    deployment.start_server(server)
    time_until("the client to have redialled", client, timeout=60.0)
