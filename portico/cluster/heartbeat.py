"""The body of a heartbeat. Pure; the envelope around it is in `wire`.

Lists say their lengths, all are bounded, and nothing may follow the last: what can be read is what was written.
Owners take six bits each; rules with the same owners share one map, and a map with one owner takes two bytes, so that
32 rules, 32 hosts and the slot bitmap fit into one frame together.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from portico.cluster.buckets import BucketMap, Owners
from portico.cluster.config import (
    BUCKETS,
    MAX_HOSTS,
    MAX_NICS,
    MAX_PATHS,
    MAX_RULES,
    MAX_WEIGHT,
    SLOT_BITMAP_BYTES,
)
from portico.cluster.states import Condition, State
from portico.cluster.wire import ProtocolError, Reader, Reason

_FIXED = struct.Struct("<QBBBBQQQQIIIQ")
_ECHO = struct.Struct("<BQH")
_HEARD = struct.Struct("<I")
_FRAMES = struct.Struct("<QQ")
_PACKED = BUCKETS * 6 // 8
_ONE_OWNER, _SIX_BITS = 0, 1
_IDS = frozenset(range(1, MAX_HOSTS + 1))
_STATES = frozenset(state.value for state in State)
_CONDITIONS = sum(condition.value for condition in Condition)
_SERVING = 0x80
"""Beside the conditions."""


class Echo(NamedTuple):
    """What the sender heard last of another member.

    Attributes:
        nonce: the other's.
        sequence: the low 16 bits of the newest heartbeat's.
    """

    nonce: int
    sequence: int


class FrameCount(NamedTuple):
    """VIP frames on one network card since the sender's boot."""

    seen: int
    accepted: int


@dataclass(frozen=True)
class Heartbeat:
    """What a member says of itself, every period and at every change.

    Attributes:
        nonce: 64 random bits drawn at the sender's start.
        weight: the load weight it announces.
        serving: whether its kernel may own a bucket; false only after the kernel has confirmed that it owns none.
        revision, digest: of its settings (`MemberConfig`).
        map: the map its kernel follows; never one that the kernel does not follow yet.
        confirmed: the newest version of which it serves everything that is its own.
        heard: for each path, host ids heard on it lately.
        confirmers: host ids known to follow `map`, its own among them.
        dirty: bit set of buckets, of any rule, in which it keeps flows though it does not own them.
        frames: one entry for each network card.
        echoes: by host id.
        slots: 480 bytes, slots in which it keeps UDP or ESP flows (`Ownership.foreign_slots`); None: in none.
    """

    nonce: int
    state: State
    conditions: Condition
    serving: bool
    weight: int
    revision: int
    digest: bytes
    map: BucketMap
    confirmed: int
    heard: tuple[frozenset[int], ...]
    confirmers: frozenset[int]
    dirty: int = 0
    frames: tuple[FrameCount, ...] = ()
    echoes: Mapping[int, Echo] = field(default_factory=dict)
    slots: bytes | None = None

    @cached_property
    def heard_anywhere(self) -> frozenset[int]:
        """Host ids heard on at least one path."""
        return frozenset().union(*self.heard)

    def emit(self) -> bytes:
        """The body's bytes."""
        parts = [
            _FIXED.pack(
                self.nonce,
                self.state.value,
                self.conditions.value | (_SERVING if self.serving else 0),
                self.weight,
                self.map.leader,
                self.revision,
                int.from_bytes(self.digest, "little"),
                self.map.version,
                self.confirmed,
                _mask(self.map.members),
                _mask(self.map.hosts),
                _mask(self.confirmers),
                self.dirty,
            ),
            bytes([len(self.heard)]),
            *(_HEARD.pack(_mask(hosts)) for hosts in self.heard),
            bytes([len(self.frames)]),
            *(_FRAMES.pack(count.seen, count.accepted) for count in self.frames),
            bytes([len(self.echoes)]),
            *(_ECHO.pack(host, echo.nonce, echo.sequence) for host, echo in sorted(self.echoes.items())),
            _emit_owners(self.map.owners),
            b"\0" if self.slots is None else b"\1" + self.slots,
        ]
        return b"".join(parts)


def parse(body: bytes) -> Heartbeat:
    """Reads a body.

    Raises:
        ProtocolError: it is cut off, goes on after its end, or a field has an impossible value.
    """
    reader = Reader(body)
    (nonce, state, flags, weight, leader, revision, digest, version, confirmed, members, hosts, confirmers, dirty) = (
        reader.fields(_FIXED)
    )
    conditions = flags & ~_SERVING
    _require(state in _STATES, f"state {state}")
    _require(conditions & ~_CONDITIONS == 0, f"conditions {conditions:#x}")
    _require(weight <= MAX_WEIGHT, f"a load weight of {weight}")
    _require(leader <= MAX_HOSTS, f"leader {leader}")
    _require(dirty >> BUCKETS == 0, "a dirty bucket above 59")
    heard = tuple(_hosts(reader.fields(_HEARD)[0]) for _ in range(reader.count(MAX_PATHS)))
    frames = tuple(FrameCount(*reader.fields(_FRAMES)) for _ in range(reader.count(MAX_NICS)))
    echoes = _parse_echoes(reader)
    owners = _parse_owners(reader)
    slots = reader.take(SLOT_BITMAP_BYTES) if reader.count(1) else None
    reader.end()
    return Heartbeat(
        nonce=nonce,
        state=State(state),
        conditions=Condition(conditions),
        serving=bool(flags & _SERVING),
        weight=weight,
        revision=revision,
        digest=digest.to_bytes(8, "little"),
        map=BucketMap(version, leader, _hosts(members), _hosts(hosts), owners),
        confirmed=confirmed,
        heard=heard,
        confirmers=_hosts(confirmers),
        dirty=dirty,
        frames=frames,
        echoes=echoes,
        slots=slots,
    )


def _parse_echoes(reader: Reader) -> dict[int, Echo]:
    found = list(_ECHO.iter_unpack(reader.take(reader.count(MAX_HOSTS) * _ECHO.size)))
    hosts = [host for host, _, _ in found]
    _require(hosts == sorted(set(hosts)) and _IDS.issuperset(hosts), f"echoes of hosts {hosts}")
    return {host: Echo(nonce, sequence) for host, nonce, sequence in found}


def _emit_owners(rules: tuple[Owners, ...]) -> bytes:
    """The number of maps, the maps, the number of rules, for each rule the index of its map."""
    maps = list(dict.fromkeys(rules))
    index = {owners: number for number, owners in enumerate(maps)}
    return b"".join(
        [bytes([len(maps)]), *map(_emit_map, maps), bytes([len(rules)]), bytes(index[owners] for owners in rules)]
    )


def _parse_owners(reader: Reader) -> tuple[Owners, ...]:
    maps = [_parse_map(reader) for _ in range(reader.count(MAX_RULES + 1))]
    indexes = reader.take(reader.count(MAX_RULES + 1))
    # One way to write a thing: each map once, in the order of the first rule that has it.
    _require(list(dict.fromkeys(indexes)) == list(range(len(maps))), "maps without rules, or rules without maps")
    _require(len(set(maps)) == len(maps), "one map twice")
    return tuple(maps[number] for number in indexes)


@lru_cache(maxsize=256)
def _emit_map(owners: Owners) -> bytes:
    if owners.count(owners[0]) == BUCKETS:
        return bytes([_ONE_OWNER, owners[0]])
    bits = sum(owner << (6 * bucket) for bucket, owner in enumerate(owners))
    return bytes([_SIX_BITS]) + bits.to_bytes(_PACKED, "little")


def _parse_map(reader: Reader) -> Owners:
    if reader.count(1) == _ONE_OWNER:
        return bytes([reader.count(MAX_HOSTS)]) * BUCKETS
    return _unpacked(reader.take(_PACKED))


@lru_cache(maxsize=256)
def _unpacked(packed: bytes) -> Owners:
    bits = int.from_bytes(packed, "little")
    owners = bytes(bits >> (6 * bucket) & 0x3F for bucket in range(BUCKETS))
    _require(max(owners) <= MAX_HOSTS, f"owner {max(owners)}")
    _require(owners.count(owners[0]) != BUCKETS, "a map with one owner at length")
    return owners


def _mask(hosts: frozenset[int]) -> int:
    return sum(1 << (host - 1) for host in hosts)


@lru_cache(maxsize=256)
def _hosts(mask: int) -> frozenset[int]:
    return frozenset(bit + 1 for bit in range(MAX_HOSTS) if mask >> bit & 1)


def _require(valid: bool, what: str) -> None:
    if not valid:
        raise ProtocolError(Reason.MALFORMED, what)
