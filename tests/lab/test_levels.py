"""Two levels of access: a computer reaches the management servers, the intranet opens for its user."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from portico.certificates.trust import private_pem, to_pem
from portico.lab import deployment, wait
from portico.lab.hosts import Host
from portico.lab.lab import Lab
from tests.lab.helpers import agent_pid, gateway_pid, reaches, through_nat64
from tests.peers.user_ca import UserCa

MGMT4, MGMT6 = "10.0.0.9", "fd7c:1a2b:3c4d:1::9"
WEB4, WEB6 = "10.0.0.4", "fd7c:1a2b:3c4d:1::6"
SECONDS = 120.0
"""Bounds of waits; what happens takes a second or two."""


def pings(host: Host, address: object) -> bool:
    return host.run("ping", "-6", "-c", "1", "-W", "2", str(address), check=False).returncode == 0


def web(host: Host, address: object) -> bool:
    return reaches(host, f"[{address}]", 2.0)


def level(client: Host) -> dict[str, Any]:
    found: dict[str, Any] = client.json("portico", "client", "status", "--json")
    return found


def is_closed(client: Host) -> None:
    """Management servers and DNS answer, and nothing else."""
    wait.until("the management server over IPv6", lambda: pings(client, MGMT6), timeout=SECONDS)
    wait.until("the management server through NAT64", lambda: pings(client, through_nat64(MGMT4)), timeout=SECONDS)
    assert "fd7c:1a2b:3c4d:1::6" in client.output("getent", "ahostsv6", "app6.corp.example.net")
    for address in (WEB6, through_nat64(WEB4)):
        assert not pings(client, address), address
        assert not web(client, address), address


def opens(client: Host) -> None:
    wait.until("the intranet over IPv6", lambda: web(client, WEB6), timeout=SECONDS)
    wait.until("the intranet through NAT64", lambda: web(client, through_nat64(WEB4)), timeout=SECONDS)


def closes(client: Host) -> None:
    wait.until("the intranet to close over IPv6", lambda: not pings(client, WEB6), timeout=SECONDS)
    wait.until("it to close through NAT64", lambda: not pings(client, through_nat64(WEB4)), timeout=SECONDS)
    is_closed(client)


def login(client: Host) -> dict[str, Any]:
    files = ["--certificate", "/etc/alice.pem", "--key", "/etc/alice.key"]
    found: dict[str, Any] = client.json("portico", "client", "login", *files, "--json")
    return found


@pytest.fixture(scope="module")
def restricted(lab: Lab) -> Lab:
    """The deployment with user authentication, and a user's certificate on the client."""
    server, client = lab.host("da1"), lab.host("client1")
    authority = UserCa("users", datetime.now(UTC))
    certificate, key = authority.issue("alice", upn="alice@corp.example.net")
    server.write("/etc/portico/users.pem", to_pem(authority.certificate))
    client.write("/etc/alice.pem", to_pem(certificate), 0o600)
    client.write("/etc/alice.key", private_pem(key), 0o600)
    server.run("portico", "management-servers", "add", "mgmt", MGMT4, MGMT6, "--type", "Update", "--yes", timeout=60.0)
    server.run(
        "portico",
        "settings",
        "set",
        "access.user_authentication=certificate",
        "access.user_ca=[/etc/portico/users.pem]",
        "--yes",
        timeout=60.0,
    )
    return lab


def test_before_logon_a_computer_reaches_management_servers_and_dns_and_nothing_else(restricted: Lab) -> None:
    client, server = restricted.host("client1"), restricted.host("da1")
    is_closed(client)
    assert level(client)["level"] == "Machine"
    # Manage-out works before anybody has logged on.
    wait.until("manage-out", lambda: pings(restricted.host("mgmt"), deployment.tunnel_address(client)), timeout=SECONDS)
    assert server.json("portico", "users", "list", "--json")["users"] == []


def test_the_intranet_opens_with_the_users_certificate_and_closes_when_it_is_revoked(restricted: Lab) -> None:
    client, server = restricted.host("client1"), restricted.host("da1")
    found = login(client)
    assert (found["level"], found["grant"]["user"]) == ("User", "alice@corp.example.net")
    opens(client)
    assert level(client)["user"] == "alice@corp.example.net"
    assert level(client)["user_until"] > level(client)["user_since"]
    (listed,) = server.json("portico", "users", "list", "--json")["users"]
    assert (listed["machine"], listed["state"]) == ("client1", "open")
    # The computer keeps it over a redial, the server over a new gateway.
    client.run("portico", "client", "redial")
    opens(client)
    server.run("kill", "-KILL", str(gateway_pid(server)))
    opens(client)
    server.run("portico", "users", "revoke", "alice@corp.example.net", "--yes")
    closes(client)
    assert level(client)["level"] == "Machine"
    audit = server.output("portico", "audit", "list", "--json")
    assert "user login" in audit
    assert "/v1/users/revoke" in audit


def test_logout_closes_and_a_wrong_certificate_does_not_open(restricted: Lab) -> None:
    client = restricted.host("client1")
    login(client)
    opens(client)
    client.run("portico", "client", "logout")
    closes(client)
    stranger, key = UserCa("users", datetime.now(UTC)).issue("alice")
    client.write("/etc/eve.pem", to_pem(stranger) + private_pem(key), 0o600)
    refused = client.run("portico", "client", "login", "--certificate", "/etc/eve.pem", check=False)
    assert refused.returncode != 0
    assert "not authenticated" in refused.stderr
    is_closed(client)


def test_denied_by_default_and_granted_as_before_when_the_agent_starts_again(restricted: Lab) -> None:
    client, server = restricted.host("client1"), restricted.host("da1")
    client.run("portico", "client", "logout")  # whoever a former try left here
    before = agent_pid(server)
    deployment.start_server(server)
    assert agent_pid(server) != before
    is_closed(client)
    login(client)
    opens(client)
    deployment.start_server(server)
    opens(client)
    (listed,) = server.json("portico", "users", "list", "--json")["users"]
    assert (listed["machine"], listed["state"]) == ("client1", "open")


def test_the_user_goes_with_the_computer_that_is_revoked(restricted: Lab) -> None:
    client, server = restricted.host("client1"), restricted.host("da1")
    server.run("portico", "clients", "revoke", "client1", "--yes")
    wait.until("the tunnel to be closed", lambda: not pings(client, WEB6), timeout=SECONDS)
    wait.until(
        "the user to go with the computer",
        lambda: not server.json("portico", "users", "list", "--json")["users"],
        timeout=SECONDS,
    )
