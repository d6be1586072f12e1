"""What a member of a cluster is told: who it is, whom it expects, its paths, keys, timers and port rules.

Values are checked when they are made: a configuration that exists can be run. The part that all members must have in
common is summed up in `MemberConfig.digest`; members whose digests differ never share buckets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from itertools import combinations

from portico.errors import InvalidInput

BUCKETS = 60
"""Buckets of a port rule, as Windows NLB has them."""

SLOTS_PER_BUCKET = 64
SLOT_BITMAP_BYTES = BUCKETS * SLOTS_PER_BUCKET // 8
"""480: one bit for each slot, the unit in which busy UDP and ESP flows stay with their server."""

MAX_HOSTS = 32
MAX_RULES = 32
MAX_WEIGHT = 100
MAX_PATHS = 3
MAX_NICS = 2
MAX_SPREADS = 8
"""Different sets of load weights among the port rules: rules with equal weights share one bucket map, and this many
maps of 60 owners fit into a heartbeat beside everything else."""

UNSPECIFIED = IPv4Address(0)

MAX_EXTENDED_AFFINITY = 240 * 60
"""Seconds. The largest timeout that Add-NlbClusterPortRule takes is 240 minutes."""


class Mode(StrEnum):
    """Filtering mode of a port rule, as Windows names them."""

    MULTIPLE = "multiple"
    """Shared by load weight."""
    SINGLE = "single"
    """The live server with the lowest handling priority takes everything."""
    DISABLED = "disabled"
    """Nobody accepts it."""


class Affinity(StrEnum):
    """What of the client is hashed."""

    NONE = "none"
    """Source address and port."""
    SINGLE = "single"
    """Source address."""
    NETWORK = "network"
    """The source's /24 (IPv4) or /64 (IPv6)."""


class Protocol(StrEnum):
    """Transport protocols of a port rule."""

    TCP = "tcp"
    UDP = "udp"
    BOTH = "both"


@dataclass(frozen=True)
class PortRule:
    """Which traffic is shared, and how.

    Attributes:
        ports: first and last destination port, 0 to 65535.
        vip: the one virtual address it is for; None: all of them.
        extended_affinity: seconds for which a client stays with its server after its last connection; 0: not at all.
            Only data for the filter; membership does not look at it.
        weights: load weight (0 to 100) by host id in mode multiple; a host that is not named counts with the weight it
            announces itself (`MemberConfig.weight`). Weight 0 takes nothing.
        priorities: handling priority by host id in mode single, 1 the first; a host that is not named has its host id.
    """

    ports: tuple[int, int]
    protocol: Protocol = Protocol.BOTH
    vip: IPv4Address | IPv6Address | None = None
    mode: Mode = Mode.MULTIPLE
    affinity: Affinity = Affinity.SINGLE
    extended_affinity: float = 0.0
    weights: Mapping[int, int] = field(default_factory=dict, hash=False)
    priorities: Mapping[int, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        first, last = self.ports
        if not 0 <= first <= last <= 0xFFFF:
            raise _refused(f"port rule {self}", f"{first}-{last} is no range of ports", "Give ports from 0 to 65535.")
        if self.affinity is Affinity.NONE and self.protocol is not Protocol.TCP and self.mode is Mode.MULTIPLE:
            raise _refused(
                f"port rule {self}",
                "affinity none hashes ports, and the later fragments of a UDP datagram have none",
                "Use affinity single, or a rule for TCP only.",
            )
        if not 0 <= self.extended_affinity <= MAX_EXTENDED_AFFINITY:
            raise _refused(
                f"port rule {self}",
                f"an affinity timeout of {self.extended_affinity:g} s",
                f"Give 0 to {MAX_EXTENDED_AFFINITY} seconds.",
            )
        if self.extended_affinity and self.affinity is Affinity.NONE:
            raise _refused(
                f"port rule {self}",
                "a timeout extends affinity single or network, and this rule has none",
                "Set the affinity to single or network, or the timeout to 0.",
            )
        for host, weight in self.weights.items():
            _check_host(host, f"port rule {self}")
            _check_weight(weight, f"port rule {self}")
        for host, priority in self.priorities.items():
            _check_host(host, f"port rule {self}")
            _check_host(priority, f"the handling priority of host {host} in port rule {self}")
        if len(set(self.priorities.values())) != len(self.priorities):
            raise _refused(
                f"port rule {self}", "two hosts have one handling priority", "Give each host a priority of its own."
            )

    def __str__(self) -> str:
        first, last = self.ports
        ports = str(first) if first == last else f"{first}-{last}"
        return f"{self.vip or 'all'} {self.protocol} {ports}"

    def as_list(self) -> list[object]:
        """Everything about the rule in a fixed order, for comparison with other members."""
        spread = [sorted(self.weights.items()), sorted(self.priorities.items())]
        vip = None if self.vip is None else str(self.vip)
        return [*self.ports, self.protocol, vip, self.mode, self.affinity, float(self.extended_affinity), *spread]

    def overlaps(self, other: PortRule) -> bool:
        """Whether a packet could match both. A rule for one VIP goes before one for all, so these two never do."""
        protocols = self.protocol is other.protocol or Protocol.BOTH in (self.protocol, other.protocol)
        ports = self.ports[0] <= other.ports[1] and other.ports[0] <= self.ports[1]
        return self.vip == other.vip and protocols and ports


@dataclass(frozen=True)
class Path:
    """A way on which heartbeats travel; all members have the same paths.

    Attributes:
        name: part of the key derivation, so that a frame of one path is worthless on another.
        carries_clients: VIP frames come this way: a member not heard here, though it is elsewhere, cannot serve.
    """

    name: str
    carries_clients: bool


@dataclass(frozen=True)
class Key:
    """A secret of the cluster, at least 32 bytes, and its number from 0 to 255."""

    number: int
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.number <= 0xFF:
            raise _refused("a cluster key", f"its number is {self.number}", "Number keys from 0 to 255.")
        if len(self.secret) < 32:
            raise _refused(f"cluster key {self.number}", "it is shorter than 32 bytes", "Make a new one.")


@dataclass(frozen=True)
class MemberConfig:
    """One member's configuration.

    Attributes:
        cluster_id: unique to the cluster; part of the key derivation.
        host_id: 1 to 32, unique; also the host priority: the lowest live one is the default host.
        members: host ids that may take part.
        paths: one to three; the order is that of the path numbers of `Member.receive`.
        keys: the first signs; the second, if any, is accepted as well, while keys rotate.
        revision: of the settings this comes from: of two different configurations the later one wins.
        weight: load weight that this member announces, 0 to 100.
        cluster_address, host_address: what the NLB header shows to dissectors.
        period_ms, miss, lease: a heartbeat every `period_ms` milliseconds; a member silent for `miss` periods is dead;
            the kernel stops serving `lease` periods after the last heartbeat.
        drain_timeout: seconds after which a drain ends though flows are left.
        nics: network cards whose VIP frames are counted, zero to two, the same on every member.
    """

    cluster_id: str
    host_id: int
    members: frozenset[int]
    paths: tuple[Path, ...]
    keys: tuple[Key, ...]
    rules: tuple[PortRule, ...] = ()
    revision: int = 0
    weight: int = 50
    cluster_address: IPv4Address = UNSPECIFIED
    host_address: IPv4Address = UNSPECIFIED
    period_ms: int = 100
    miss: int = 4
    lease: int = 3
    drain_timeout: float = 300.0
    nics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        what = f"the configuration of host {self.host_id} in cluster {self.cluster_id!r}"
        if not 0 < len(self.cluster_id.encode()) <= 64:
            raise _refused(what, "the cluster id has to be 1 to 64 bytes", "Give the cluster an id.")
        for host in (self.host_id, *self.members):
            _check_host(host, what)
        if self.host_id not in self.members:
            raise _refused(what, "it is not among the members", f"Add host {self.host_id} to the members.")
        if not 0 < len(self.paths) <= MAX_PATHS or len({path.name for path in self.paths}) != len(self.paths):
            raise _refused(what, "its paths are not one to three different ones", "Name up to three paths.")
        if len(self.nics) > MAX_NICS:
            raise _refused(what, f"{len(self.nics)} network cards", f"Count VIP frames on at most {MAX_NICS}.")
        if not 0 < len(self.keys) <= 2 or len({key.number for key in self.keys}) != len(self.keys):
            raise _refused(what, "it has not one or two keys with different numbers", "Keep the new key and the last.")
        _check_weight(self.weight, what)
        if not 10 <= self.period_ms <= 10_000:
            raise _refused(what, f"a heartbeat period of {self.period_ms} ms", "Give 10 to 10000 ms.")
        if not 2 <= self.lease < self.miss <= 100:
            raise _refused(
                what,
                f"a lease of {self.lease} periods and detection after {self.miss}",
                "A server must stop serving before others take over: give a lease of at least 2 periods and a longer "
                "detection.",
            )
        if not (0 <= self.revision < 1 << 64 and self.drain_timeout > 0):
            raise _refused(what, "the revision or the drain timeout is negative", "Give numbers above zero.")
        self._check_rules(what)

    def _check_rules(self, what: str) -> None:
        if len(self.rules) > MAX_RULES:
            raise _refused(what, f"{len(self.rules)} port rules", f"Keep at most {MAX_RULES}.")
        for one, other in combinations(self.rules, 2):
            if one.overlaps(other):
                raise _refused(what, f"port rules {one} and {other} overlap", "Change the ports of one of them.")
        spreads = {tuple(sorted(rule.weights.items())) for rule in self.rules if rule.mode is Mode.MULTIPLE}
        if len(spreads) > MAX_SPREADS:
            raise _refused(
                what,
                f"its port rules have {len(spreads)} different sets of load weights",
                f"Use at most {MAX_SPREADS}; rules with the same weights count once.",
            )

    @cached_property
    def period(self) -> float:
        """Seconds between heartbeats."""
        return self.period_ms / 1000

    @cached_property
    def detection(self) -> float:
        """Seconds of silence after which a member is dead."""
        return self.period * self.miss

    @cached_property
    def lease_time(self) -> float:
        """Seconds for which the kernel serves after a heartbeat."""
        return self.period * self.lease

    @cached_property
    def digest(self) -> bytes:
        """8 bytes that differ when members would disagree about who owns what.

        Not in it: what differs from member to member, keys (they rotate one member at a time) and the revision (most
        changes of settings do not concern the cluster).
        """
        shared = {
            "cluster": self.cluster_id,
            "members": sorted(self.members),
            "paths": [(path.name, path.carries_clients) for path in self.paths],
            "timers": (self.period_ms, self.miss, self.lease),
            "nics": self.nics,
            "rules": [rule.as_list() for rule in self.rules],
        }
        return hashlib.sha256(json.dumps(shared).encode()).digest()[:8]


def _refused(what: str, why: str, resolution: str) -> InvalidInput:
    return InvalidInput(f"{what} cannot be used", why=why, resolution=resolution)


def _check_host(host: int, what: str) -> None:
    if not 1 <= host <= MAX_HOSTS:
        raise _refused(what, f"{host} is no host id", f"Host ids and priorities go from 1 to {MAX_HOSTS}.")


def _check_weight(weight: int, what: str) -> None:
    if not 0 <= weight <= MAX_WEIGHT:
        raise _refused(what, f"a load weight of {weight}", f"Give 0 to {MAX_WEIGHT}.")
