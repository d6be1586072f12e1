"""Connections of a dead server are reset by the numbers of their own packets, and nothing else is."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.cluster.holdings import Outer
from portico.server.balancer.resets import PATIENCE, Resets, answers, segment

CLIENT = Outer(IPv4Address("198.51.100.7"), 40000, IPv4Address("203.0.113.11"), 443)
CLIENT6 = Outer(IPv6Address("2001:db8:c0::7"), 40000, IPv6Address("2001:db8:ffff::11"), 443)
ACK, RST, SYN = 0x10, 0x04, 0x02


def frame(outer: Outer, *, acknowledged: int = 77, flags: int = ACK) -> bytes:
    """What the client of a connection sends."""
    back = Outer(outer.vip, outer.vip_port, outer.client, outer.client_port)
    kind = b"\x08\x00" if outer.client.version == 4 else b"\x86\xdd"
    return bytes(12) + kind + segment(back, 5, acknowledged, flags)


def watching(*outers: Outer) -> Resets:
    resets = Resets(100)
    resets.watch(outers, 0.0)
    return resets


@pytest.mark.parametrize("outer", [CLIENT, CLIENT6])
def test_a_watched_connection_is_reset_where_its_client_expects_the_next_byte(outer: Outer) -> None:
    packet = watching(outer).answer(frame(outer, acknowledged=123_456), lambda _: True, 1.0)
    assert packet is not None
    start = 20 if outer.client.version == 4 else 40
    source, target, sequence, _, _, flags = struct.unpack_from("!HHIIBB", packet, start)
    assert (source, target, sequence, flags) == (443, 40000, 123_456, RST)
    assert outer.vip.packed in packet[:start] and outer.client.packed in packet[:start]


def test_other_connections_are_left_alone() -> None:
    resets = watching(CLIENT)
    other = Outer(CLIENT.client, 40001, CLIENT.vip, 443)
    assert resets.answer(frame(other), lambda _: True, 1.0) is None
    assert resets.answer(frame(CLIENT), lambda _: False, 1.0) is None
    assert resets.sent == 0


@pytest.mark.parametrize("flags", [SYN, RST, RST | ACK, 0])
def test_what_begins_or_ends_is_no_reason_for_a_reset(flags: int) -> None:
    assert watching(CLIENT).answer(frame(CLIENT, flags=flags), lambda _: True, 1.0) is None


def test_watching_ends() -> None:
    resets = watching(CLIENT)
    resets.expire(PATIENCE - 0.1)
    assert len(resets) == 1
    resets.expire(PATIENCE)
    assert len(resets) == 0 and resets.answer(frame(CLIENT), lambda _: True, 1.0) is None


def test_the_table_is_bounded() -> None:
    resets = Resets(3)
    resets.watch((Outer(CLIENT.client, port, CLIENT.vip, 443) for port in range(1, 10)), 0.0)
    assert len(resets) == 3


def test_a_connection_that_floods_gets_one_reset_in_the_time_in_which_tcp_repeats_itself() -> None:
    resets = watching(CLIENT)
    sent = [resets.answer(frame(CLIENT), lambda _: True, 1.0 + n / 1000) is not None for n in range(1000)]
    assert sum(sent) == 5 and (resets.sent, resets.limited) == (5, 995)


def test_a_flood_over_many_connections_gets_no_more_resets_than_the_rate() -> None:
    outers = [Outer(CLIENT.client, port, CLIENT.vip, 443) for port in range(1024, 2024)]
    resets = Resets(1000, rate=100)
    resets.watch(outers, 0.0)
    for outer in outers:
        resets.answer(frame(outer), lambda _: True, 1.0)
    assert (resets.sent, resets.limited) == (100, 900)
    for outer in outers:
        resets.answer(frame(outer), lambda _: True, 1.5)
    assert resets.sent == 150, "half a second later, half as many"
    resets.expire(PATIENCE)
    assert not resets._answered


@given(st.binary(max_size=80))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    assert watching(CLIENT, CLIENT6).answer(data, lambda _: True, 1.0) is None


def run(program: tuple[tuple[int, int, int, int], ...], data: bytes) -> int:
    """Executes the few instructions of classic BPF that are used (Linux: no VLAN tag present)."""
    accumulator = at = 0
    while True:
        code, yes, no, k = program[at]
        at += 1
        if code == 0x06:
            return k
        if code in (0x30, 0x28):
            size = 1 if code == 0x30 else 2
            if k >= 0xFFFFF000:
                accumulator = 0
            elif k + size > len(data):
                return 0
            else:
                accumulator = int.from_bytes(data[k : k + size], "big")
            continue
        taken = {0x15: accumulator == k, 0x25: accumulator > k, 0x45: bool(accumulator & k)}[code]
        at += yes if taken else no


def test_only_small_segments_to_the_port_come_through_the_socket_filter() -> None:
    program = answers(443)
    assert run(program, frame(CLIENT)) and run(program, frame(CLIENT6))
    assert not run(answers(8443), frame(CLIENT)) and not run(answers(8443), frame(CLIENT6))
    large = bytearray(frame(CLIENT))
    large[16:18] = (1500).to_bytes(2, "big")
    assert not run(program, bytes(large))
    fragment = bytearray(frame(CLIENT))
    fragment[20:22] = (185).to_bytes(2, "big")
    assert not run(program, bytes(fragment))
    udp = bytearray(frame(CLIENT))
    udp[23] = 17
    assert not run(program, bytes(udp))
    assert not run(program, bytes(12) + b"\x08\x06" + bytes(40))
