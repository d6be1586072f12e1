"""`portico nat64` and `portico dns64` against the real API and agent; only the gateway is left out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from portico.accounting import records
from portico.accounting.owners import Owner
from portico.management.api.app import create_app
from portico.management.cli import dns64, nat64, settings
from portico.management.cli.app import app
from portico.management.client import ApiClient
from portico.server.agent import Agent
from portico.settings.document import load_data
from portico.settings.effective import effective
from portico.supervisor import ChildError, ChildState

CLIENT = "fd7c:1a2b:3c4d:1000::c"
DOCUMENT: dict[str, Any] = {
    "schema_version": 1,
    "deployment": {
        "domain": "corp.example.net",
        "connect_to": "da.example.net",
        "organisation_prefix": "fd7c:1a2b:3c4d::/48",
    },
    "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1", "internal_ipv4": "10.0.0.2"},
    "dns64": {"upstream_servers": ["10.0.0.53"], "only_send_a_query": False},
}


class Gateway:
    """Stands for the gateway process: answers operations from tables."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.bindings = [
            {
                "protocol": "tcp",
                "client": f"fd7c:1a2b:3c4d:1000::{client}",
                "client_port": 51000 + number,
                "address": "10.0.0.2",
                "port": 40000 + number,
                "sessions": 1,
                "static": number == 0,
            }
            for number, client in enumerate("ccdce")
        ]
        self.answer: dict[str, Any] = {}
        self.refusal: str | None = None

    async def request(self, op: str, *, timeout: float = 10.0, **fields: Any) -> Any:  # noqa: ASYNC109
        self.asked.append((op, fields))
        if self.refusal is not None:
            raise ChildError("The gateway process refused", why=self.refusal)
        if op == "sessions":
            return [
                {
                    "session": 1,
                    "peer": "203.0.113.1:5",
                    "identity": {"subject": "laptop7", "serial": "2a", "issuer_sha256": "aa"},
                    "addresses": ["fe80::1", CLIENT, "fd7c:1a2b:3c4d:1000::e"],
                }
            ]
        if op == "stats":
            return {
                "nat64": {"bindings": 5, "sessions": 4, "bytes_6to4": 15_000, "refused_no_binding": 3, "refused_x": 0},
                "dns64": {"queries": 9, "servers": [{"server": "10.0.0.53:53", "failed": 1}]},
            }
        if op in ("nat64_bindings", "nat64_sessions"):
            return self.page(op.removeprefix("nat64_"), fields["filter"])
        return self.answer

    def page(self, table: str, asked: dict[str, Any]) -> dict[str, Any]:
        def fits(row: dict[str, Any]) -> bool:
            return all(asked[key] in (None, row[key]) for key in ("client", "protocol", "port"))

        rows = [dict(row) for row in self.bindings if fits(row)]
        if table == "sessions":
            more = {"destination": "10.0.0.4", "destination_port": 80, "state": "established", "expires_in": 7200}
            rows = [row | more for row in rows]
        first = int(asked["after"] or 0)
        last = first + asked["limit"]
        return {table: rows[first:last], "next": str(last) if last < len(rows) else None, "total": len(self.bindings)}


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    agent, stand_in = Agent(tmp_path / "state", tmp_path / "log"), Gateway()
    document = load_data(DOCUMENT)
    agent.platform.settings, agent.platform.values = document, effective(document)
    monkeypatch.setattr(agent.platform.gateway.supervisor, "state", ChildState.RUNNING)
    monkeypatch.setattr(agent.platform.gateway.supervisor, "request", stand_in.request)
    identity = {"subject": "laptop7", "serial": "2a", "issuer_sha256": "aa"}
    for event in (
        {"event": "session_up", "at": 1.0, "session": 1, "peer": "203.0.113.1:5", "identity": identity},
        {"event": "session_address", "at": 2.0, "session": 1, "address": CLIENT},
    ):
        agent.translation.event(event)
    stand_in.agent = agent  # type: ignore[attr-defined]
    transport = TestClient(create_app(agent), raise_server_exceptions=False)._transport
    for module in (nat64, dns64, settings):
        monkeypatch.setattr(module, "server", lambda: ApiClient(tmp_path / "socket", transport=transport))
    yield stand_in
    agent.credentials.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def answer(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def disable(gateway: Gateway, part: str) -> None:
    document = load_data({**DOCUMENT, part: {**DOCUMENT.get(part, {}), "state": "disabled"}})
    platform = gateway.agent.platform  # type: ignore[attr-defined]
    platform.settings, platform.values = document, effective(document)


def test_bindings_have_names_and_come_in_pages(gateway: Gateway) -> None:
    found = answer("nat64", "bindings", "--limit", "2")
    assert [(row["port"], row["name"]) for row in found["bindings"]] == [(40000, "laptop7"), (40001, "laptop7")]
    assert (found["total"], found["next"]) == (5, "0:2")
    rest = answer("nat64", "bindings", "--limit", "5", "--after", found["next"])
    assert [row["port"] for row in rest["bindings"]] == [40002, 40003, 40004]
    assert rest["next"] is None
    people = run("nat64", "bindings", "--limit", "2").stdout
    assert f"[{CLIENT}]:51000" in people and "10.0.0.2:40000" in people and "static" in people
    assert "More: --after 0:2" in people


def test_a_name_stands_for_all_addresses_of_its_tunnels(gateway: Gateway) -> None:
    found = answer("nat64", "sessions", "--client", "laptop7", "--limit", "3")
    assert [row["port"] for row in found["sessions"]] == [40000, 40001, 40003]
    rest = answer("nat64", "sessions", "--client", "laptop7", "--limit", "3", "--after", found["next"])
    assert [row["port"] for row in rest["sessions"]] == [40004]
    assert rest["next"] is None
    assert [row["port"] for row in answer("nat64", "sessions", "--client", CLIENT.upper())["sessions"]][:1] == [40000]
    assert run("nat64", "sessions", "--client", "nobody").exit_code == 6
    gateway.bindings[1]["protocol"] = "icmp"
    people = run("nat64", "sessions", "--client", "laptop7").stdout
    assert "10.0.0.4:80" in people and "established" in people and "2 h" in people
    assert "10.0.0.2 id 40001" in people and " 10.0.0.4 " in people, "an echo has no ports"


def test_filters_reach_the_gateway(gateway: Gateway) -> None:
    answer("nat64", "sessions", "--protocol", "udp", "--port", "7", "--destination", "10.0.0.9")
    op, fields = gateway.asked[-1]
    assert (op, fields["filter"]["protocol"], fields["filter"]["port"]) == ("nat64_sessions", "udp", 7)
    assert fields["filter"]["destination"] == "10.0.0.9"
    answer("nat64", "bindings")
    assert "destination" not in gateway.asked[-1][1]["filter"], "bindings have none"
    assert run("nat64", "sessions", "--protocol", "gre").exit_code == 2
    assert run("nat64", "sessions", "--destination", "app4").exit_code == 1
    assert run("nat64", "sessions", "--after", "x").exit_code == 1


def test_stats_show_limits_refusals_and_the_log(gateway: Gateway) -> None:
    found = answer("nat64", "stats")
    assert (found["counters"]["bindings"], found["max_bindings"], found["log"]["enabled"]) == (5, 262_144, False)
    people = run("nat64", "stats").stdout
    for text in ("5 of 262144", "4 of 524288", "15.0 kB", "refused no binding", "off (nat64.log_bindings)"):
        assert text in people
    assert "refused x" not in people, "what is zero is left out"
    assert answer("dns64", "stats")["counters"]["queries"] == 9
    people = run("dns64", "stats").stdout
    assert "10.0.0.53:53" in people and "queries" in people


def test_watching_shows_what_changes(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([None, KeyboardInterrupt()])

    def sleep(_seconds: float) -> None:
        if (error := next(looks)) is not None:
            raise error

    monkeypatch.setattr("portico.management.cli.watch.time.sleep", sleep)
    result = run("nat64", "stats", "--watch", "1", "--json")
    assert result.exit_code == 0
    assert result.stdout.count('"counters"') == 2


def test_who_had_a_port(gateway: Gateway, tmp_path: Path) -> None:
    nothing = run("nat64", "log", "--port", "40123")
    assert nothing.exit_code == 7
    assert "nat64.log_bindings=true" in nothing.stderr
    now = time.time()
    (tmp_path / "log").mkdir()
    owner = Owner(1, "p", "laptop7", "2a")
    ends = ("tcp", CLIENT, 51000, "10.0.0.2")
    lines = [records.mark("on", now - 7200)]
    lines += [records.row(("open", now - 3600 + n, *ends, 40123 + n), owner) for n in range(3)]
    lines += [
        records.row(("close", now - 1800, *ends, 40123), owner),
        records.mark("lost", now - 1700, rows=4, why="x"),
    ]
    (tmp_path / "log" / "nat64-bindings-2026-01-01.jsonl").write_bytes(b"".join(lines))
    found = answer("nat64", "log", "--address", "10.0.0.2", "--port", "40123", "--at", "50m")
    assert [(row["name"], row["end"]) for row in found["bindings"]] == [("laptop7", "closed")]
    assert answer("nat64", "log", "--port", "40123", "--at", "20m")["bindings"] == []
    assert answer("nat64", "log", "--client", "laptop7", "--from", "2h")["total"] == 3
    assert answer("nat64", "log", "--client", CLIENT, "--from", "2h", "--protocol", "udp")["total"] == 0
    result = run("nat64", "log", "--from", "3h", "--limit", "2")
    assert "laptop7" in result.stdout and "still open" in result.stdout and "1 more: --offset 2" in result.stdout
    assert "4 rows are missing" in result.stderr
    assert "says nothing about the time before" in result.stderr
    assert run("nat64", "log", "--at", "1h", "--to", "2h").exit_code == 1
    assert run("nat64", "log", "--from", "1h", "--to", "2h").exit_code == 1
    assert run("nat64", "log", "--at", "soon").exit_code == 1


def test_a_query_says_how_its_answer_came_to_be(gateway: Gateway) -> None:
    gateway.answer = {
        "rcode": "NOERROR",
        "answers": [
            {"name": "app4.corp.example.net.", "type": "AAAA", "ttl": 60, "data": "fd7c:1a2b:3c4d:7777::a00:4"}
        ],
        "authority": [],
        "source": "upstream",
        "synthesized": True,
        "server": "10.0.0.53:53",
        "upstream_questions": [{"name": "app4.corp.example.net.", "type": "A"}],
        "elapsed_ms": 1.25,
    }
    found = answer("dns64", "query", "app4.corp.example.net")
    assert found["prefix_mapping"] == "fd7c:1a2b:3c4d:7777::/96,0.0.0.0/0"
    assert gateway.asked[-1] == (
        "dns64_query",
        {"query": {"name": "app4.corp.example.net", "type": "AAAA", "dnssec": False, "timeout": 5.0}},
    )
    people = run("dns64", "query", "app4.corp.example.net").stdout
    for text in ("fd7c:1a2b:3c4d:7777::a00:4", "asked just now", "A record 10.0.0.4", "10.0.0.53:53", "1.2 ms"):
        assert text in people, people
    run("dns64", "query", "10.0.0.4", "ptr", "--dnssec", "--timeout", "2")
    assert gateway.asked[-1][1]["query"] == {
        "name": "4.0.0.10.in-addr.arpa",
        "type": "PTR",
        "dnssec": True,
        "timeout": 2.0,
    }
    gateway.answer = {"rcode": "NXDOMAIN", "answers": [], "source": "cache", "synthesized": False}
    missing = run("dns64", "query", "none.corp.example.net")
    assert missing.exit_code == 1
    assert "does not exist" in missing.stdout
    gateway.refusal = "dns64_query: name: a label has more than 63 octets"
    refused = run("dns64", "query", "x")
    assert refused.exit_code == 1
    assert "63 octets" in refused.stderr


def test_the_cache_is_emptied_by_name_by_tree_or_whole(gateway: Gateway) -> None:
    gateway.answer = {"removed": 3}
    assert run("dns64", "flush").exit_code == 5, "nobody to ask"
    assert answer("dns64", "flush", "--yes") == {"removed": 3}
    assert gateway.asked[-1] == ("dns64_flush", {"query": {"name": None, "tree": False}})
    assert answer("dns64", "flush", "corp.example.net", "--tree", "--yes") == {"removed": 3}
    assert gateway.asked[-1][1]["query"] == {"name": "corp.example.net", "tree": True}
    before = len(gateway.asked)
    assert answer("dns64", "flush", "--dry-run")["dry_run"] is True
    assert len(gateway.asked) == before


def test_what_is_disabled_says_so(gateway: Gateway) -> None:
    disable(gateway, "nat64")
    for command in (("nat64", "sessions"), ("nat64", "bindings"), ("nat64", "stats")):
        result = run(*command)
        assert result.exit_code == 7
        assert "NAT64 is disabled" in result.stderr and "nat64.state=enabled" in result.stderr
    disable(gateway, "dns64")
    result = run("dns64", "stats", "--json")
    assert json.loads(result.stderr)["error"]["code"] == "DNS64_DISABLED"


def test_a_gateway_that_does_not_run_is_named(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = gateway.agent.platform.gateway.supervisor  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert supervisor.state is ChildState.STOPPED
    agent = gateway.agent  # type: ignore[attr-defined]
    http = TestClient(create_app(agent), raise_server_exceptions=False)
    for path in ("/v1/nat64/sessions", "/v1/nat64/stats", "/v1/dns64/stats"):
        response = http.get(path)
        assert response.status_code == 503, path
        assert response.json()["error"]["resolution"]


def test_an_agent_that_does_not_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTICO_RUNTIME_DIR", str(tmp_path))
    for command in (("nat64", "sessions"), ("nat64", "log"), ("dns64", "query", "x.example.net")):
        result = run(*command)
        assert result.exit_code == 4
        assert "portico server start" in result.stderr


def test_limits_of_the_api(gateway: Gateway) -> None:
    http = TestClient(create_app(gateway.agent), raise_server_exceptions=False)  # type: ignore[attr-defined]
    for path in (
        "/v1/nat64/sessions?limit=0",
        "/v1/nat64/sessions?limit=5001",
        "/v1/nat64/bindings?port=70000",
        "/v1/nat64/log?start=1",
        "/v1/nat64/log?start=nan&end=1",
    ):
        assert http.get(path).status_code in (400, 409), path
    for body in ({}, {"name": ""}, {"name": "x", "timeout": 0}, {"name": "x", "timeout": 31}, {"name": "x" * 300}):
        assert http.post("/v1/dns64/query", json=body).status_code == 400, body
