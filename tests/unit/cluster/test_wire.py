"""Frames come back as they were written; everything else is refused with its reason, and nothing else happens."""

from __future__ import annotations

import contextlib
import struct
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.cluster import heartbeat, holdings
from portico.cluster.buckets import BucketMap, rebalance
from portico.cluster.config import BUCKETS, MAX_SPREADS, Key
from portico.cluster.heartbeat import Echo, FrameCount, Heartbeat
from portico.cluster.states import Condition, State
from portico.cluster.wire import (
    ETHERTYPE,
    MAC_LENGTH,
    MAX_FRAME,
    OVERHEAD,
    SIGNATURE,
    Envelope,
    Kind,
    ProtocolError,
    Reason,
    Sealer,
)  # fmt: skip

OLD, NEW = Key(1, b"o" * 32), Key(2, b"n" * 32)
SEALER = Sealer("cluster", "external", (OLD,))

host_ids = st.integers(1, 32)
host_sets = st.frozensets(host_ids)
spreads = st.dictionaries(host_ids, st.integers(1, 100), max_size=32).map(lambda weights: rebalance(bytes(60), weights))
maps = st.builds(
    BucketMap,
    version=st.integers(0, 2**64 - 1),
    leader=st.integers(0, 32),
    members=host_sets,
    hosts=host_sets,
    owners=st.lists(spreads, min_size=1, max_size=MAX_SPREADS).map(tuple),
)
u64 = st.integers(0, 2**64 - 1)
heartbeats = st.builds(
    Heartbeat,
    nonce=u64,
    state=st.sampled_from(State),
    conditions=st.integers(0, 63).map(Condition),
    serving=st.booleans(),
    weight=st.integers(0, 100),
    revision=u64,
    digest=st.binary(min_size=8, max_size=8),
    map=maps,
    confirmed=u64,
    heard=st.lists(host_sets, max_size=3).map(tuple),
    confirmers=host_sets,
    dirty=st.integers(0, 2**BUCKETS - 1),
    frames=st.lists(st.builds(FrameCount, u64, u64), max_size=2).map(tuple),
    echoes=st.dictionaries(host_ids, st.builds(Echo, u64, st.integers(0, 0xFFFF)), max_size=31),
    slots=st.none() | st.binary(min_size=480, max_size=480),
)


def envelope(body: bytes = b"body", **changes: object) -> Envelope:
    base = Envelope(Kind.HEARTBEAT, 3, 1_700_000_000_000, 7, body, IPv4Address("192.0.2.10"), IPv4Address("192.0.2.3"))
    return replace(base, **changes)  # type: ignore[arg-type]


def reason(sealer: Sealer, data: bytes) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        sealer.open(data)
    return caught.value.reason


@given(heartbeats)
def test_heartbeats_come_back_as_they_were_written(beat: Heartbeat) -> None:
    assert heartbeat.parse(beat.emit()) == beat
    sealed = SEALER.seal(envelope(beat.emit()))
    assert heartbeat.parse(SEALER.open(sealed).body) == beat


@given(heartbeats, st.data())
def test_a_body_that_is_cut_or_continued_is_no_heartbeat(beat: Heartbeat, data: st.DataObject) -> None:
    body = beat.emit()
    end = data.draw(st.integers(0, len(body) - 1))
    for wrong in (body[:end], body + b"\0"):
        with pytest.raises(ProtocolError) as caught:
            heartbeat.parse(wrong)
        assert caught.value.reason is Reason.MALFORMED


@given(st.binary(max_size=1600))
def test_arbitrary_bytes_raise_protocol_errors_only(data: bytes) -> None:
    for read in (SEALER.open, heartbeat.parse, holdings.parse):
        with contextlib.suppress(ProtocolError):
            read(data)


@given(heartbeats, st.data())
def test_a_changed_body_is_read_as_it_stands_or_refused(beat: Heartbeat, data: st.DataObject) -> None:
    body = bytearray(beat.emit())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = heartbeat.parse(bytes(body))
    except ProtocolError:
        return
    assert found.emit() == bytes(body), "there is one way to write a thing"


def test_every_truncation_and_every_changed_bit_of_a_frame_is_refused() -> None:
    sealed = SEALER.seal(envelope())
    assert SEALER.open(sealed) == envelope()
    for end in range(len(sealed)):
        reason(SEALER, sealed[:end])
    reason(SEALER, sealed + b"\0")
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        reason(SEALER, bytes(changed))


def test_the_header_is_that_of_windows_nlb_with_our_signature() -> None:
    sealed = SEALER.seal(envelope())
    assert ETHERTYPE == 0x886F
    assert struct.unpack_from("<III", sealed) == (SIGNATURE, 0x0100, 3)
    assert sealed[12:20] == IPv4Address("192.0.2.10").packed + IPv4Address("192.0.2.3").packed
    assert len(sealed) == OVERHEAD + len(b"body")


def test_refusals_name_their_reason() -> None:
    sealed = SEALER.seal(envelope())
    assert reason(SEALER, struct.pack("<I", 0xC0DE01BF) + sealed[4:]) is Reason.NOT_OURS
    assert reason(SEALER, sealed[:4] + struct.pack("<I", 0x0205) + sealed[8:]) is Reason.VERSION
    assert reason(SEALER, sealed[:-1]) is Reason.MALFORMED
    assert reason(Sealer("another", "external", (OLD,)), sealed) is Reason.FOREIGN
    assert reason(Sealer("cluster", "external", (NEW,)), sealed) is Reason.UNKNOWN_KEY
    assert reason(Sealer("cluster", "external", (Key(1, b"x" * 32),)), sealed) is Reason.FORGED


def test_a_frame_of_one_path_is_worthless_on_another() -> None:
    assert reason(Sealer("cluster", "internal", (OLD,)), SEALER.seal(envelope())) is Reason.FORGED


def test_keys_rotate_with_two_that_are_valid() -> None:
    both = Sealer("cluster", "external", (NEW, OLD))
    after = Sealer("cluster", "external", (NEW,))
    assert both.open(SEALER.seal(envelope())) == envelope()
    assert after.open(both.seal(envelope())) == envelope()
    assert reason(after, SEALER.seal(envelope())) is Reason.UNKNOWN_KEY


def test_a_valid_mac_over_an_impossible_host_or_kind_is_still_refused() -> None:
    assert reason(SEALER, SEALER.seal(envelope(host=33))) is Reason.MALFORMED
    assert reason(SEALER, SEALER.seal(envelope(kind=9))) is Reason.MALFORMED


def test_the_largest_heartbeat_fits_into_one_packet_on_every_path() -> None:
    everyone = frozenset(range(1, 33))
    spread = [rebalance(bytes(BUCKETS), {host: host + number for host in everyone}) for number in range(MAX_SPREADS)]
    single = [bytes([owner]) * BUCKETS for owner in range(1, 33 - MAX_SPREADS + 1)]
    beat = Heartbeat(
        nonce=2**64 - 1,
        state=State.MEMBER,
        conditions=Condition(63),
        serving=True,
        weight=100,
        revision=2**64 - 1,
        digest=b"\xff" * 8,
        map=BucketMap(2**64 - 1, 32, everyone, everyone, (*spread, *single)),
        confirmed=2**64 - 1,
        heard=(everyone,) * 3,
        confirmers=everyone,
        dirty=2**BUCKETS - 1,
        frames=(FrameCount(2**64 - 1, 2**64 - 1),) * 2,
        echoes={host: Echo(2**64 - 1, 0xFFFF) for host in everyone},
        slots=b"\xff" * 480,
    )
    assert len(beat.map.owners) == 33, "32 port rules and the default rule"
    sealed = SEALER.seal(envelope(beat.emit()))
    assert len(sealed) <= MAX_FRAME
    assert heartbeat.parse(SEALER.open(sealed).body) == beat


def test_the_mac_is_checked_before_anything_is_interpreted() -> None:
    sealed = bytearray(SEALER.seal(envelope(host=33)))
    sealed[-MAC_LENGTH] ^= 1
    assert reason(SEALER, bytes(sealed)) is Reason.FORGED
