"""A machine becomes a server of the cluster with one token and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from portico import __version__
from portico.lab import wait
from portico.lab.deployment import DNS_KEY, SERVER, ask_server, cluster_status, install_server, start_server
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from tests.lab import installed

STATE = "/var/lib/portico/server"
NEWER, WORSE = "0.2.0", "0.2.1"
INTERNET, INTERNAL = "eth0", "eth1"


def dedicated(number: int) -> list[str]:
    """Options with the dedicated addresses of a server, outside of what the lab's hosts have."""
    return [
        f"--internet-dedicated-address=203.0.113.{200 + number}/24",
        f"--internal-dedicated-address=10.0.0.{200 + number}/24",
    ]


def in_force(host: Host) -> Any:
    return ask_server(host, "/v1/status")["revision"]


def peers(host: Host) -> dict[str, Any]:
    found = host.json("portico", "lb", "servers", "--json")
    assert isinstance(found, dict)
    return found


def member(host: Host, name: str) -> dict[str, Any]:
    """A server of the cluster as another one sees it."""
    found = cluster_status(host).get("servers", ())
    return next((item for item in found if item["name"] == name), {})


def state(host: Host, name: str) -> str | None:
    return member(host, name).get("state")


def version(host: Host, name: str) -> str | None:
    return member(host, name).get("version")


def file(host: Host, path: str) -> str:
    """The checksum and the mode of a file."""
    digest = host.output("sha256sum", path).split()[0]
    return f"{digest} {host.output('stat', '-c', '%a', path).strip()}"


def secret(host: Host, name: str) -> str:
    """The same of a file of a server's state."""
    return file(host, f"{STATE}/{name}")


@pytest.mark.timeout(600)  # an installation and six starts of a server, beside whatever else runs
def test_a_second_server_joins_with_one_token_and_is_upgraded(three_servers: Lab) -> None:
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
    upgraded_while_the_other_serves(first, second)


def upgraded_while_the_other_serves(first: Host, second: Host) -> None:
    """The program of one server is exchanged, and put back when it is no good; the other one works with it."""
    second.stop_service(SERVER)
    installed.install(second, installed.wheel(second, __version__))
    installed.portico(second, "server", "start", timeout=90.0)
    wait.until("da2 to take clients again", lambda: state(first, "da2") in ("Converged", "Default"), timeout=60.0)

    def upgrade(path: str, **options: Any) -> dict[str, Any]:
        done = installed.portico(
            second, "server", "upgrade", "--wheel", path, "--yes", "--json", timeout=240.0, **options
        )
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    found = upgrade(installed.wheel(second, NEWER))
    assert found["upgraded"], found
    wait.until("da1 to hear of it", lambda: version(first, "da2") == NEWER)
    assert state(first, "da2") in ("Converged", "Default")
    turns = json.loads(first.run("portico", "cluster", "upgrade", "--json", check=False).stdout)
    assert (turns["target"], turns["next"], turns["complete"]) == (NEWER, "da1", False)
    first.run("portico", "settings", "set", "drift=repair", "--yes", timeout=60.0)
    assert in_force(first) == in_force(second)

    broken = {"portico/server/agent.py": "raise ImportError('this version is broken')\n"}
    found = upgrade(installed.wheel(second, WORSE, broken), check=False)
    assert not found["upgraded"] and found["failure"], found
    wait.until("da2 to take clients again", lambda: state(first, "da2") in ("Converged", "Default"), timeout=60.0)
    assert version(first, "da2") == NEWER
    installed.portico(second, "server", "stop", "--yes", timeout=60.0)
