"""A machine becomes a server of the cluster with one token and nothing else."""

from __future__ import annotations

import json
from typing import Any

from portico.lab import wait
from portico.lab.deployment import DNS_KEY, install_server, start_server
from portico.lab.hosts import Host
from portico.lab.lab import Lab

STATE = "/var/lib/portico/server"
INTERNET, INTERNAL = "eth0", "eth1"


def dedicated(number: int) -> list[str]:
    """Options with the dedicated addresses of a server, outside of what the lab's hosts have."""
    return [
        f"--internet-dedicated-address=203.0.113.{200 + number}/24",
        f"--internal-dedicated-address=10.0.0.{200 + number}/24",
    ]


def in_force(host: Host) -> Any:
    return host.json("portico", "server", "status", "--json")["revision"]


def peers(host: Host) -> dict[str, Any]:
    found = host.json("portico", "lb", "servers", "--json")
    assert isinstance(found, dict)
    return found


def file(host: Host, path: str) -> str:
    """The checksum and the mode of a file."""
    digest = host.output("sha256sum", path).split()[0]
    return f"{digest} {host.output('stat', '-c', '%a', path).strip()}"


def secret(host: Host, name: str) -> str:
    """The same of a file of a server's state."""
    return file(host, f"{STATE}/{name}")


def test_a_second_server_joins_with_one_token(three_servers: Lab) -> None:
    first, second = three_servers.host("da1"), three_servers.host("da2")
    install_server(three_servers, "da1")
    first.run("portico", "lb", "enable", *dedicated(1), "--yes", timeout=60.0)
    made = first.json("portico", "lb", "add", "da2", *dedicated(2), "--yes", "--json", timeout=60.0)
    interfaces = ["--internet-interface", INTERNET, "--internal-interface", INTERNAL]
    second.run("portico", "server", "join", made["token"], *interfaces, "--yes", timeout=60.0)
    start_server(second)
    wait.until("da1 to reach da2", lambda: all(item["reachable"] for item in peers(first)["servers"]))
    assert [item["name"] for item in peers(first)["servers"]] == ["da2"]
    followed = first.run("portico", "lb", "progress", "da2", "--follow", "--json", timeout=60.0).stdout.splitlines()
    last = [json.loads(line) for line in followed if "addition" in json.loads(line)][-1]["addition"]
    assert [(step["step"], step["state"]) for step in last["steps"]] == [
        (name, "done") for name in ("preparing", "checking", "joining", "converging")
    ]
    assert peers(second)["leader"] == peers(first)["leader"] == "da1"
    assert in_force(first) == in_force(second)
    for name in ("certificates/authority.pem", "certificates/ticket_keys.json", "cluster/authority.pem"):
        assert secret(first, name) == secret(second, name)
        assert secret(second, name).endswith(" 600")
    # Files that the settings name come with the answer, also when they change later on a server that has them.
    assert file(second, DNS_KEY) == file(first, DNS_KEY)
    assert file(second, DNS_KEY).endswith(" 600")
    first.run("sh", "-c", f"echo '# looked at' >> {DNS_KEY}")
    wait.until("da2 to have the new key", lambda: file(second, DNS_KEY) == file(first, DNS_KEY))
    second.run("portico", "settings", "set", "drift=report", "--yes", timeout=60.0)
    assert in_force(first) == in_force(second)
    assert first.json("portico", "settings", "show", "--json")["settings"]["drift"] == "report"
    again = second.run("portico", "server", "join", made["token"], *interfaces, "--yes", check=False)
    assert again.returncode == 7, "it is a server already"
