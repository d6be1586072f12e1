"""Grants with simulated time: who holds, who ends, and what other servers know."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest

from portico.errors import InvalidInput, LimitReached, NotFound
from portico.server.users import grants as module
from portico.server.users.grants import Grant, Grants
from portico.server.users.opened import Tunnels

T0 = 1_700_000_000.0
HOUR = 3600.0


def grant(
    identifier: str = "a", machine: str = "laptop1", user: str = "alice", began: float = T0, **more: Any
) -> Grant:
    made = Grant(identifier, user, "certificate", machine, "aa" * 32, "1", "203.0.113.5", began, began + HOUR)
    return replace(made, **more)


def test_a_grant_holds_until_its_time_and_is_then_forgotten() -> None:
    held = Grants()
    held.add(grant(), T0)
    assert list(held.active(T0 + HOUR - 1)) == [("aa" * 32, "laptop1")]
    assert held.next_end(T0) == T0 + HOUR
    assert held.active(T0 + HOUR) == {}
    assert held.prune(T0 + HOUR)
    assert len(held) == 0


def test_a_computer_has_one_user_at_a_time() -> None:
    held = Grants()
    held.add(grant("a"), T0)
    held.add(grant("b", user="bob", began=T0 + 1), T0 + 1)
    assert [g.user for g in held.active(T0 + 2).values()] == ["bob"]
    assert {g.id: g.state(T0 + 2) for g in held.all()} == {"a": "revoked", "b": "open"}


def test_an_end_is_final_and_names_who_did_it() -> None:
    held = Grants([grant()])
    ended = held.end("a", T0 + 5, "root")
    assert (ended.ended, ended.ended_by, held.active(T0 + 6)) == (T0 + 5, "root", {})
    assert held.end("a", T0 + 9, "other").ended == T0 + 5
    with pytest.raises(NotFound) as refused:
        held.end("nobody", T0, "root")
    assert refused.value.code == "NO_SUCH_GRANT"


def test_a_server_that_missed_the_end_cannot_bring_a_grant_back() -> None:
    here, there = Grants([grant()]), Grants([grant()])
    here.end("a", T0 + 5, "root")
    assert not here.merge(there.all(), T0 + 6)
    assert here.active(T0 + 6) == {}
    assert there.merge(here.all(), T0 + 6)
    assert there.active(T0 + 6) == {}
    assert here.digest(T0 + 6) == there.digest(T0 + 6)


def test_merging_in_any_order_gives_the_same() -> None:
    one, two = Grants([grant("a"), grant("b", "laptop2")]), Grants([grant("a"), grant("c", "laptop3")])
    one.end("a", T0 + 5, "x")
    two.end("a", T0 + 4, "y")
    first = one.all()
    one.merge(two.all(), T0 + 6)
    two.merge(first, T0 + 6)
    assert one.digest(T0 + 6) == two.digest(T0 + 6)
    assert {g.id: g.ended for g in one.all()} == {"a": T0 + 4, "b": None, "c": None}


def test_what_has_run_out_is_not_taken_over() -> None:
    held = Grants()
    assert not held.merge([grant()], T0 + HOUR)
    assert len(held) == 0


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAXIMUM", 2)
    held = Grants()
    held.add(grant("a", "m1"), T0)
    held.add(grant("b", "m2"), T0)
    with pytest.raises(LimitReached):
        held.add(grant("c", "m3"), T0)
    assert not held.merge([grant("d", "m4")], T0)
    held.add(grant("e", "m1", began=T0 + HOUR), T0 + HOUR)


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"user": 5},
        {"method": "password"},
        {"until": "x"},
        {"until": float("inf")},
        {"ended": True},
        {"machine": "m" * 600},
        {"more": 1},
    ],
)
def test_foreign_grants_are_checked(change: dict[str, Any]) -> None:
    assert Grant.from_data(grant().as_data()) == grant()
    with pytest.raises(InvalidInput) as refused:
        Grant.from_data({**grant().as_data(), **change})
    assert refused.value.code == "GRANT_MALFORMED"


IDENTITY = {"subject": "laptop1", "issuer_sha256": "aa" * 32, "serial": "1"}
ADDRESS = "fd7c:1a2b:3c4d:1000::c1"


def up(number: int, identity: dict[str, str] | None = IDENTITY) -> dict[str, Any]:
    return {"event": "session_up", "session": number, "identity": identity}


def learned(number: int, address: str = ADDRESS) -> dict[str, Any]:
    return {"event": "session_address", "session": number, "address": address}


def test_only_addresses_of_a_granted_computer_are_opened_and_for_the_rest_of_its_time() -> None:
    tunnels, held = Tunnels(), Grants([grant()])
    for event in (up(1), learned(1), learned(1, "fe80::1"), up(2, {**IDENTITY, "subject": "laptop2"}), up(3, None)):
        assert tunnels.event(event)
    tunnels.event(learned(2, "fd7c:1a2b:3c4d:1000::c2"))
    tunnels.event(learned(3, "fd7c:1a2b:3c4d:1000::c3"))
    opened = tunnels.opened(held.active(T0 + 10), T0 + 10)
    assert [(m.address, m.seconds) for m in opened] == [(IPv6Address(ADDRESS), 3590)]
    assert tunnels.opened(held.active(T0 + HOUR), T0 + HOUR) == []


def test_a_redial_keeps_the_grant_and_a_lost_tunnel_closes() -> None:
    tunnels, held = Tunnels(), Grants([grant()])
    tunnels.event(up(1))
    tunnels.event(learned(1))
    tunnels.event(up(2))
    tunnels.event(learned(2))
    tunnels.event({"event": "session_down", "session": 1})
    assert [m.address for m in tunnels.opened(held.active(T0), T0)] == [IPv6Address(ADDRESS)]
    tunnels.event({"event": "session_down", "session": 2})
    assert tunnels.opened(held.active(T0), T0) == []


def test_an_address_that_another_computer_has_now_is_closed() -> None:
    tunnels, held = Tunnels(), Grants([grant()])
    for event in (up(1), learned(1), up(2, {**IDENTITY, "subject": "laptop2"}), learned(2)):
        tunnels.event(event)
    assert tunnels.opened(held.active(T0), T0) == []


def test_the_same_name_of_another_ca_is_another_computer() -> None:
    tunnels, held = Tunnels(), Grants([grant()])
    tunnels.replace([{"session": 1, "identity": {**IDENTITY, "issuer_sha256": "bb" * 32}, "addresses": [ADDRESS]}])
    assert tunnels.opened(held.active(T0), T0) == []
    tunnels.replace([{"session": 1, "identity": IDENTITY, "addresses": [ADDRESS]}])
    assert len(tunnels.opened(held.active(T0), T0)) == 1
    tunnels.event({"event": "gateway_started", "at": T0})
    assert tunnels.opened(held.active(T0), T0) == []
