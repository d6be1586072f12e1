"""Logging in at a real OpenID Connect provider (oidc-provider, certified), from the command line to the audit log."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from portico.administration import provider as provider_module
from portico.errors import NotPermitted, PorticoError
from portico.management.cli import output, sessions
from portico.management.cli.app import app
from portico.management.cli.login import Login
from tests.peers.provider import USERS, Browser, free_port, started
from tests.unit.management.conftest import Network
from tests.unit.management.test_access import code

ROLES = [
    {"source": "oidc_group", "name": "network-admins", "role": "administrator"},
    {"source": "oidc_group", "name": "staff", "role": "viewer"},
]

Run = Callable[..., None]


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    with started(free_port()) as issuer:
        yield issuer


def log_in(issuer: str, user: str, client: str = "portico") -> str:
    """An ID token, by the code flow of the command line."""
    with httpx.Client(timeout=60.0, trust_env=False) as http:
        attempt = Login(issuer, client, ["openid", "profile"], http, lambda _: None)
        return attempt.code(lambda url: threading.Thread(target=Browser(user).open, args=(url,)).start())


def oidc(issuer: str, **changes: Any) -> dict[str, Any]:
    return {"oidc": {"issuer": issuer, "client_id": "portico", **changes}, "roles": ROLES}


def test_groups_of_the_provider_give_roles(network: Run, provider: str) -> None:
    async def body(net: Network) -> None:
        async with net.http() as http:
            assert (await http.get("/v1/login")).json()["oidc"]["issuer"] == provider
        for user, role in (("100", "administrator"), ("200", "viewer")):
            token = await asyncio.to_thread(log_in, provider, user)
            async with net.http(token) as http:
                who = (await http.get("/v1/whoami")).json()
                expected = (USERS[user]["preferred_username"], "oidc", role, user)
                assert (who["name"], who["kind"], who["role"], who["id"]) == expected
        async with net.http(await asyncio.to_thread(log_in, provider, "300")) as http:
            answer = await http.get("/v1/whoami")
            assert (answer.status_code, code(answer)) == (403, "NO_ROLE")
        # A token that the same provider gave another program of the same user.
        async with net.http(await asyncio.to_thread(log_in, provider, "100", "other")) as http:
            answer = await http.get("/v1/whoami")
            assert (answer.status_code, code(answer)) == (401, "CREDENTIAL_REFUSED")

    network(body, **oidc(provider))


def test_a_changed_token_is_refused(network: Run, provider: str) -> None:
    async def body(net: Network) -> None:
        token = await asyncio.to_thread(log_in, provider, "200")
        head, claims, signature = token.split(".")
        flipped = ("A" if signature[5] != "A" else "B").join((signature[:5], signature[6:]))
        admin = (await asyncio.to_thread(log_in, provider, "100")).split(".")
        wrong = [f"{head}.{claims}.{flipped}", f"{head}.{admin[1]}.{signature}", f"eyJhbGciOiJub25lIn0.{claims}."]
        for text in wrong:
            with pytest.raises(NotPermitted) as refused:
                await net.agent.access.identity(text)
            assert refused.value.code == "CREDENTIAL_REFUSED"
        assert (await net.agent.access.identity(token)).subject == "200"

    network(body, **oidc(provider))


def test_time_ends_a_token_with_room_for_wrong_clocks(network: Run, provider: str) -> None:
    async def body(net: Network) -> None:
        access = net.agent.access
        token = await asyncio.to_thread(log_in, provider, "200")
        identity = await access.identity(token)
        start = access.now()
        for seconds, good in ((-50, True), (-70, False), (650, True), (670, False)):
            access.now = lambda seconds=seconds: start + timedelta(seconds=seconds)  # type: ignore[misc]
            if good:
                assert await access.identity(token) == identity
            else:
                with pytest.raises(NotPermitted):
                    await access.identity(token)

    network(body, **oidc(provider, clock_skew_seconds=60))


def test_new_keys_of_the_provider_are_found_and_a_silent_one_is_named(
    network: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(provider_module, "BETWEEN", 0.0)

    async def body(net: Network) -> None:
        access = net.agent.access
        with started(port) as issuer:
            old = await asyncio.to_thread(log_in, issuer, "200")
            assert (await access.identity(old)).subject == "200"
        assert (await access.identity(old)).subject == "200", "its keys are remembered while it is away"
        with started(port) as issuer:
            new = await asyncio.to_thread(log_in, issuer, "200")
            assert (await access.identity(new)).subject == "200"
            with pytest.raises(NotPermitted):
                await access.identity(old)
        await access.close()
        with pytest.raises(PorticoError) as silent:
            await access.identity(new)
        assert silent.value.code == "OIDC_UNAVAILABLE"
        assert silent.value in access.problems()

    network(body, **oidc(f"http://127.0.0.1:{port}"))


@pytest.mark.parametrize("flow", ["code", "device"])
def test_the_command_line_logs_in_works_and_logs_out(
    flow: str, network: Run, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(
        Login.__init__, "__kwdefaults__", {**(Login.__init__.__kwdefaults__ or {}), "sleep": lambda _: None}
    )

    def browse(text: str) -> None:
        url = re.search(r"https?://\S+", text)
        if url is not None and (flow == "device") == text.startswith("Open "):
            threading.Thread(target=Browser("100").open, args=(url[0],)).start()

    monkeypatch.setattr(output, "note", browse)
    monkeypatch.setattr(sessions, "_open", lambda _: None)
    monkeypatch.setattr(sessions, "_has_browser", lambda: flow == "code")

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    async def body(net: Network) -> None:
        def person() -> None:
            run("connect", "office", net.url, "--yes")
            who = run("--server", "office", "login", *(["--device"] if flow == "device" else []))
            assert (who["name"], who["kind"], who["role"]) == ("ada", "session", "administrator")
            files = tmp_path / "config" / "portico" / "clusters.json"
            assert files.stat().st_mode & 0o777 == 0o600
            token = json.loads(files.read_text())["clusters"]["office"]["token"]
            assert token.startswith("portico_session_")
            assert run("--server", "office", "clients", "list") is not None
            made = run("--server", "office", "admin", "token", "create", "--name", "ci", "--role", "operator")
            assert made["credential"]["author"] == "ada"
            assert run("--server", "office", "logout")["ended"] is True
            refused = CliRunner().invoke(app, ["--server", net.url, "whoami"], env={"PORTICO_TOKEN": token})
            assert refused.exit_code == 5
            assert "portico --server office login" in refused.stderr

        await asyncio.to_thread(person)
        actions = [(entry["who"], entry["action"], entry["result"]) for entry in reversed(net.audited())]
        assert actions == [
            ("ada", "POST /v1/sessions", "done"),
            ("ada", "POST /v1/credentials/tokens", "done"),
            ("ada", "DELETE /v1/sessions/current", "done"),
        ]
        assert "portico_session_" not in net.agent.access.audit.path.read_text()

    network(body, **oidc(provider))


def test_a_user_that_is_revoked_loses_sessions_and_tokens_at_once(network: Run, provider: str) -> None:
    async def body(net: Network) -> None:
        identity = await asyncio.to_thread(log_in, provider, "100")
        async with net.http(identity) as http:
            session = (await http.post("/v1/sessions")).json()["token"]
        async with net.http(session) as mine, net.http(await net.token("administrator")) as other:
            assert (await mine.get("/v1/whoami")).status_code == 200
            ended = (await other.post("/v1/credentials/revoke-user", json={"subject": "100"})).json()
            assert [entry["name"] for entry in ended["sessions"]] == ["ada"]
            assert code(await mine.get("/v1/whoami")) == "CREDENTIAL_REFUSED"
        async with net.http(identity) as http:
            assert code(await http.post("/v1/sessions")) == "CREDENTIAL_REFUSED"

    network(body, **oidc(provider))
