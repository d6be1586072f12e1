from __future__ import annotations

from typing import Any

import pytest

from portico.accounting.owners import Owners

ADDRESS = "fd7c:1a2b:3c4d:1000::c"


def up(session: int, name: str | None, at: float = 0.0) -> dict[str, Any]:
    identity = {"subject": name, "serial": f"{session:x}", "issuer_sha256": "aa"} if name else None
    return {"event": "session_up", "at": at, "session": session, "peer": "203.0.113.1:5", "identity": identity}


def has(session: int, address: str, at: float) -> dict[str, Any]:
    return {"event": "session_address", "at": at, "session": session, "address": address}


def test_an_address_is_its_owners_also_after_the_tunnel_ended() -> None:
    owners = Owners(keep_former=True)
    for event in (up(1, "laptop7"), has(1, ADDRESS, 10.0), {"event": "session_down", "at": 20.0, "session": 1}):
        owners.event(event)
    owner = owners.of(ADDRESS, 30.0)
    assert owner is not None
    assert (owner.name, owner.serial, owner.session, owner.peer) == ("laptop7", "1", 1, "203.0.113.1:5")
    assert owners.of("fd00::1", 30.0) is None


def test_an_address_that_changed_hands_is_whose_it_was_at_the_time() -> None:
    owners = Owners(keep_former=True)
    for event in (up(1, "one"), has(1, ADDRESS, 10.0), up(2, "two"), has(2, ADDRESS, 20.0), has(2, ADDRESS, 25.0)):
        owners.event(event)

    def name(at: float) -> str | None:
        owner = owners.of(ADDRESS, at)
        return owner.name if owner is not None else "?"

    assert [name(at) for at in (5.0, 10.0, 19.9, 20.0, 99.0)] == ["one", "one", "one", "two", "two"]


def test_tunnels_without_an_identity_have_a_number_and_no_name() -> None:
    owners = Owners(keep_former=True)
    owners.event(up(3, None))
    owners.event(has(3, ADDRESS, 1.0))
    owner = owners.of(ADDRESS, 2.0)
    assert owner is not None and (owner.name, owner.serial, owner.session) == (None, None, 3)


def test_numbers_of_a_new_gateway_are_not_those_of_the_old_one() -> None:
    owners = Owners(keep_former=True)
    owners.event(up(1, "one"))
    owners.event(has(1, ADDRESS, 1.0))
    owners.forget_sessions()
    owners.event(has(1, "fd00::2", 2.0))
    assert owners.of("fd00::2", 3.0) is None
    assert owners.of(ADDRESS, 3.0) is not None


def test_the_table_is_bounded() -> None:
    owners = Owners(limit=3, keep_former=True)
    owners.event(up(1, "one"))
    for number in range(10):
        owners.event(has(1, f"fd00::{number}", float(number)))
    assert [owners.of(f"fd00::{number}", 99.0) is not None for number in range(10)] == [False] * 7 + [True] * 3


@pytest.mark.parametrize("event", [{"event": "session_up"}, {"event": "session_address", "session": "x"}])
def test_malformed_events_are_refused(event: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Owners().event(event)


def test_without_a_log_nothing_stays_of_tunnels_that_ended() -> None:
    owners = Owners()
    for number in range(1000):
        for event in (up(number, "one"), has(number, f"fd00::{number:x}", 1.0), has(number, "fd00::ffff", 2.0)):
            owners.event(event)
        if number % 2:
            owners.event({"event": "session_down", "at": 3.0, "session": number})
    assert owners.of("fd00::1", 4.0) is None
    assert owners.of("fd00::2", 4.0) is not None
    # Of these no event told the end.
    owners.ended(owners.sessions() - {2})
    assert owners.sessions() == {2}
    assert owners.of("fd00::2", 4.0) is not None
    assert owners.of("fd00::4", 4.0) is None


def test_an_address_that_another_tunnel_has_by_now_stays_known() -> None:
    owners = Owners()
    for event in (up(1, "one"), has(1, ADDRESS, 1.0), up(2, "two"), has(2, ADDRESS, 2.0)):
        owners.event(event)
    owners.event({"event": "session_down", "at": 3.0, "session": 1})
    owner = owners.of(ADDRESS, 4.0)
    assert owner is not None and owner.name == "two"
