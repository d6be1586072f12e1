"""The next map: who is counted in, and who can serve. Pure functions of what one member knows.

A death is worked out by every survivor at once, from the map and the list of the dead alone, so that all arrive at the
same. Everything else (joins, weights, drains, members that cannot serve or do not all hear each other) is the leader's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from portico.cluster.buckets import BucketMap, Share
from portico.cluster.states import Condition, State

ABLE_STATES = frozenset({State.MEMBER, State.JOINING})
COUNTED_STATES = frozenset({State.MEMBER, State.JOINING, State.DRAINING, State.LEAVING})
UNABLE = Condition.CUT | Condition.DEAF | Condition.UNHEALTHY | Condition.REFUSED | Condition.UNPLUGGED
"""Conditions with which a member is given nothing. A mute or stalled one stops by itself, and is itself again soon or
dead."""


@dataclass(frozen=True)
class Standing:
    """What the leader knows of one host.

    Attributes:
        hears: host ids; None: unknown, since the leader does not hear it.
        waits: it came and went too often lately.
        joins: it is not counted in yet, and is ready to be.
    """

    host: int
    state: State
    conditions: Condition
    weight: int
    hears: frozenset[int] | None
    waits: bool = False
    joins: bool = False


def without(
    current: BucketMap, dead: Collection[int], weights: Mapping[int, int], shares: tuple[Share, ...]
) -> BucketMap:
    """The map after deaths.

    Heirs are those that could serve when the current map was made, or whoever is left when none of them is.

    Args:
        dead: at least one of the members; not all.
        weights: that members announce.
    """
    members = current.members - set(dead)
    heirs = (current.hosts & members) or members
    hosts = {host: weights.get(host, 0) for host in sorted(heirs)}
    return current.successor(shares, members, hosts, current.version + 1)


def planned(current: BucketMap, standings: Collection[Standing], shares: tuple[Share, ...], version: int) -> BucketMap:
    """The map a leader wants.

    Args:
        standings: of members that are not dead, and of those who want to join.
        version: of the new map.
    """
    members = [
        s for s in standings if not s.joins and s.state in COUNTED_STATES and not s.conditions & Condition.REFUSED
    ]
    chosen = hearing_each_other(members)
    for joiner in sorted((s for s in standings if s.joins), key=lambda s: s.host):
        if not joiner.waits and all(_hear(joiner, member) for member in chosen):
            chosen.append(joiner)
    return current.successor(shares, [s.host for s in chosen], _able(current, chosen), version)


def hearing_each_other(members: Collection[Standing]) -> list[Standing]:
    """Members that all hear each other: whoever misses most is left out first, the mute before others, then the highest
    host id."""
    chosen = sorted(members, key=lambda s: s.host)
    while True:
        missing = {s.host: sum(not _hear(s, other) for other in chosen if other is not s) for s in chosen}
        if not any(missing.values()):
            return chosen
        chosen.remove(max(chosen, key=lambda s: (missing[s.host], bool(s.conditions & Condition.MUTE), s.host)))


def _hear(one: Standing, other: Standing) -> bool:
    """Whether two hear each other, as far as is known."""
    known = one.hears is not None or other.hears is not None
    return known and (one.hears is None or other.host in one.hears) and (other.hears is None or one.host in other.hears)


def _able(current: BucketMap, chosen: Collection[Standing]) -> dict[int, int]:
    able = {
        s.host: s.weight
        for s in chosen
        if s.state in ABLE_STATES and not s.conditions & UNABLE and (not s.waits or s.host in current.hosts)
    }
    if able:
        return able
    # A fault that everybody has is no reason to serve nobody.
    return {
        s.host: s.weight for s in chosen if s.state in ABLE_STATES and not s.conditions & UNABLE & ~Condition.UNHEALTHY
    }


def difference(old: BucketMap, new: BucketMap) -> str:
    """What a planned map is for, in a few words."""
    changes = []
    for text, hosts in (
        ("joins", new.members - old.members),
        ("leaves", old.members - new.members),
        ("can serve", (new.hosts - old.hosts) & old.members),
        ("gives its buckets away", (old.hosts - new.hosts) & new.members),
    ):
        if hosts:
            changes.append(f"host {', '.join(str(host) for host in sorted(hosts))} {text}")
    return "; ".join(changes) or "shares changed"
