"""Network cards and their carriers, as the kernel tells of them."""

from __future__ import annotations

import socket
import struct

from portico.balancing.nlb import rtnetlink
from portico.server.balancer.carriers import Carriers, carrier

NEW, GONE = 16, 17
UP, RUNNING, LOWER_UP = 0x1, 0x40, 0x10000


def link(name: str, flags: int, family: int = socket.AF_UNSPEC) -> bytes:
    return struct.pack("=BxHiII", family, 1, 7, flags, 0) + rtnetlink.attribute(3, name.encode() + b"\0")


def test_a_carrier_is_there_with_the_lower_layer() -> None:
    assert carrier(NEW, link("eth0", UP | RUNNING | LOWER_UP)) == ("eth0", True)
    assert carrier(NEW, link("eth0", UP)) == ("eth0", False)
    assert carrier(GONE, link("eth0", UP | LOWER_UP)) == ("eth0", False)


def test_that_a_card_left_a_bridge_says_nothing_about_its_carrier() -> None:
    assert carrier(GONE, link("eth0", UP | LOWER_UP, socket.AF_BRIDGE)) is None


def test_what_is_cut_off_or_about_something_else_is_left_out() -> None:
    whole = link("eth0", UP)
    for size in range(len(whole)):
        assert carrier(NEW, whole[:size]) is None or carrier(NEW, whole[:size]) == ("eth0", False)
    assert carrier(24, whole) is None


def test_one_datagram_may_have_several_messages() -> None:
    def message(kind: int, body: bytes) -> bytes:
        return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body

    body = link("eth0", UP)
    data = message(NEW, body) + message(GONE, body)
    assert list(rtnetlink.messages(data)) == [(NEW, body), (GONE, body)]
    assert list(rtnetlink.messages(data[:-1])) == [(NEW, body)]
    assert list(rtnetlink.messages(struct.pack("=IHHII", 3, NEW, 0, 0, 0) + body)) == []


def test_the_first_look_tells_of_all_and_the_next_of_what_changed() -> None:
    found: list[tuple[int, bool]] = []
    carriers = Carriers(["absent0", "lo"], lambda number, up: found.append((number, up)))
    try:
        carriers.look()
        carriers.look()
        assert (0, False) in found and [number for number, _ in found] == [0, 1]
    finally:
        carriers.close()
    carriers.look()
    assert len(found) == 2
