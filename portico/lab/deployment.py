"""Portico in a lab: install the server, enrol the client, connect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from portico import paths
from portico.client.control_client import ask
from portico.errors import PorticoError
from portico.lab import wait
from portico.lab.hosts import Host, LabFailure
from portico.lab.lab import Lab, Step
from portico.lab.services import bind
from portico.lab.topology import CONNECT_TO, CORP_DNS, CORP_DOMAIN, ORGANISATION_PREFIX, dedicated
from portico.management.client import ApiClient

DNS_KEY = "/etc/portico/dns.key"
SERVER, CLIENT = "portico-server", "portico-client"
"""Names of the services; also of their logs."""

_ANSWER = 10.0
"""Seconds for an agent's answer. On a busy machine it takes one or two."""


def settings(server: str) -> dict[str, Any]:
    """The settings document of a lab server."""
    return {
        "schema_version": 1,
        "deployment": {
            "domain": CORP_DOMAIN,
            "connect_to": CONNECT_TO,
            "organisation_prefix": ORGANISATION_PREFIX,
        },
        "server": {"name": server, "internet_interface": "eth0", "internal_interface": "eth1"},
        # The intranet has servers with IPv6 only: their own AAAA records must be asked for.
        "dns64": {"upstream_servers": [CORP_DNS], "only_send_a_query": False},
        "corporate_dns": {"update": "tsig", "key_file": DNS_KEY},
    }


def give_dns_key(lab: Lab, name: str) -> None:
    """Puts the key with which the servers write their records on a host."""
    text = (lab.host("dns").disk / bind.key_path(bind.SERVERS_KEY).lstrip("/")).read_text()
    lab.host(name).write(DNS_KEY, text, 0o600)


def install_server(lab: Lab, name: str) -> None:
    """Installs the Remote Access server on a host and waits until its gateway accepts clients."""
    host = lab.host(name)
    give_dns_key(lab, name)
    host.write("/etc/portico/lab.yaml", yaml.safe_dump(settings(name), sort_keys=False), 0o600)
    host.run("portico", "server", "install", "--file", "/etc/portico/lab.yaml", "--yes", "--no-start", timeout=60.0)
    start_server(host)


def start_server(host: Host) -> None:
    """Starts the agent, as its unit would, and waits for the entrance."""
    host.start_service(SERVER, ["portico", "server", "run"], restart=True)
    wait_for_server(host)


def wait_for_server(host: Host, timeout: float = 60.0) -> None:
    """Waits until the entrance accepts TCP connections."""
    wait.until(
        f"the server on {host.name} to listen on TCP 443",
        lambda: "%eth0:443 " in host.output("ss", "-Hltn", "sport = :443"),
        timeout=timeout,
        evidence=lambda: host.log_tail(SERVER, 30),
    )


def enrolment_token(server: Host, client: str) -> str:
    """A token that enrols one client once."""
    answer = server.json("portico", "ca", "token", "create", "--name", client, "--json")
    token = answer.get("token")
    if not isinstance(token, str):
        raise LabFailure(f"On {server.name}: no token", why=json.dumps(answer))
    return token


def enrol_client(lab: Lab, client: str, server: str) -> None:
    """Gives a remote computer its identity."""
    token = enrolment_token(lab.host(server), client)
    lab.host(client).run("portico", "client", "enrol", token, timeout=60.0)


def connect_client(lab: Lab, client: str) -> None:
    """Starts the client agent and waits for the tunnel."""
    host = lab.host(client)
    host.start_service(CLIENT, ["portico", "client", "run"], restart=True)
    wait_for_client(host)


def wait_for_client(host: Host, timeout: float = 60.0) -> None:
    """Waits until an intranet name answers with a ping through the tunnel.

    Names are asked for only when the client says that it is connected: before, they would be asked outside.
    """
    wait.until(
        f"{host.name} to be connected",
        lambda: _carries(client_status(host)),
        timeout=timeout,
        evidence=lambda: host.log_tail(CLIENT, 30),
    )
    wait.until(
        f"{host.name} to reach the intranet",
        lambda: host.run("ping", "-6", "-c", "1", "-W", "1", f"app6.{CORP_DOMAIN}", check=False).returncode == 0,
        timeout=timeout,
        interval=0.1,
        evidence=lambda: host.log_tail(CLIENT, 30),
    )


def _carries(found: Mapping[str, Any]) -> bool:
    """Whether the client's tunnel is up, whatever its connectivity assistant makes of the records in DNS."""
    return found.get("link") == "link_up" and bool(found.get("addresses"))


def client_status(host: Host) -> dict[str, Any]:
    """What `portico client status --json` has from the agent; empty while it does not answer.

    Asked at its socket: whoever waits looks again and again, and a command's start costs a second of a processor.
    """
    try:
        return ask("GET", "status", path=_seen(host, paths.client_socket()), timeout=_ANSWER)
    except PorticoError:
        return {}


def ask_server(host: Host, path: str, **query: Any) -> Any:
    """A GET at the API of a server, as its `portico` command asks it.

    Raises:
        PorticoError: as it answers, or it does not.
    """
    with ApiClient(_seen(host, paths.server_socket()), timeout=_ANSWER) as api:
        return api.get(path, **query)


def _seen(host: Host, path: Path) -> Path:
    """A file of a host's own, as the machine sees it."""
    return Path(f"/proc/{host.pid}/root", *path.parts[1:])


def install_servers(lab: Lab, step: Step) -> None:
    """Installs Portico on all servers of the lab and waits until the entrance accepts clients.

    With several, the first becomes the first of a cluster and the others join it, each with one token.
    """
    first, *others = lab.topology.servers()
    with step(f"Remote Access server on {first}"):
        install_server(lab, first)
    if not others:
        return
    with step(f"Load balancing on {first}: its addresses become virtual"):
        lab.host(first).run("portico", "lb", "enable", *_dedicated(1), "--yes", timeout=60.0)
    for number, other in enumerate(others, 2):
        with step(f"{other} joins with a one-time token"):
            join(lab, other, first, number)
    with step("The cluster converges"):
        wait_for_convergence(lab)


def join(lab: Lab, server: str, member: str, number: int) -> None:
    """Makes a machine a server of the cluster that `member` is in, and starts it."""
    answer = lab.host(member).json("portico", "lb", "add", server, *_dedicated(number), "--yes", "--json", timeout=60.0)
    token = answer.get("token")
    if not isinstance(token, str):
        raise LabFailure(f"On {member}: no token", why=json.dumps(answer))
    host = lab.host(server)
    give_dns_key(lab, server)
    interfaces = ["--internet-interface", "eth0", "--internal-interface", "eth1"]
    host.run("portico", "server", "join", token, *interfaces, "--yes", timeout=60.0)
    start_server(host)


def cluster_status(host: Host) -> dict[str, Any]:
    """The cluster as one server sees it; empty while its agent does not answer."""
    try:
        return dict(ask_server(host, "/v1/cluster"))
    except PorticoError:
        return {}


def wait_for_convergence(lab: Lab, servers: Sequence[str] | None = None, timeout: float = 60.0) -> None:
    """Waits until these servers (all that run, when not given) follow one map, with each other and nobody else."""
    names = list(servers) if servers is not None else [name for name in lab.topology.servers() if lab.host(name).alive]

    def converged() -> bool:
        return all(_members(cluster_status(lab.host(name))) == set(names) for name in names)

    wait.until(
        f"{', '.join(names)} to converge",
        converged,
        timeout=timeout,
        evidence=lambda: "\n".join(lab.host(name).log_tail(SERVER, 15) for name in names),
    )


def _members(status: dict[str, Any]) -> set[str]:
    """Servers that are up, and can take clients, in a status of a converged cluster; nobody while it converges."""
    if not status.get("converged"):
        return set()
    return {
        server["name"]
        for server in status["servers"]
        if server["state"] in ("Converged", "Default") and not server["conditions"]
    }


def _dedicated(number: int) -> list[str]:
    """The options that give a server its dedicated addresses."""
    found = dedicated(number)
    options = []
    for address in found["eth0"]:
        options += ["--internet-dedicated-address", address]
    for address in found["eth1"]:
        options += ["--internal-dedicated-address", address]
    return options


def deploy(lab: Lab, step: Step) -> None:
    """Everything, from nothing to connected clients."""
    install_servers(lab, step)
    for client in lab.topology.clients():
        with step(f"{client} enrols with a one-time token"):
            enrol_client(lab, client, lab.topology.servers()[0])
        with step(f"{client} connects from behind nat{client.removeprefix('client')}"):
            connect_client(lab, client)


def tunnel_address(client: Host) -> str:
    """The global IPv6 address the client has in the tunnel.

    Raises:
        LabFailure: it has none.
    """
    for interface in json.loads(client.output("ip", "-j", "-6", "addr", "show", "scope", "global")):
        for entry in interface.get("addr_info", ()):
            if str(entry.get("local", "")).startswith("fd7c:1a2b:3c4d:1000:"):
                return str(entry["local"])
    raise LabFailure(f"{client.name} has no address in the tunnel", why=client.output("ip", "-br", "-6", "addr"))
