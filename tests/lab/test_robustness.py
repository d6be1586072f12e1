"""Files that are gone, empty, cut or rubbish, and strangers who change what Portico manages."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import pytest

from portico.lab import deployment, wait
from portico.lab.deployment import CLIENT, SERVER
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from tests.lab.helpers import APP4, agent_pid, gateway_pid, reaches, time_until

DAMAGES = {
    "missing": None,
    "empty": b"",
    "rubbish": secrets.token_bytes(4096),
}


def _kill_agent(server: Host) -> None:
    old = agent_pid(server)
    server.run("kill", "-KILL", str(old))
    wait.until("a new agent", lambda: server.service(SERVER)["pid"] not in (None, old), timeout=30.0)


def _damage(path: Path, kind: str) -> None:
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: max(1, path.stat().st_size // 2)])
    elif DAMAGES[kind] is None:
        path.unlink()
    else:
        path.write_bytes(DAMAGES[kind] or b"")


def _settings_store(server: Host) -> Path:
    found = sorted((server.disk / "var/lib/portico/server").rglob("settings*.sqlite*"))
    assert found, "the store has moved: this scenario damages nothing"
    return found[0]


@pytest.mark.parametrize("kind", [*DAMAGES, "truncated"])
def test_a_damaged_settings_store_does_not_stop_the_service(client: Host, server: Host, kind: str) -> None:
    store = _settings_store(server)
    saved = {path: path.read_bytes() for path in store.parent.glob(store.name + "*")}
    time_until("the intranet", client, timeout=60.0)
    server.run("kill", "-STOP", str(agent_pid(server)))
    try:
        for path in saved:
            if path != store:
                path.unlink()
        _damage(store, kind)
    finally:
        _kill_agent(server)
    try:
        time_until("the service without its store", client)
        status = server.run("portico", "server", "status", check=False)
        assert "settings" in (status.stdout + status.stderr).lower()
    finally:
        server.stop_service(SERVER)
        for path in store.parent.glob(store.name + "*"):
            path.unlink()
        for path, content in saved.items():
            path.write_bytes(content)
            path.chmod(0o600)
        deployment.start_server(server)
    time_until("the client with the store restored", client, timeout=60.0)


def test_a_server_that_restarts_beside_damaged_certificates_serves_on(client: Host, server: Host) -> None:
    state = server.disk / "var/lib/portico/server/certificates"
    saved = {path: path.read_bytes() for path in state.iterdir() if path.is_file()}
    time_until("the intranet", client, timeout=60.0)
    server.run("kill", "-STOP", str(agent_pid(server)))
    try:
        for path in saved:
            if path.name.startswith("certificates.sqlite"):
                path.unlink()
        _damage(state / "authority.pem", "rubbish")
        _damage(state / "ticket_keys.json", "empty")
    finally:
        _kill_agent(server)
    try:
        time_until("the service without its CA and its records", client)
        status = server.run("portico", "server", "status", check=False)
        assert status.returncode == 0, status.stdout + status.stderr
        assert "authority.pem" in status.stdout
        assert "certificates.sqlite" in status.stdout
        refused = server.run("portico", "ca", "token", "create", "--name", "other", check=False)
        assert refused.returncode != 0
        assert "Traceback" not in refused.stderr
    finally:
        server.stop_service(SERVER)
        for path in state.iterdir():
            if path.is_file():
                path.unlink()
        for path, content in saved.items():
            path.write_bytes(content)
            path.chmod(0o600)
        deployment.start_server(server)
    time_until("the client with the certificates restored", client, timeout=60.0)


def test_a_client_that_restarts_beside_damaged_files_connects(client: Host) -> None:
    state = client.disk / "var/lib/portico/client"
    names = {"identity.pem": "truncated", "trust.pem": "empty", "settings.json": "rubbish", "wish.json": "rubbish"}
    saved = {name: (state / name).read_bytes() for name in names if (state / name).exists()}
    old = agent_pid(client, CLIENT)
    client.run("kill", "-STOP", str(old))
    for name in saved:
        _damage(state / name, names[name])
    client.run("kill", "-KILL", str(old))
    wait.until("a new agent", lambda: client.service(CLIENT)["pid"] not in (None, old), timeout=30.0)
    try:
        time_until("the tunnel from the copies", client)
        status = client.run("portico", "client", "status")
        assert "identity.pem" in status.stdout + status.stderr
    finally:
        for name, content in saved.items():
            (state / name).write_bytes(content)


def test_refused_settings_change_nothing(client: Host, server: Host) -> None:
    before = server.json("portico", "settings", "show", "--json")
    for text in ("", "{", "schema_version: 99\n", "schema_version: 1\nno_such_key: 1\n"):
        server.write("/etc/portico/bad.yaml", text)
        result = server.run("portico", "settings", "apply", "/etc/portico/bad.yaml", "--yes", check=False)
        assert result.returncode != 0, text
        assert "Traceback" not in result.stderr
    assert server.json("portico", "settings", "show", "--json") == before
    assert reaches(client)


@pytest.mark.parametrize(
    ("what", "damage", "repaired"),
    [
        (
            "a deleted firewall table",
            ["nft", "delete", "table", "inet", "portico"],
            ["nft", "list", "table", "inet", "portico"],
        ),
        (
            "a deleted address",
            ["ip", "addr", "del", "fd7c:1a2b:3c4d:3333::1/128", "dev", "portico-iphttps"],
            ["sh", "-c", "ip -6 addr show dev portico-iphttps | grep -q 3333::1"],
        ),
        (
            "forwarding switched off",
            ["sysctl", "-qw", "net.ipv6.conf.all.forwarding=0"],
            ["sh", "-c", "[ $(sysctl -n net.ipv6.conf.all.forwarding) = 1 ]"],
        ),
        (
            "a deleted routing rule",
            ["sh", "-c", "ip rule del table 6464"],
            ["sh", "-c", "ip rule | grep -q 6464"],
        ),
        (
            "a device that is down",
            ["ip", "link", "set", "portico-nat64", "down"],
            ["sh", "-c", "ip link show portico-nat64 | grep -q ,UP"],
        ),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_drift_is_repaired(client: Host, server: Host, what: str, damage: list[str], repaired: list[str]) -> None:
    server.run(*damage)
    wait.until(
        f"{what} to be repaired",
        lambda: server.run(*repaired, check=False).returncode == 0,
        timeout=30.0,
        evidence=lambda: server.log_tail(SERVER),
    )
    time_until("the intranet", client)


def test_gateway_holds_no_privilege(server: Host) -> None:
    pid = gateway_pid(server)
    status = server.output("cat", f"/proc/{pid}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() != ["0"] * 4
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[capabilities], 16) == 0, capabilities
    assert fields["NoNewPrivs"].strip() == "1"
    assert "PRIVATE" not in server.output(
        "sh", "-c", f"tr '\\0' ' ' </proc/{pid}/environ; tr '\\0' ' ' </proc/{pid}/cmdline"
    )


def test_keys_are_readable_by_their_owner_only(client: Host, server: Host) -> None:
    for host in (client, server):
        open_files = host.output(
            "find",
            "/var/lib/portico",
            "-type",
            "f",
            "-perm",
            "/077",
            "(",
            "-name",
            "*key*",
            "-o",
            "-name",
            "*.sqlite",
            ")",
        )
        assert not open_files


def test_a_client_without_its_identity_says_so(lab: Lab, client: Host) -> None:
    """Last but one in this module."""
    client.stop_service(CLIENT)
    state = client.disk / "var/lib/portico/client"
    hidden = state.with_name("client-away")
    state.rename(hidden)
    try:
        client.start_service(CLIENT, ["portico", "client", "run"], restart=True)

        def said() -> str:
            result = client.run("portico", "client", "status", check=False)
            return result.stdout + result.stderr + client.log(CLIENT).read_text()

        wait.until("the agent to say why", lambda: "NotEnrolled" in said(), timeout=30.0, evidence=said)
        assert "Traceback" not in said()
        client.stop_service(CLIENT)
    finally:
        # The agent may have left its lock behind.
        shutil.rmtree(state, ignore_errors=True)
        hidden.rename(state)
    deployment.connect_client(lab, "client1")


def test_uninstall_gives_the_server_back(client: Host, server: Host) -> None:
    """Last in this module: there is no server afterwards."""
    server.stop_service(SERVER)
    server.run("portico", "server", "uninstall", "--yes", timeout=60.0)
    assert "portico" not in server.output("nft", "list", "ruleset")
    assert "portico" not in server.output("ip", "link")
    assert "6464" not in server.output("ip", "rule")
    rules = server.output("ip", "rule").splitlines()
    assert any("lookup local" in rule for rule in rules)
    assert not reaches(client, APP4, seconds=1.0)
