"""What makes clients of a dead server notice: packets and their bounds."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from portico.cluster.holdings import Holding, Outer
from portico.server.balancer.orphans import BATCH, LIMIT, PATIENCE, Orphans, question

VIP, VIP6 = IPv4Address("203.0.113.11"), IPv6Address("2001:db8:ffff::11")
CLIENT = Outer(IPv4Address("198.51.100.7"), 40000, VIP, 443)
CLIENT6 = Outer(IPv6Address("2001:db8:c0::7"), 40000, VIP6, 443)


def held(count: int, outer: Outer | None = None) -> list[Holding]:
    base = int(IPv6Address("fd7c:1a2b:3c4d:1000::1:0"))
    return [
        Holding(IPv6Address(base + number), outer or Outer(CLIENT.client, 1024 + number, VIP, 443))
        for number in range(count)
    ]


def ones_complement(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_the_question_is_a_bare_acknowledgement_from_the_vip() -> None:
    packet = question(CLIENT)
    assert packet[0] == 0x45 and packet[9] == 6 and len(packet) == 40
    assert packet[12:16] == VIP.packed and packet[16:20] == CLIENT.client.packed
    source, target, sequence, acknowledged, offset, flags = struct.unpack_from("!HHIIBB", packet, 20)
    assert (source, target, sequence, acknowledged, offset, flags) == (443, 40000, 0, 0, 0x50, 0x10)


def test_checksums_are_right_in_both_families() -> None:
    for outer, header in ((CLIENT, 20), (CLIENT6, 40)):
        tcp = question(outer)[header:]
        pseudo = outer.vip.packed + outer.client.packed + struct.pack("!II", len(tcp), 6)
        assert ones_complement(pseudo + tcp) == 0xFFFF


def test_every_connection_is_asked_from_every_vip_of_its_family() -> None:
    orphans = Orphans()
    other = IPv4Address("203.0.113.12")
    orphans.add([Holding(IPv6Address("fd00::1"), CLIENT)], [VIP, other, VIP6], 0.0)
    sources = {packet[12:16] for packet in orphans.due(lambda _: True, 0.0)}
    assert sources == {VIP.packed, other.packed}


def test_what_is_not_ours_yet_waits_and_is_given_up_in_time() -> None:
    orphans = Orphans()
    orphans.add(held(1), [VIP], 0.0)
    assert orphans.due(lambda _: False, 0.1) == [] and len(orphans) == 1
    assert orphans.due(lambda _: True, 0.2) == [], "nobody's buckets have moved"
    orphans.moved()
    assert len(orphans.due(lambda _: True, 0.2)) == 1 and len(orphans) == 0
    orphans.add(held(1), [VIP], 1.0)
    assert orphans.due(lambda _: False, 1.0 + PATIENCE) == [] and len(orphans) == 0
    orphans.add(held(1), [VIP], 2.0)
    assert orphans.due(lambda _: False, 2.1) == [] and len(orphans) == 1
    assert orphans.due(lambda _: False, 2.0 + PATIENCE) == [] and len(orphans) == 0
    assert (orphans.counters.asked, orphans.counters.not_ours) == (1, 2)


def test_whose_a_connection_is_is_found_out_once_for_each_move() -> None:
    orphans, looks = Orphans(), 0

    def theirs(_outer: Outer) -> bool:
        nonlocal looks
        looks += 1
        return False

    orphans.add(held(100), [VIP], 0.0)
    for tick in range(50):
        orphans.due(theirs, tick * 0.02)
    assert looks == 100
    orphans.moved()
    orphans.due(theirs, 1.1)
    assert looks == 200


def test_a_batch_is_bounded_and_so_is_what_waits() -> None:
    orphans = Orphans()
    orphans.add(held(LIMIT + 5), [VIP], 0.0)
    assert len(orphans) == LIMIT and orphans.counters.dropped == 5
    assert len(orphans.due(lambda _: True, 0.0)) == BATCH


def test_two_addresses_of_one_tunnel_are_asked_once() -> None:
    orphans = Orphans()
    orphans.add(held(5, CLIENT), [VIP], 0.0)
    assert len(orphans) == 1
