"""Who gets in over the network, what he may do, and what is written down of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from portico.certificates.issue import make_request
from portico.management.api import connection, limit, serve
from portico.management.api.listener import MAXIMUM_OF_ONE
from portico.management.api.roles import Requirements
from portico.management.api.serve import api_config
from portico.settings.document import dump, load_data
from tests.unit.management.conftest import Network, until
from tests.unit.server.test_last_good_state import DATA

Run = Callable[..., None]


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


def certificate(network: Network, tmp_path: Path, name: str) -> Path:
    key, request = make_request(name)
    chain, serial, end = network.agent.access.authority.administrator(name, request, 1, network.agent.access.now())
    now = network.agent.access.now()
    network.agent.access.records.note_certificate(serial, name, end, author="root", now=now)
    path = tmp_path / f"{name}.pem"
    path.write_text(key + chain)
    return path


def test_nobody_gets_in_without_credentials_and_learns_only_how_to_log_in(network: Run) -> None:
    async def body(net: Network) -> None:
        async with net.http() as http:
            for path in ("/v1/status", "/v1/settings", "/v1/openapi.json", "/v1/audit", "/nothing", "/", "/v1/login/x"):
                answer = await http.get(path)
                assert (answer.status_code, code(answer)) == (401, "NO_CREDENTIALS"), path
                assert answer.headers["www-authenticate"].startswith("Bearer")
            assert (await http.post("/v1/settings", json={"yaml": "a: 1"})).status_code == 401
            answer = await http.get("/v1/login")
            assert answer.json() == {"oidc": None, "authority": net.authority}
            assert "server" not in answer.headers
        assert net.audited() == []

    network(body)


def test_each_role_may_do_what_it_may(network: Run) -> None:
    cases: tuple[tuple[str, str, Any, tuple[str, ...]], ...] = (
        ("GET", "/v1/status", None, ("viewer", "operator", "administrator")),
        ("GET", "/v1/clients", None, ("viewer", "operator", "administrator")),
        ("POST", "/v1/clients/nobody/disconnect", {}, ("operator", "administrator")),
        ("POST", "/v1/dns64/flush", {}, ("operator", "administrator")),
        ("POST", "/v1/cluster/command", {"command": "drain", "server": "da1"}, ("operator", "administrator")),
        ("POST", "/v1/settings/rollback", {"revision": 999}, ("administrator",)),
        ("POST", "/v1/credentials/tokens", {"name": "x", "role": "viewer"}, ("administrator",)),
        ("DELETE", "/v1/credentials/abcd", None, ("administrator",)),
        ("PUT", "/v1/anything", {}, ("administrator",)),
    )

    async def body(net: Network) -> None:
        for role in ("viewer", "operator", "administrator"):
            async with net.http(await net.token(role)) as http:
                assert (await http.get("/v1/whoami")).json()["role"] == role
                for method, path, data, allowed in cases:
                    answer = await http.request(method, path, json=data)
                    refused = answer.status_code == 403 and code(answer) == "ROLE_NEEDED"
                    assert refused == (role not in allowed), (role, method, path, answer.text)
        assert {entry["result"] for entry in net.audited() if entry["role"] == "viewer"} == {"ROLE_NEEDED"}

    network(body)


def test_every_route_has_the_role_that_is_meant(network: Run) -> None:
    async def body(net: Network) -> None:
        guard = api_config(net.agent).app
        table = Requirements(guard._app).table()  # type: ignore[union-attr]
        assert len(table) > 40, "the routes of every router are known"
        public = [(method, path) for method, path, role in table if role == "-"]
        assert public == [("GET", "/v1/login")]
        marked = {(method, path, role) for method, path, role in table if method != "GET" and role != "administrator"}
        assert marked == {
            ("POST", "/v1/clients/{name}/disconnect", "operator"),
            ("POST", "/v1/dns64/flush", "operator"),
            ("POST", "/v1/cluster/command", "operator"),
            ("POST", "/v1/dns64/query", "viewer"),
            ("POST", "/v1/cluster/explain", "viewer"),
            ("POST", "/v1/sessions", "viewer"),
            ("DELETE", "/v1/sessions/current", "viewer"),
        }
        reading = {(path, role) for method, path, role in table if method == "GET" and role != "viewer"}
        assert reading == {("/v1/login", "-"), ("/v1/backup/files/{name}", "administrator")}

    network(body)


def test_a_revoked_token_is_useless_at_once(network: Run) -> None:
    async def body(net: Network) -> None:
        async with net.http(await net.token("administrator", "root token")) as http:
            made = (await http.post("/v1/credentials/tokens", json={"name": "ci", "role": "operator"})).json()
            async with net.http(made["token"]) as other:
                assert (await other.get("/v1/whoami")).json()["name"] == "ci"
                listed = (await http.get("/v1/credentials", params={"state": "open"})).json()
                assert made["token"] not in str(listed) and "secret" not in str(listed)
                assert (await http.delete(f"/v1/credentials/{made['credential']['id']}")).json()["state"] == "revoked"
                assert code(await other.get("/v1/whoami")) == "CREDENTIAL_REFUSED"
            assert (await http.delete("/v1/sessions/current")).status_code == 200, "a token can end itself"
            assert code(await http.get("/v1/whoami")) == "CREDENTIAL_REFUSED"
        assert made["token"] not in net.agent.access.audit.path.read_text()

    network(body)


def test_a_certificate_of_administration_gets_in_and_a_remote_computers_never_does(
    network: Run, tmp_path: Path
) -> None:
    async def body(net: Network) -> None:
        alice, nobody = (certificate(net, tmp_path, name) for name in ("alice", "nobody"))
        async with net.http(certificate=alice) as http:
            who = (await http.get("/v1/whoami")).json()
            assert (who["name"], who["kind"], who["role"]) == ("alice", "certificate", "administrator")
            net.agent.access.records.revoke(who["id"], now=net.agent.access.now())
            assert code(await http.get("/v1/whoami")) == "CREDENTIAL_REFUSED", "also on the open connection"
        async with net.http(certificate=nobody) as http:
            assert code(await http.get("/v1/whoami")) == "NO_ROLE"
        # A remote computer that was enrolled, by the name of an administrator.
        key, request = make_request("alice")
        chain = net.agent.credentials.issuer().client("alice", request, days=30, now=net.agent.access.now())
        computer = tmp_path / "computer.pem"
        computer.write_text(key + chain)
        with pytest.raises(httpx.TransportError):
            async with net.http(certificate=computer) as http:
                await http.get("/v1/whoami")
        # One that the CA of administration signed and that is in no record: a copy of the CA makes no administrator.
        key, request = make_request("alice")
        chain, _, _ = net.agent.access.authority.administrator("alice", request, 1, net.agent.access.now())
        forged = tmp_path / "forged.pem"
        forged.write_text(key + chain)
        async with net.http(certificate=forged) as http:
            assert code(await http.get("/v1/whoami")) == "CREDENTIAL_REFUSED"
        # The server's own certificate is for serving.
        server = net.agent.access.authority.directory / "server.pem"
        with pytest.raises(httpx.TransportError):
            async with net.http(certificate=server) as http:
                await http.get("/v1/whoami")

    network(body)


def test_every_change_is_written_down_with_before_and_after(network: Run) -> None:
    async def body(net: Network) -> None:
        document = load_data({**DATA, "drift": "report", "management": {"listen": [net.address]}})
        async with net.http(await net.token("administrator", "deploy")) as http:
            answer = await http.post("/v1/settings", json={"yaml": dump(document), "author": "somebody else"})
            assert answer.status_code == 200, answer.text
            assert answer.json()["revision"]["author"] == "deploy", "nobody signs with another name"
            assert (await http.post("/v1/settings", json={"yaml": "a: ["})).status_code == 422
            assert (await http.get("/v1/settings")).status_code == 200
            entries = (await http.get("/v1/audit")).json()["entries"]
            verdict = (await http.get("/v1/audit/verify")).json()
        refused, changed = entries
        assert (changed["who"], changed["kind"], changed["from"]) == ("deploy", "token", "127.0.0.1")
        assert (changed["action"], changed["result"], changed["status"]) == ("POST /v1/settings", "done", 200)
        assert (changed["before"]["drift"], changed["after"]["drift"]) == ("repair", "report")
        assert changed["revision"] == answer.json()["revision"]["number"]
        assert refused["result"] == "SETTINGS_REFUSED"
        assert verdict["intact"] and verdict["last"] == 2

    network(body)


def test_nothing_is_changed_that_could_not_be_written_down(network: Run) -> None:
    async def body(net: Network) -> None:
        token = await net.token("administrator")
        audit = net.agent.access.audit
        audit.directory.parent.mkdir(exist_ok=True)
        audit.directory.write_text("in the way")
        async with net.http(token) as http:
            answer = await http.post("/v1/credentials/tokens", json={"name": "x"})
            assert (answer.status_code, code(answer)) == (503, "AUDIT_UNAVAILABLE")
            assert (await http.get("/v1/credentials")).json()["total"] == 1
            audit.directory.unlink()
            assert (await http.post("/v1/credentials/tokens", json={"name": "x"})).status_code == 200

    network(body)


def test_wrong_credentials_wait_longer_and_longer_and_right_ones_of_others_do_not(network: Run) -> None:
    async def body(net: Network) -> None:
        statuses = []
        async with net.http("portico_token_" + "0" * 16 + "_" + "A" * 43) as http:
            for _ in range(8):
                answer = await http.get("/v1/whoami")
                statuses.append(answer.status_code)
        assert statuses[:6] == [401] * 6
        assert statuses[6:] == [429, 429]
        assert (code(answer), int(answer.headers["retry-after"])) == ("LOGIN_BACK_OFF", 2)

    network(body)


def test_whoever_asks_too_often_is_told_to_wait(network: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(net: Network) -> None:
        async with net.http(await net.token()) as http:
            answers = [await http.get("/v1/whoami") for _ in range(100)]
        limited = [answer for answer in answers if answer.status_code == 429]
        assert limited and {code(answer) for answer in limited} == {"RATE_LIMIT"}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in limited)

    monkeypatch.setattr(serve, "STRANGERS", (0.001, 10.0))
    network(body)


def test_malformed_credentials_are_told_so(network: Run) -> None:
    async def body(net: Network) -> None:
        async with net.http() as http:
            for value in ("Basic dXNlcjpwYXNz", "Bearer", "\xff"):
                answer = await http.get("/v1/status", headers=[(b"authorization", value.encode("latin-1"))])
                assert (answer.status_code, code(answer)) == (400, "CREDENTIALS_MALFORMED"), value
            for value in ("Bearer portico_token_x", "Bearer a.b.c", "Bearer " + "x" * 20_000):
                answer = await http.get("/v1/status", headers={"authorization": value})
                assert answer.status_code in (401, 404), value

    network(body)


def test_a_session_cookie_changes_nothing_for_another_site(network: Run) -> None:
    async def body(net: Network) -> None:
        cookie = {"cookie": f"portico_session={await net.token('administrator')}"}
        async with net.http() as http:
            assert (await http.get("/v1/whoami", headers=cookie)).status_code == 200
            request: dict[str, Any] = {"json": {"name": "x"}}
            for origin in ({}, {"origin": "https://evil.example"}, {"origin": "null"}):
                answer = await http.post("/v1/credentials/tokens", headers={**cookie, **origin}, **request)
                assert (answer.status_code, code(answer)) == (403, "CROSS_SITE")
            answer = await http.post("/v1/credentials/tokens", headers={**cookie, "origin": net.url}, **request)
            assert answer.status_code == 200

    network(body)


def test_connections_and_slow_requests_are_bounded(network: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(limit, "BODY_SECONDS", 0.3)

    async def dial(net: Network) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(net.address, 2506, ssl=net.context(), server_hostname="")

    async def body(net: Network) -> None:
        token = await net.token("administrator")
        for start in (b"", b"GET /v1/status HTTP/1.1\r\nhost: x\r\n"):
            reader, writer = await dial(net)
            writer.write(start)
            assert await asyncio.wait_for(reader.read(), 20) == b"", "the connection is ended"
            writer.close()
        reader, writer = await dial(net)
        head = f"POST /v1/settings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 9\r\n\r\n"
        writer.write(head.encode() + b"{")
        assert (await asyncio.wait_for(reader.readline(), 20)).split()[1] == b"408"
        writer.close()
        sockets = [socket.create_connection((net.address, 2506)) for _ in range(MAXIMUM_OF_ONE + 8)]
        try:
            await until(lambda: net.listener.refused["too many connections"] >= 8)
        finally:
            for sock in sockets:
                sock.close()
        await until(lambda: not net.listener._open.total())
        async with net.http(token) as http:
            assert (await http.get("/v1/whoami")).status_code == 200

    network(body)


def test_only_tls_13_is_spoken(network: Run) -> None:
    async def body(net: Network) -> None:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(net.address, 2506, ssl=old)
        reader, writer = await asyncio.open_connection(net.address, 2506)
        writer.write(b"GET /v1/login HTTP/1.1\r\nhost: x\r\n\r\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            answer = await reader.readexactly(4)
            assert answer != b"HTTP"
            raise ConnectionError
        writer.close()

    network(body)


def test_the_listener_follows_the_settings(network: Run) -> None:
    async def body(net: Network) -> None:
        async def change(**section: Any) -> None:
            latest = net.agent.store().latest()
            assert latest is not None
            document = load_data({**latest.settings.as_data(), "management": {"listen": [net.address], **section}})
            await net.agent.change(document, expected=None, author="test")
            await net.listener.follow()

        await change(port=2507)
        assert net.listener.places == [(net.address, 2507)]
        await change(state="disabled")
        assert net.listener.places == []
        with socket.create_server((net.address, 2506)):
            await change()
            assert net.listener.problem is not None and net.listener.problem.code == "MANAGEMENT_LISTENER"
        await net.listener.follow()
        assert net.listener.places == [(net.address, 2506)]
        assert net.listener.problem is None

    network(body)


def test_the_socket_of_the_machine_asks_the_kernel_who_is_there(network: Run, tmp_path: Path) -> None:
    async def body(net: Network) -> None:
        import uvicorn

        path = tmp_path / "server.sock"
        config = api_config(net.agent)
        server = uvicorn.Server(config)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport, base_url="http://portico", timeout=60.0) as http:
                who = await http.get("/v1/whoami")
                made = await http.post("/v1/credentials/tokens", json={"name": "x"})
            server.should_exit = True
            await serving
        import os

        if os.getuid() == 0:
            assert who.json()["kind"] == "local" and who.json()["role"] == "administrator"
            assert made.status_code == 200
            assert net.audited()[0]["who"] == "root"
        else:
            assert code(who) == code(made) == "NO_ROLE"

    network(body)
