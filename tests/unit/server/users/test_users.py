"""Logins as a server answers them: challenge, proof, limits, what is kept, what other servers take over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from portico.certificates.trust import to_pem
from portico.errors import Conflict, InvalidInput, LimitReached, NotPermitted
from portico.server.gateway import Request
from portico.server.users.proof import sign, signed_text
from portico.server.users.users import LOGIN_BURST, NAME, Users
from portico.settings.document import load_data
from tests.peers.user_ca import UserCa
from tests.unit.settings.test_verify import changed

IDENTITY = {"subject": "laptop1", "issuer_sha256": "aa" * 32, "serial": "5"}


class Site:
    """One server without a gateway."""

    def __init__(self, directory: Path, authority: UserCa, authentication: str = "certificate") -> None:
        directory.mkdir(exist_ok=True)
        file = directory / "users.pem"
        file.write_text(to_pem(authority.certificate))
        self.audited: list[dict[str, Any]] = []
        changes: dict[str, Any] = {"access.user_authentication": authentication, "access.user_lifetime_hours": 2}
        if authentication == "certificate":
            changes["access.user_ca"] = [str(file)]
        elif authentication == "oidc":
            provider = {"issuer": "https://id.example.net", "client_id": "portico", "ca_file": str(file)}
            changes["access.user_oidc"] = provider
        self.settings = load_data(changed(changes))
        agent: Any = SimpleNamespace(
            state=directory,
            platform=SimpleNamespace(kernel=SimpleNamespace(users=tuple), settings=self.settings),
            credentials=SimpleNamespace(
                tickets=[SimpleNamespace(key=b"k" * 32)], client_authorities=lambda _settings: "", revoked=()
            ),
            access=SimpleNamespace(audit=SimpleNamespace(append=self.audited.append)),
            peers=SimpleNamespace(changed=_nothing),
        )
        self.agent = agent
        self.users = Users(agent)

    def ask(self, method: str, what: str, body: Any = None, identity: dict[str, str] | None = IDENTITY) -> Any:
        path = f"/portico/v1/user{what}"
        request = Request(1, "203.0.113.5:4000", method, path, json.dumps(body).encode(), identity)
        return self.users.routes[method, path](request, self.settings)

    def proof(self, authority: UserCa, identity: dict[str, str] | None = IDENTITY) -> dict[str, str]:
        made = self.ask("GET", "/challenge", identity=identity)
        certificate, key = authority.issue("alice")
        text = signed_text(made["challenge"], made["issuer_sha256"], made["serial"])
        chain = to_pem(certificate)
        return {"challenge": made["challenge"], "certificate_chain": chain, "signature": sign(key, text)}


async def _nothing() -> None:
    return None


@pytest.fixture(scope="module")
def authority() -> UserCa:
    return UserCa("users", datetime.now(UTC))


@pytest.fixture
def site(tmp_path: Path, authority: UserCa) -> Site:
    return Site(tmp_path / "da1", authority)


def test_a_login_is_kept_over_a_restart_and_audited(site: Site, authority: UserCa) -> None:
    assert site.ask("GET", "")["level"] == "Machine"
    found = site.ask("POST", "/login", site.proof(authority))
    assert (found["level"], found["grant"]["user"], found["grant"]["machine"]) == ("User", "alice", "laptop1")
    assert round(found["grant"]["until"] - found["grant"]["began"]) == 7200
    assert [(entry["who"], entry["action"], entry["result"]) for entry in site.audited] == [
        ("alice", "user login", "done")
    ]
    assert (site.agent.state / NAME).stat().st_mode & 0o777 == 0o600
    again = Users(site.agent)
    assert [item["state"] for item in again.page(None, 10)[0]] == ["open"]
    (site.agent.state / NAME).write_text("{damaged")
    assert Users(site.agent).page(None, 10) == ([], None)


def test_open_are_the_addresses_of_the_computers_own_tunnels(site: Site, authority: UserCa) -> None:
    site.users.event({"event": "session_up", "session": 1, "identity": IDENTITY})
    site.users.event({"event": "session_address", "session": 1, "address": "fd00::5"})
    site.users.event({"event": "session_address", "session": "x"})
    assert site.users.members() == []
    site.ask("POST", "/login", site.proof(authority))
    assert [str(member.address) for member in site.users.members()] == ["fd00::5"]
    site.ask("POST", "/logout", {})
    assert site.users.members() == []


def test_the_proof_of_another_computer_and_a_used_one_are_refused(site: Site, authority: UserCa) -> None:
    proof = site.proof(authority, {**IDENTITY, "subject": "laptop2"})
    with pytest.raises(NotPermitted):
        site.ask("POST", "/login", proof)
    proof = site.proof(authority)
    site.ask("POST", "/login", proof)
    with pytest.raises(NotPermitted) as refused:
        site.ask("POST", "/login", proof)
    assert refused.value.code == "CHALLENGE_REFUSED"
    assert site.audited[-1]["result"] == "CHALLENGE_REFUSED"


@pytest.mark.parametrize("body", [None, [], {"challenge": 5}, {}, {"challenge": "x"}])
def test_nonsense_is_no_login(site: Site, body: Any) -> None:
    with pytest.raises(InvalidInput):
        site.ask("POST", "/login", body)


def test_nobody_logs_in_without_a_computers_certificate(site: Site) -> None:
    for method, what in (("GET", ""), ("GET", "/challenge"), ("POST", "/login"), ("POST", "/logout")):
        with pytest.raises(NotPermitted) as refused:
            site.ask(method, what, {}, None)
        assert refused.value.code == "CERTIFICATE_NEEDED"


def test_too_many_logins_have_to_wait_and_other_computers_do_not(site: Site, authority: UserCa) -> None:
    wrong = {"challenge": "x", "certificate_chain": "x", "signature": "x"}
    kinds: list[type[Exception]] = []
    for _ in range(LOGIN_BURST + 1):
        with pytest.raises((NotPermitted, LimitReached)) as refused:
            site.ask("POST", "/login", wrong)
        kinds.append(refused.type)
    assert kinds[0] is NotPermitted
    assert kinds[-1] is LimitReached
    other = {**IDENTITY, "subject": "laptop2"}
    site.ask("POST", "/login", site.proof(authority, other), other)


def test_the_other_way_to_authenticate_is_refused(tmp_path: Path, authority: UserCa) -> None:
    none = Site(tmp_path / "none", authority, "none")
    assert none.ask("GET", "")["level"] == "User"
    for what in ("/challenge", "/provider"):
        with pytest.raises(Conflict):
            none.ask("GET", what)
    with pytest.raises(Conflict):
        Site(tmp_path / "certificate", authority).ask("POST", "/login", {"token": "x"})


def test_a_missing_ca_of_the_provider_is_told_to_who_logs_in_and_hides_no_level(
    tmp_path: Path, authority: UserCa
) -> None:
    site = Site(tmp_path / "oidc", authority, "oidc")
    assert site.ask("GET", "/provider")["authority"] == to_pem(authority.certificate)
    (tmp_path / "oidc/users.pem").unlink()
    with pytest.raises(InvalidInput, match=r"users\.pem"):
        site.ask("GET", "/provider")
    assert site.ask("GET", "")["level"] == "Machine"
    assert site.ask("POST", "/logout")["level"] == "Machine"


def test_a_revocation_reaches_the_other_servers_and_stays(tmp_path: Path, authority: UserCa, site: Site) -> None:
    other = Site(tmp_path / "da2", authority)
    # Another server's challenge is good here, and what is granted here holds there.
    site.ask("POST", "/login", other.proof(authority))
    stale = site.users.share()
    other.users.take_over(stale)
    assert other.users.digest() == site.users.digest()
    assert other.ask("GET", "")["level"] == "User"
    asyncio.run(site.users.revoke(identifier=None, user="alice", machine=None, by="root"))
    other.users.take_over(site.users.share())
    assert other.ask("GET", "")["level"] == "Machine"
    other.users.take_over(stale)
    assert other.ask("GET", "")["level"] == "Machine"
    with pytest.raises(InvalidInput):
        other.users.take_over({"grants": [{"id": "x"}]})


def test_a_revoked_computer_takes_its_user_along(site: Site, authority: UserCa) -> None:
    site.ask("POST", "/login", site.proof(authority))
    end: Callable[[], None] = site.users._end_revoked
    end()
    assert site.ask("GET", "")["level"] == "User"
    site.agent.credentials.revoked = (SimpleNamespace(issuer_sha256="aa" * 32, serial="5"),)
    end()
    assert site.ask("GET", "")["level"] == "Machine"
    assert site.users.page(None, 10)[0][0]["ended_by"] == "the computer was revoked"
