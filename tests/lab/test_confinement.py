"""What the kernel lets the processes do that hold the tunnels: nothing but that."""

from __future__ import annotations

import json

import pytest

from portico.lab import wait
from portico.lab.hosts import Host
from tests.lab.helpers import gateway_pid, reaches

SECCOMP_FILTER = "2"


def _status(host: Host, pid: int, thread: str) -> dict[str, str]:
    lines = host.output("cat", f"/proc/{pid}/task/{thread}/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _tunnel_pid(client: Host) -> int:
    return int(client.output("pgrep", "-f", "portico.client.tunnel_process").split()[-1])


def _confined(host: Host, pid: int) -> None:
    threads = host.output("ls", f"/proc/{pid}/task").split()
    assert len(threads) > 1
    for thread in threads:
        status = _status(host, pid, thread)
        assert status["Seccomp"] == SECCOMP_FILTER, f"thread {thread} is free: {status}"
        assert status["NoNewPrivs"] == "1"
        for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[kind], 16) == 0, f"{kind} of thread {thread} is {status[kind]}"
        assert "0" not in status["Uid"].split(), "it runs as an account of its own"
        assert "0" not in status["Gid"].split()
        assert status["Groups"] == ""


def test_the_gateway_has_no_privilege_and_a_system_call_filter(server: Host) -> None:
    _confined(server, gateway_pid(server))


def test_the_client_tunnel_has_no_privilege_and_a_system_call_filter(client: Host) -> None:
    _confined(client, _tunnel_pid(client))


@pytest.mark.parametrize("secret", ["environ", "mem", "maps"])
def test_nobody_else_reads_the_memory_of_the_gateway(server: Host, secret: str) -> None:
    """Not even its own account: it holds the keys of the entrance (PR_SET_DUMPABLE 0)."""
    pid = gateway_pid(server)
    uid = _status(server, pid, str(pid))["Uid"].split()[0]
    got = server.run("setpriv", f"--reuid={uid}", "--clear-groups", "cat", f"/proc/{pid}/{secret}", check=False)
    assert got.returncode != 0, f"/proc/{pid}/{secret} can be read"


def test_settings_and_clients_change_under_the_filter(client: Host, server: Host) -> None:
    """Connections, sockets and threads that come later come under the filter, and nothing they need is missing."""
    pids = gateway_pid(server), _tunnel_pid(client)
    document = server.json("portico", "settings", "show", "--json")["settings"]
    document["dns64"]["latency_milliseconds"] = 10
    server.write("/etc/portico/changed.yaml", json.dumps(document))
    server.run("portico", "settings", "apply", "/etc/portico/changed.yaml", "--yes")
    server.run("portico", "clients", "disconnect", "client1", "--yes")
    wait.until("the client to be back", lambda: reaches(client), timeout=30.0)
    assert pids == (gateway_pid(server), _tunnel_pid(client)), "nobody had to be started again"
    _confined(server, pids[0])
