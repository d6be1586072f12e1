"""Which slots of buckets that were given away this server keeps: sessions that no packet begins or ends (UDP, ESP), and
under extended affinity the clients themselves. Pure.

A slot is kept when it was in use as its bucket moved, until it is idle; none is ever taken back. The kernel lets go of
it before the others hear of that, so it never has two servers. Heartbeats have room for one bitmap: a slot that one
rule keeps is kept under all of them in the buckets that moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from portico.balancing.nlb.hash import slot_of
from portico.balancing.nlb.plan import SLOTS, SLOTS_PER_BUCKET, BalancingPlan
from portico.cluster.config import SLOT_BITMAP_BYTES
from portico.cluster.ownership import Ownership
from portico.server.balancer.flows import Connection, rule_of

Slots = frozenset[int]
Busy = Callable[[int], Slots]
"""The slots in use of a rule, by the number it has in the plan (the default's is the last)."""

NONE: Slots = frozenset()


class KeptSlots:
    """The slots by rule. `slots` is what the kernel holds and the others are told."""

    def __init__(self) -> None:
        self._dirty: dict[int, frozenset[int]] = {}
        self._kept: dict[int, Slots] = {}

    @property
    def slots(self) -> Slots:
        return frozenset().union(*self._kept.values())

    @property
    def rules(self) -> Sequence[int]:
        """Those of which slots are kept."""
        return [rule for rule, kept in self._kept.items() if kept]

    def buckets(self, rule: int) -> frozenset[int]:
        """Those of a rule in which slots are kept."""
        return frozenset(slot // SLOTS_PER_BUCKET for slot in self._kept.get(rule, NONE))

    def move(self, ownership: Ownership, busy: Busy) -> None:
        """Buckets may have been given away, or came back; asks only for rules of which some were."""
        default, *rules = ownership.rules
        for number, rule in enumerate((*rules, default)):
            fresh = rule.dirty - self._dirty.get(number, NONE)
            kept = self._kept.get(number, NONE) | (_within(busy(number), fresh) if fresh else NONE)
            self._kept[number] = _within(kept, rule.dirty)
            self._dirty[number] = rule.dirty

    def idle(self, busy: Busy) -> bool:
        """Lets go of slots that are in use no more; tells whether there were any."""
        before = self.slots
        for rule in self.rules:
            self._kept[rule] &= busy(rule)
        return self.slots != before


def connected(plan: BalancingPlan, found: Iterable[Connection], rule: int) -> Slots:
    """The slots of a rule in which there are TCP connections to VIPs: a client that is there has not left."""
    vips = frozenset(vip for nic in plan.nics for vip in nic.vips)
    affinity = plan.rules[rule].affinity if rule < len(plan.rules) else "single"
    return frozenset(
        slot_of(one.remote, one.remote_port, affinity, plan.seed)
        for one in found
        if one.local in vips and rule_of(plan, one.local, one.local_port) == rule
    )


def bitmap(slots: Iterable[int]) -> bytes | None:
    """As heartbeats have it (`Ownership.foreign_slots`)."""
    value = sum(1 << slot for slot in set(slots))
    return value.to_bytes(SLOT_BITMAP_BYTES, "little") if value else None


def from_bitmap(value: bytes | None) -> Slots:
    """The slots of a heartbeat's bitmap."""
    number = int.from_bytes(value or b"", "little")
    return frozenset(slot for slot in range(SLOTS) if number >> slot & 1)


def _within(slots: Slots, buckets: frozenset[int]) -> Slots:
    return frozenset(slot for slot in slots if slot // SLOTS_PER_BUCKET in buckets)
