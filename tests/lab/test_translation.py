"""What an administrator sets and sees of NAT64 and DNS64, with real packets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from portico.lab import deployment, wait
from portico.lab.hosts import PYTHON, Host, LabFailure
from portico.lab.lab import Lab
from portico.lab.services import bind
from tests.dns64.varied_zone import BODY, owners
from tests.lab.helpers import APP4, ECHO_PORT, echo_service, gateway_pid, through_nat64

SECOND = "10.0.0.3"
SECOND_PREFIX = "fd7c:1a2b:3c4d:7778::/96"
FIRST_PREFIX = "fd7c:1a2b:3c4d:7777::/96"

CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])) as tcp:
    tcp.sendall(b"x" * 100_000)
    tcp.shutdown(socket.SHUT_WR)
    count = 0
    while data := tcp.recv(65536):
        count += len(data)
print(count)
"""

TELLS_WHO_ASKED = """
import socket, sys
tcp = socket.create_server(("::", 2222), family=socket.AF_INET6)
while True:
    end, sender = tcp.accept()
    end.recv(65536)  # closing with unread bytes would reset the connection, and may take the answer with it
    end.send(sender[0].encode())
    end.close()
"""


def apply(server: Host, *changes: str) -> int:
    """Changes settings; returns the number of the new revision."""
    done = server.json("portico", "settings", "set", *changes, "--yes", "--json", timeout=60.0)
    return int(done["revision"]["number"])


@contextmanager
def settings(server: Host, *changes: str) -> Iterator[None]:
    """Changes settings for the block; what was there before is put back, whatever the block changes too."""
    before = apply(server, *changes) - 1
    try:
        yield
    finally:
        server.run("portico", "settings", "rollback", str(before), "--yes", timeout=60.0)


def binding(client: Host, client_port: int, port: int, **other: Any) -> str:
    entry = {"protocol": "tcp", "client": deployment.tunnel_address(client), "client_port": client_port, "port": port}
    return f"nat64.static_bindings+={json.dumps({**entry, **other})}"


def seen_as(client: Host, url: str = f"http://{APP4}/") -> str:
    return client.output("curl", "-sf", "--max-time", "5", url).rpartition(" ")[2]


@pytest.fixture
def second_address(server: Host) -> Iterator[str]:
    server.run("ip", "addr", "add", f"{SECOND}/24", "dev", "eth1")
    try:
        yield SECOND
    finally:
        server.run("ip", "addr", "del", f"{SECOND}/24", "dev", "eth1")


def test_an_ipv4_only_host_reaches_a_client_through_a_static_binding(
    lab: Lab, client: Host, server: Host, mgmt: Host
) -> None:
    app4, address = lab.host("app4"), deployment.tunnel_address(client)
    with echo_service(client, address), settings(server, binding(client, ECHO_PORT, 7022)):
        assert app4.output(PYTHON, "-c", CONNECT, "10.0.0.2", "7022", "5") == "100000"
        static = server.json("portico", "nat64", "bindings", "--port", "7022", "--json")["bindings"]
        assert [(b["client"], b["client_port"], b["static"], b["name"]) for b in static] == [
            (address, ECHO_PORT, True, "client1")
        ]
        (reserved,) = server.output("sysctl", "-n", "net.ipv4.ip_local_reserved_ports").split()
        assert "7022" in reserved.split(",")
        apply(server, "access.manage_out={from: [10.0.0.9/32]}")
        assert mgmt.output(PYTHON, "-c", CONNECT, "10.0.0.2", "7022", "5") == "100000"
        with pytest.raises(LabFailure):
            app4.output(PYTHON, "-c", CONNECT, "10.0.0.2", "7022", "0.5")
        assert seen_as(client) == "10.0.0.2", "what the client asks is answered"
    with pytest.raises(LabFailure):
        app4.output(PYTHON, "-c", CONNECT, "10.0.0.2", "7022", "0.5")


def test_a_second_pool_address_works_from_end_to_end(lab: Lab, client: Host, server: Host, second_address: str) -> None:
    pool = f"nat64.ipv4_address_port_pool=['{second_address},40000-49999']"
    client.start_service("who", [PYTHON, "-c", TELLS_WHO_ASKED])
    try:
        wait.until("the service", lambda: client.output("ss", "-6", "-Hltn", "sport = :2222"))
        with settings(server, pool, binding(client, 2222, 80, address=second_address)):
            assert seen_as(client) == second_address
            assert " 0% packet loss" in client.output("ping", "-6", "-c", "1", "-W", "2", "-s", "3000", APP4)
            sessions = server.json("portico", "nat64", "sessions", "--client", "client1", "--json")["sessions"]
            assert {s["address"] for s in sessions if s["protocol"] == "icmp"} == {second_address}
            who = lab.host("app4").output("curl", "-s", "--http0.9", "--max-time", "5", f"http://{second_address}/")
            assert who == str(through_nat64("10.0.0.4")), "port 80 of the second address is a port of the client"
    finally:
        client.stop_service("who")
    assert seen_as(client) == "10.0.0.2"


def test_each_ipv4_network_has_its_own_prefix(lab: Lab, client: Host, server: Host) -> None:
    mappings = f"['{FIRST_PREFIX},0.0.0.0/0', '{SECOND_PREFIX},10.0.0.4/32']"
    with settings(server, f"nat64.prefix_mapping={mappings}"):
        found = server.json("portico", "dns64", "query", APP4, "--json")
        assert [record["data"] for record in found["answers"]] == ["fd7c:1a2b:3c4d:7778::a00:4"]
        assert found["prefix_mapping"] == f"{SECOND_PREFIX},10.0.0.4/32"
        assert client.output("getent", "ahostsv6", APP4).split()[0] == "fd7c:1a2b:3c4d:7778::a00:4"
        assert seen_as(client) == "10.0.0.2"
        assert seen_as(client, "http://[fd7c:1a2b:3c4d:7778::a00:4]/") == "10.0.0.2"
        other = str(through_nat64("10.0.0.53"))
        assert " 0% packet loss" in client.output("ping", "-6", "-c", "1", "-W", "2", other)


def test_dns64_moves_and_stops_without_touching_the_tunnels(lab: Lab, client: Host, server: Host) -> None:
    before, other = gateway_pid(server), "fd7c:1a2b:3c4d:3333::53"

    def asked(address: str) -> int:
        return client.run("dig", "+short", "+time=1", "+tries=1", f"@{address}", APP4, "AAAA", check=False).returncode

    first = "fd7c:1a2b:3c4d:3333::1"
    assert asked(first) == 0
    with settings(server, f"dns64.address='{other}'"):
        assert asked(other) == 0
        assert asked(first) != 0
        apply(server, "dns64.state=disabled", "nrpt.rules=[{namespace: .corp.example.net, dns_servers: []}]")
        assert asked(other) != 0
        refused = server.run("portico", "dns64", "stats", "--json", check=False)
        assert (refused.returncode, json.loads(refused.stderr)["error"]["code"]) == (7, "DNS64_DISABLED")
    assert asked(first) == 0
    assert gateway_pid(server) == before
    (session,) = server.json("portico", "clients", "show", "client1", "--json")["sessions"]
    assert time.time() - session["since"] > 1.0


def test_dns64_answers_clients_and_the_interfaces_that_are_named(lab: Lab, server: Host, mgmt: Host) -> None:
    address = "fd7c:1a2b:3c4d:3333::1"
    mgmt.run("ip", "-6", "route", "add", f"{address}/128", "via", "fd7c:1a2b:3c4d:1::2")

    def asked(host: Host) -> int:
        return host.run("dig", "+short", "+time=1", "+tries=1", f"@{address}", APP4, "AAAA", check=False).returncode

    try:
        assert asked(mgmt) != 0
        assert asked(server) == 0
        with settings(server, "dns64.accept_interface=[eth1]"):
            assert asked(mgmt) == 0
    finally:
        mgmt.run("ip", "-6", "route", "del", f"{address}/128")


def test_the_log_tells_who_had_a_port(lab: Lab, client: Host, server: Host) -> None:
    with settings(server, "nat64.log_bindings=true"):
        with echo_service(lab.host("app4"), "10.0.0.4"):
            assert client.output(PYTHON, "-c", CONNECT, str(through_nat64("10.0.0.4")), str(ECHO_PORT), "5") == "100000"
            found = server.json(
                "portico", "nat64", "sessions", "--destination", "10.0.0.4", "--protocol", "tcp", "--json"
            )
        session = next(s for s in found["sessions"] if s["destination_port"] == ECHO_PORT)
        port = str(session["port"])

        def log(*arguments: str) -> dict[str, Any]:
            command = ("portico", "nat64", "log", "--address", "10.0.0.2", "--port", port, *arguments, "--json")
            answer: dict[str, Any] = server.json(*command)
            return answer

        wait.until("the row to be written", lambda: log("--at", "now")["bindings"], timeout=30.0)
        (row,) = log("--from", "1h", "--protocol", "tcp")["bindings"]
        assert (row["name"], row["client"]) == ("client1", deployment.tunnel_address(client))
        assert row["client_port"] == session["client_port"]
        assert row["opened"] == pytest.approx(time.time(), abs=30)
        (path,) = server.output("sh", "-c", "ls /var/log/portico/nat64-bindings-*.jsonl").split()
        assert server.output("stat", "-c", "%a", path) == "640"
        people = server.output("portico", "nat64", "log", "--client", "client1", "--protocol", "tcp", "--port", port)
        assert "client1" in people and f"10.0.0.2:{port}" in people


def test_questions_about_names_are_answered_with_reasons(lab: Lab, server: Host) -> None:
    server.run("portico", "dns64", "flush", "--yes")
    for expected in ("upstream", "cache"):
        found = server.json("portico", "dns64", "query", APP4, "--json")
        assert (found["source"], found["synthesized"]) == (expected, True)
        assert "A record 10.0.0.4" in found["why"]
    assert server.json("portico", "dns64", "flush", APP4, "--yes", "--json")["removed"] >= 1
    missing = server.run("portico", "dns64", "query", "none.corp.example.net", check=False)
    assert (missing.returncode, "does not exist" in missing.stdout) == (1, True)
    assert "IPv6 addresses of its own" in server.output("portico", "dns64", "query", "app6.corp.example.net")
    for group in ("nat64", "dns64"):
        assert "Counter" in server.output("portico", group, "stats")


def test_the_resolver_of_a_host_agrees_with_bind(lab: Lab, server: Host, mgmt: Host) -> None:
    """getaddrinfo of the C library, once with BIND in resolv.conf and once with DNS64.

    They agree on every name, but that a name with IPv4 addresses alone has the addresses made of them too (RFC 6147
    section 5.1.7), and that ::ffff:0:0/96 is none (5.1.4).
    """
    zone = "varied.example.net"
    # A stub resolver asks for full answers; to names of other servers BIND only says which those are. An alias to a
    # name of other servers is followed there by DNS64; here nobody serves it.
    delegated = ("child", "kept", "gone", "abroad")
    names = [name for name in owners() if name and not name.endswith(delegated) and "*" not in name]
    names += ["x.wild", "x.wild6", "x.wildalias", "six.tree", "four.tree", "both.bush", "nowhere", "SIX", "b.empty"]
    address = lab.topology.host("mgmt").address(4, "eth0")
    bind.serve(mgmt, {zone: BODY}, probe=f"four.{zone}")
    try:
        forwarding = f"dns64.conditional_forwarding=[{{suffix: {zone}, servers: ['{address}']}}]"
        with settings(server, forwarding, "dns64.only_send_a_query=false", "dns64.queries_per_second_per_client=0"):
            theirs, ours = (
                _resolve(server, nameserver, [f"{name}.{zone}." for name in names])
                for nameserver in (str(address), "fd7c:1a2b:3c4d:3333::1")
            )
    finally:
        mgmt.stop_service(bind.SERVICE)
    assert len(theirs) == len(names)
    synthesized = 0
    for name, (v4, v6, both) in theirs.items():
        native, wanted = _native(v6), _native(v6) or v6
        if "." in v4[0] and not native:
            wanted = sorted(str(through_nat64(address)) for address in v4)
            synthesized += 1
        else:
            assert _native(ours[name][2]) == _native(both), name
        assert ours[name][:2] == [v4, wanted], name
    assert 5 < synthesized < len(names) / 2


RESOLVE = """
import json, socket, sys
found = {}
for name in json.load(sys.stdin):
    found[name] = answers = []
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNSPEC):
        try:
            got = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
            answers.append(sorted({address[0] for *_, address in got}))
        except socket.gaierror as error:
            answers.append([f"error {error.errno}"])
        except UnicodeError as error:
            answers.append([str(error)])
print(json.dumps(found))
"""


def _native(addresses: list[str]) -> list[str]:
    return [address for address in addresses if ":" in address and not address.startswith("::ffff:")]


def _resolve(host: Host, nameserver: str, names: list[str]) -> dict[str, list[list[str]]]:
    """What the C library finds for each name: IPv4, IPv6, and both; an error as the only entry."""
    host.write("/etc/resolv-other.conf", f"nameserver {nameserver}\n")
    mounted = 'mount --bind /etc/resolv-other.conf /etc/resolv.conf && exec "$@"'
    command = ("unshare", "-m", "sh", "-c", mounted, "sh", PYTHON, "-c", RESOLVE)
    found = host.run(*command, input_text=json.dumps(names), timeout=120.0)
    answers: dict[str, list[list[str]]] = json.loads(found.stdout)
    return answers
