"""Which netlink messages make the agent look at the kernel."""

from __future__ import annotations

import struct

import pytest

from portico.server.reconcile.monitor import worth_a_look

NEW_RULE, NEW_ELEMENT, DELETED_ELEMENT, NEW_GENERATION, NEW_ADDRESS = 0x0A06, 0x0A0C, 0x0A0E, 0x0A0F, 20


def message(kind: int, body: bytes = b"....") -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body + bytes(-len(body) % 4)


def test_a_lease_that_is_renewed_ten_times_a_second_is_not_looked_at() -> None:
    renewal = message(DELETED_ELEMENT, b"12345") + message(NEW_ELEMENT) + message(NEW_GENERATION)
    assert not worth_a_look(renewal)


@pytest.mark.parametrize("kind", [NEW_RULE, NEW_ADDRESS])
def test_a_rule_or_an_address_is(kind: int) -> None:
    assert worth_a_look(message(NEW_ELEMENT) + message(kind) + message(NEW_GENERATION))


def test_a_message_that_lies_about_its_length_is() -> None:
    assert worth_a_look(struct.pack("=IHHII", 3, NEW_ELEMENT, 0, 1, 0))


def test_nothing_is_not() -> None:
    assert not worth_a_look(b"")
