"""Administrators of a cluster: one set of credentials, any server answers for another, and witnesses its log."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from portico.administration.roles import Principal, Role
from portico.errors import NotFound, NotPermitted, PorticoError
from portico.management.api.serve import api_config
from portico.server.peers.administration import Asking
from portico.settings import cluster as edits
from tests.unit.server.peers.conftest import Cluster, Scenario, Server, until
from tests.unit.server.peers.test_distribution import heal, part, three

Play = Callable[[Scenario], None]
ROOT = Principal("root", "local", Role.ADMINISTRATOR, "local")
VIEWER = Principal("watcher", "token", Role.VIEWER, "192.0.2.1", "ab")


async def token(server: Server, role: Role = Role.VIEWER) -> tuple[str, str]:
    record, text = await server.agent.access.create_token("ci", role, timedelta(hours=1), "root")
    return record.id, text


def accepts(server: Server, text: str) -> bool:
    access = server.agent.access
    try:
        access.records.verify(text, access.now())
    except NotPermitted:
        return False
    return True


async def ask(
    server: Server, other: str, principal: Principal, method: str, target: str, body: str = ""
) -> tuple[int, object]:
    answered = await server.agent.peers.administration.ask(other, Asking(principal, method, target, body))
    return answered.status, json.loads(answered.body)


def test_a_token_works_on_every_server_and_is_revoked_on_every_server_at_once(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        identifier, text = await token(second)
        assert all(accepts(server, text) for server in (first, second, third)), "when it is shown, all know it"
        await third.agent.access.revoke(identifier)
        assert not any(accepts(server, text) for server in (first, second, third))

    play(scenario)


def test_a_server_that_was_away_learns_what_was_revoked(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        identifier, text = await token(first)
        part(first, second)
        await first.agent.access.revoke(identifier)
        heal(first, second)
        await until(lambda: not accepts(second, text))
        assert not accepts(first, text), "its old copy brings nothing back"

    play(scenario)


def test_all_servers_have_one_ca_of_administration_and_one_that_leaves_keeps_nothing(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        access = first.agent.access
        access.authority.ensure(access.now())
        second = await cluster.join(first, "da2")
        await until(lambda: second.agent.access.authority.digest() == access.authority.digest() != "")
        _, text = await token(first)
        assert accepts(second, text)
        latest = first.agent.store().latest()
        assert latest is not None
        await first.agent.change(edits.remove_server(latest.settings, "da2"), expected=None, author="test")
        await until(lambda: second.agent.access.authority.digest() == "")
        assert not accepts(second, text)
        assert accepts(first, text)

    play(scenario)


def test_any_server_answers_for_another_one_with_the_rights_of_who_asks(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, _ = await three(cluster)
        for server in cluster.servers.values():
            api_config(server.agent)
        status, who = await ask(first, "da2", VIEWER, "GET", "/v1/whoami")
        assert status == 200
        expected = {"name": "watcher", "kind": "token", "role": "viewer", "id": "ab", "server": "da2"}
        assert isinstance(who, dict) and who == {**expected, "address": "192.0.2.1 by da1"}
        status, _ = await ask(first, "da2", VIEWER, "POST", "/v1/credentials/tokens", '{"name": "x"}')
        assert status == 403
        status, _ = await ask(first, "da2", ROOT, "POST", "/v1/credentials/tokens", '{"name": "x"}')
        assert status == 200
        newest, refused = second.agent.access.audit.entries(limit=10)
        assert (newest["who"], newest["from"], newest["result"]) == ("root", "local by da1", "done")
        assert (refused["who"], refused["result"]) == ("watcher", "ROLE_NEEDED")
        assert first.agent.access.audit.entries(limit=10) == []
        with pytest.raises(NotFound):
            await ask(first, "nowhere", ROOT, "GET", "/v1/whoami")
        status, found = await ask(second, "da1", VIEWER, "GET", "/v1/servers")
        assert status == 200 and isinstance(found, dict)
        assert [(server["name"], server["reachable"]) for server in found["servers"]] == [
            ("da1", True),
            ("da2", True),
            ("da3", True),
        ]

    play(scenario)


@pytest.mark.parametrize(
    "change",
    [
        {"method": 5},
        {"target": "no path"},
        {"target": "/\u00e4"},
        {"body": None},
        {"principal": {}},
        {"principal": {**ROOT.as_dict(), "role": "emperor"}},
        {"principal": {**ROOT.as_dict(), "kind": "server"}},
    ],
    ids=str,
)
def test_a_malformed_request_of_another_server_is_refused(change: dict[str, object]) -> None:
    data = Asking(ROOT, "GET", "/v1/status", "").as_data()
    assert Asking.from_data(data, "da2").principal.address == "local by da2"
    with pytest.raises(PorticoError):
        Asking.from_data({**data, **change}, "da2")


def test_the_other_servers_know_where_a_log_ended(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        audit = first.agent.access.audit
        for number in range(3):
            audit.append({"who": "mallory", "action": f"x {number}"})
        names = {"da2", "da3"}
        await first.agent.peers.changed()
        await until(
            lambda: all(
                s.agent.peers.administration.witnesses().get("da1") == list(audit.head()) for s in (second, third)
            )
        )
        heard = await first.agent.peers.administration.heard_of()
        assert set(heard) == names
        assert audit.verify(heard).intact
        # Root of da1 writes its log anew, without what mallory did.
        audit.path.unlink()
        (first.agent.state / "audit.json").unlink()
        audit._last = None
        audit.append({"who": "nobody", "action": "nothing"})
        assert audit.verify().intact
        assert not audit.verify(heard).intact

    play(scenario)
