"""Certificates, revocations, tokens and keys are the same on every server, and one server writes."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from portico.certificates import replication
from portico.certificates.issue import make_request
from portico.certificates.tokens import create_token
from portico.errors import PorticoError
from portico.server.cluster_secrets import KEY_DISTRIBUTION, KEY_ROTATION, ClusterState, new_state
from portico.server.credentials import now_utc
from portico.server.gateway import Request
from portico.server.peers.records import merge_states, merge_tickets
from tests.unit.server.peers.conftest import Cluster, Scenario, Server, until
from tests.unit.server.peers.test_distribution import heal, part, three

Play = Callable[[Scenario], None]


def issued(server: Server) -> dict[str, str]:
    return {record.serial: record.name for record in server.agent.credentials.usable_store().issued(kind="client")}


def enrolment(server: Server, name: str) -> Request:
    """A token that `server` makes, and the request that uses it."""
    credentials = server.agent.credentials
    assert credentials.authority is not None
    token = create_token(
        credentials.usable_store(), name=name, url="https://x", trust=credentials.authority.pem, now=now_utc()
    )
    body = {"id": token.id, "secret": token.secret, "csr": make_request(name)[1]}
    return Request(1, "198.51.100.7:4711", "POST", "/portico/v1/enrol", json.dumps(body).encode(), None)


def test_a_computer_enrols_at_any_server_and_every_server_knows_it_at_once(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        request = enrolment(third, "laptop7")
        await third.agent.peers.changed()
        answer = await third.agent.peers.answer(request)
        assert answer.status == 200, answer.body
        assert json.loads(answer.body)["name"] == "laptop7"
        assert "laptop7" in issued(first).values()
        assert issued(first) == issued(second)
        await until(lambda: issued(first) == issued(third))
        again = await second.agent.peers.answer(request)
        assert again.status == 403  # used up everywhere

    play(scenario)


def test_the_next_server_issues_when_the_leader_is_gone_and_knows_all_it_issued(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        requests = [enrolment(first, f"laptop{number}") for number in range(3)]
        await first.agent.peers.changed()
        assert (await second.agent.peers.answer(requests[0])).status == 200
        await first.stop()
        answer = await third.agent.peers.answer(requests[1])
        assert answer.status == 200, answer.body
        await until(lambda: third.agent.peers.leader() == second.agent.peers.leader() == "da2")
        assert (await third.agent.peers.answer(requests[0])).status == 403
        await until(lambda: issued(second) == issued(third))
        again = cluster.add("da1")
        await again.start()
        await until(lambda: issued(again) == issued(second))
        assert len(issued(again)) == 2

    play(scenario)


def test_without_a_quorum_no_token_is_used_up(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        request = enrolment(first, "laptop7")
        await first.agent.peers.changed()
        part(first, second)
        assert (await second.agent.peers.answer(request)).status == 503
        assert (await first.agent.peers.answer(request)).status == 200
        heal(first, second)
        await until(lambda: issued(first) == issued(second))

    play(scenario)


def test_a_revocation_closes_tunnels_on_other_servers_before_it_returns(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first, second, third = await three(cluster)
        issuer = first.agent.credentials.issuer()
        issuer.client("laptop7", make_request("laptop7")[1], days=90, now=now_utc())
        await first.agent.peers.changed()
        serial = next(iter(issued(second)))
        identity = {"issuer_sha256": issuer.authority.issuer_sha256, "serial": serial, "subject": "laptop7"}
        third.sessions = [{"session": 7, "identity": identity, "peer": "198.51.100.7:4711"}]
        clients = [client async for client in second.agent.clients()]
        assert [(c.name, c.state, c.sessions[0]["server"]) for c in clients] == [("laptop7", "connected", "da3")]
        began = time.monotonic()
        await second.agent.revoke(name="laptop7", serial=None, reason="key-compromise")
        logging.info("revoked everywhere in %.3f s", time.monotonic() - began)
        assert third.sessions == []
        assert {entry.serial for entry in third.agent.credentials.revoked} == {serial}

    play(scenario)


def test_a_client_is_disconnected_wherever_it_is(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        second = await cluster.join(first, "da2")
        second.sessions = [{"session": 7, "identity": {"subject": "laptop7"}, "peer": "198.51.100.7:4711"}]
        assert await first.agent.disconnect("laptop7") == 1
        assert second.sessions == []

    play(scenario)


def test_ticket_keys_are_the_same_after_one_server_rotated_them(play: Play) -> None:
    async def scenario(cluster: Cluster) -> None:
        servers = await three(cluster)
        first, second, _ = servers
        old = (replace(first.agent.credentials.tickets[0], created=now_utc() - timedelta(hours=7)),)
        for server in servers:
            server.agent.credentials.tickets = old
        second.agent.credentials._rotate(now_utc())  # not its business
        assert second.agent.credentials.tickets == old
        first.agent.credentials._rotate(now_utc())
        assert len(first.agent.credentials.tickets) == 2
        await first.agent.peers.changed()
        assert len({server.agent.credentials.tickets for server in servers}) == 1

    play(scenario)


def test_a_log_is_read_in_pages_and_rows_come_twice_without_harm(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "PAGE", 3)

    async def scenario(cluster: Cluster) -> None:
        first = await cluster.found()
        issuer = first.agent.credentials.issuer()
        for number in range(10):
            issuer.client(f"pc{number}", make_request(f"pc{number}")[1], days=90, now=now_utc())
        second = await cluster.join(first, "da2")
        await until(lambda: len(issued(second)) == 10)
        page = replication.changes(first.agent.credentials.usable_store(), "", 0)
        assert len(page.rows) == 3 and page.more
        assert not replication.take_over(second.agent.credentials.usable_store(), page)

    play(scenario)


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": [{"kind": "issued", "row": ["x"]}]},
        {"rows": [{"kind": "sqlite_master", "row": []}]},
        {"rows": [{"kind": "revoked", "row": ["a" * 64, "zz", "n", "2026-01-01T00:00:00.0Z", "r", None]}]},
        {"rows": [{"kind": "revoked", "row": ["a" * 64, "1", "\ud800", "2026-01-01T00:00:00.0Z", "r", None]}]},
        {"rows": [{"kind": "revoked", "row": ["a" * 64, "1", "n", "yesterday", "r", None]}]},
        {"rows": [{}] * 1000},
        {"log": "../../etc"},
        {"number": -1},
        {"number": 1 << 70},
        {"rows": None},
    ],
)
def test_malformed_records_enter_nothing(damage: dict[str, object]) -> None:
    page = {"log": "a" * 32, "number": 1, "rows": [], "more": False}
    with pytest.raises(PorticoError) as error:
        replication.Page.from_data({**page, **damage})
    assert error.value.code == "RECORDS_MALFORMED"


def test_a_new_heartbeat_key_is_known_before_it_signs() -> None:
    now = now_utc()
    state = new_state(now)
    assert state.rotated(now + timedelta(days=1)) is state
    due = now + KEY_ROTATION
    rotated = state.rotated(due)
    assert [number for number, _ in rotated.current(due).keys] == [1, 2]
    assert [number for number, _ in rotated.current(due + KEY_DISTRIBUTION).keys] == [2, 1]
    assert rotated.rotated(due) is rotated
    assert ClusterState.from_data(rotated.as_data()) == rotated
    for _, key in rotated.current(due).keys:
        assert key.hex() not in repr(rotated) and repr(key) not in repr(rotated.current(due))


def test_states_and_ticket_keys_merge_to_the_same_on_both_sides() -> None:
    now = now_utc()
    state = new_state(now)
    one = state.with_member("da2", "a" * 64)
    other = replace(state.rotated(now + KEY_ROTATION), members={"da3": "b" * 64})
    assert merge_states(one, other) == merge_states(other, one)
    assert set(merge_states(one, other).members) == {"da2", "da3"}
    assert merge_states(one, state) is merge_states(state, one) is one
    assert merge_tickets((), ()) == ()
