"""Who owns which bucket: exact weighted shares with as few moves as possible. Pure.

Every function gives the same answer on every member for the same input, whatever the order of mappings, so that the
survivors of a failure agree without asking each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from portico.cluster.config import BUCKETS, MAX_HOSTS, Mode, PortRule

Owners = bytes
"""60 host ids, one for each bucket; 0: nobody."""

NOBODY: Owners = bytes(BUCKETS)


def rebalance(owners: Owners, weights: Mapping[int, int]) -> Owners:
    """The owners after a change of members or weights.

    Shares follow the largest remainder; where remainders are equal, who has more already keeps it, then the lower host
    id comes first. Only buckets that must move do: those of hosts that are gone, and what a host has above its share.

    Args:
        owners: the present ones.
        weights: load weight by host id; a host with weight 0 or less gets nothing.
    """
    hosts = sorted(host for host, weight in weights.items() if weight > 0)
    if not hosts:
        return NOBODY
    total = sum(weights[host] for host in hosts)
    has = {host: owners.count(host) for host in hosts}
    # Whole parts and remainders stay integers: floating point could differ between machines.
    goal = {host: BUCKETS * weights[host] // total for host in hosts}
    remainder = {host: BUCKETS * weights[host] % total for host in hosts}
    left = BUCKETS - sum(goal.values())
    for host in sorted(hosts, key=lambda host: (-remainder[host], goal[host] - has[host], host))[:left]:
        goal[host] += 1
    result = bytearray(owners)
    homeless = []
    for bucket, owner in enumerate(owners):
        if owner not in goal:
            homeless.append(bucket)
        elif has[owner] > goal[owner]:
            has[owner] -= 1
            homeless.append(bucket)
    for bucket in homeless:
        heir = min(hosts, key=lambda host: (has[host] - goal[host], host))
        has[heir] += 1
        result[bucket] = heir
    return bytes(result)


@lru_cache(maxsize=512)
def _buckets_of(host: int, owners: Owners) -> frozenset[int]:
    return frozenset(bucket for bucket, owner in enumerate(owners) if owner == host)


@dataclass(frozen=True)
class Share:
    """How the buckets of one or several rules are assigned. Rules with equal shares have one map.

    Attributes:
        mode: MULTIPLE, SINGLE or DISABLED. The default rule is SINGLE without priorities: lowest host id.
        numbers: sorted pairs of host id and load weight (MULTIPLE) or handling priority (SINGLE).
    """

    mode: Mode
    numbers: tuple[tuple[int, int], ...] = ()

    def assign(self, owners: Owners, hosts: Mapping[int, int]) -> Owners:
        """The owners when `hosts` (host id to the load weight it announces) can serve."""
        named = dict(self.numbers)
        match self.mode:
            case Mode.MULTIPLE:
                return rebalance(owners, {host: named.get(host, weight) for host, weight in hosts.items()})
            case Mode.SINGLE:
                first = min(hosts, key=lambda host: (named.get(host, host), host), default=0)
                return bytes([first]) * BUCKETS
            case Mode.DISABLED:
                return NOBODY


DEFAULT_SHARE = Share(Mode.SINGLE)


def shares(rules: Iterable[PortRule]) -> tuple[Share, ...]:
    """The share of the default rule, then of each port rule."""
    found = [DEFAULT_SHARE]
    for rule in rules:
        match rule.mode:
            case Mode.MULTIPLE:
                found.append(Share(rule.mode, tuple(sorted(rule.weights.items()))))
            case Mode.SINGLE:
                found.append(Share(rule.mode, tuple(sorted(rule.priorities.items()))))
            case Mode.DISABLED:
                found.append(Share(rule.mode))
    return tuple(found)


@dataclass(frozen=True)
class BucketMap:
    """The owners of all rules' buckets, as agreed.

    Attributes:
        version: counts changes; 0: no map yet.
        leader: lowest host id among the members when it was made.
        members: host ids that are counted in, with or without buckets.
        hosts: those of them that could serve when it was made: the heirs of the next one that dies.
        owners: one entry for each rule, the default rule first.
    """

    version: int
    leader: int
    members: frozenset[int]
    hosts: frozenset[int]
    owners: tuple[Owners, ...]

    @cached_property
    def rank(self) -> tuple[int, int, bytes]:
        """Of two maps the one with the higher rank goes before the other; equal ranks are equal maps.

        The higher version, then the lower leader. Survivors of several failures may make different maps under one
        version and leader; the contents decide then, and the next version repairs what it lacks.
        """
        contents = b"\0".join([bytes(sorted(self.members)), bytes(sorted(self.hosts)), *self.owners])
        return self.version, MAX_HOSTS - self.leader, hashlib.sha256(contents).digest()[:8]

    def successor(
        self, shares: tuple[Share, ...], members: Iterable[int], hosts: Mapping[int, int], version: int
    ) -> BucketMap:
        """The next map.

        Args:
            shares: of each rule.
            members: to be counted in.
            hosts: those that can serve, and the load weights they announce.
            version: of the new map.
        """
        counted = frozenset(members)
        made: dict[Share, Owners] = {}
        for share, before in zip(shares, self.owners, strict=True):
            if share not in made:
                made[share] = share.assign(before, hosts)
        owners = tuple(made[share] for share in shares)
        return BucketMap(version, min(counted, default=0), counted, frozenset(hosts), owners)

    def same_assignment(self, other: BucketMap) -> bool:
        """Whether all but version and leader is the same."""
        return (self.members, self.hosts, self.owners) == (other.members, other.hosts, other.owners)

    def buckets_of(self, host: int) -> tuple[frozenset[int], ...]:
        """For each rule the buckets of a host."""
        return tuple(_buckets_of(host, owners) for owners in self.owners)


def empty_map(rules: int) -> BucketMap:
    """What a member knows before it hears of a map; `rules` without the default rule."""
    return BucketMap(0, 0, frozenset(), frozenset(), (NOBODY,) * (rules + 1))


def carried_over(
    old: BucketMap, old_rules: tuple[PortRule, ...], rules: tuple[PortRule, ...], new_shares: tuple[Share, ...]
) -> BucketMap:
    """A map for changed rules: a rule that stays keeps its owners, a new one starts with those of the default rule.

    Rules that share one map from now on start with the map of the first of them that has one.
    """
    known = {_traffic(rule): owners for rule, owners in zip(old_rules, old.owners[1:], strict=True)}
    start: dict[Share, Owners] = {new_shares[0]: old.owners[0]}
    for rule, share in zip(rules, new_shares[1:], strict=True):
        if _traffic(rule) in known:
            start.setdefault(share, known[_traffic(rule)])
    owners = tuple(NOBODY if s.mode is Mode.DISABLED else start.get(s, old.owners[0]) for s in new_shares)
    return replace(old, owners=owners)


def _traffic(rule: PortRule) -> tuple[object, ...]:
    return rule.vip, rule.ports, rule.protocol
