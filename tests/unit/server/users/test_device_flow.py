"""`portico client login` at a real provider: from the command line through agent, tunnel's server and back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from portico.client.control_client import ask
from portico.errors import NotPermitted, PorticoError
from portico.management.cli import login as login_module
from portico.server.users import tokens
from tests.peers.front import until
from tests.peers.provider import Browser
from tests.unit.server.users.conftest import Site

At = Callable[..., None]


def test_a_user_logs_in_at_the_provider_and_the_intranet_opens_until_the_time_is_over(users_at: At) -> None:
    async def scenario(site: Site) -> None:
        await until("the intranet to be closed", lambda: site.refused("da1"))
        assert (site.opened("da1"), await site.level()) == ([], "Machine")
        found = await site.login(Browser("200"))
        assert (found["level"], found["grant"]["user"], found["grant"]["method"]) == ("User", "bob", "oidc")
        # The provider said slow_down to the first question: five seconds more from then on (RFC 8628 section 3.5).
        assert site.person.waited[:2] == [5.0, 10.0]
        await until("NAT64 to be open", lambda: site.passes("da1"))
        assert (site.opened("da1"), await site.level()) == ([site.address], "User")
        site.ahead(7201.0)
        assert site.opened("da1") == []
        await until("NAT64 to close", lambda: site.refused("da1"))
        assert await site.level() == "Machine"

    users_at(scenario)


def test_who_refuses_or_is_too_late_is_told_and_nothing_opens(users_at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(site: Site) -> None:
        refused = await site.login(Browser("200", refuses=True), fails=True)
        assert (refused["code"], refused["why"]) == ("LOGIN_DENIED", "it was refused there")
        monkeypatch.setattr(login_module, "LONGEST", 0.2)
        late = await site.login(None, fails=True)
        assert (late["code"], late["why"]) == ("LOGIN_DENIED", "nobody confirmed in time")
        assert (site.opened("da1"), await site.level()) == ([], "Machine")
        assert site.servers["da1"].agent.users.page(None, 100)[0] == []
        audited = site.servers["da1"].agent.access.audit.entries(limit=10)
        assert audited == [], "nobody came as far as the server"

    users_at(scenario)


def test_a_token_opens_once_and_only_when_it_is_fresh_and_meant_for_this_server(
    users_at: At, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(body: dict[str, str]) -> str:
        with pytest.raises(PorticoError) as error:
            await asyncio.to_thread(ask, "POST", "user/login", body=body)
        assert isinstance(error.value, NotPermitted)
        return error.value.code

    async def scenario(site: Site) -> None:
        await site.login(Browser("200"))
        await site.run("client", "logout")
        assert await refused(site.person.asked[-1]) == "TOKEN_NOT_FRESH", "it was used"
        token = await asyncio.to_thread(site.person.token, provider, "other", Browser("200"))
        assert await refused({"token": token}) == "CREDENTIAL_REFUSED", "another program's"
        monkeypatch.setattr(tokens, "FRESH", -60.1)
        late = await site.login(Browser("200"), fails=True)
        assert late["code"] == "TOKEN_NOT_FRESH"
        results = [entry["result"] for entry in site.servers["da1"].agent.access.audit.entries(limit=10)]
        assert results == ["TOKEN_NOT_FRESH", "CREDENTIAL_REFUSED", "TOKEN_NOT_FRESH", "done", "done"]
        assert site.opened("da1") == []

    users_at(scenario)


def test_a_login_holds_wherever_the_computer_dials_and_ends_everywhere(users_at: At) -> None:
    async def scenario(site: Site) -> None:
        await site.login(Browser("200"))
        await until("da1 to open", lambda: site.passes("da1"))
        await site.roam("da2")
        await until("da2 to open", lambda: site.passes("da2"))
        assert (site.opened("da2"), await site.level()) == ([site.address], "User")
        # Whoever is asked to: when the command returns it has ended on all servers.
        first, second = (site.servers[name].agent.users for name in ("da1", "da2"))
        await first.revoke(identifier=None, user="bob", machine=None, by="root")
        assert [grant["state"] for users in (first, second) for grant in users.page(None, 100)[0]] == [
            "revoked",
            "revoked",
        ]
        assert site.opened("da2") == []
        await until("da2 to close", lambda: site.refused("da2"))
        await site.login(Browser("300"))
        await until("da2 to open", lambda: site.passes("da2"))
        # A logout here is known there at once: the next tunnel may be there.
        assert (await site.run("client", "logout"))["level"] == "Machine"
        assert all(grant["state"] == "revoked" for grant in first.page(None, 100)[0])
        await site.roam("da1")
        await until("da1 to refuse", lambda: site.refused("da1"))
        # And a login's time is over wherever the computer is then.
        await site.login(Browser("200"))
        await site.roam("da2")
        await until("da2 to open", lambda: site.passes("da2"))
        site.ahead(7201.0)
        await until("da2 to close", lambda: site.refused("da2"))

    users_at(scenario, "da1", "da2")
