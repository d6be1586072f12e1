"""Which slots a former owner keeps, and when it lets go of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.balancing.nlb.hash import slot_of
from portico.balancing.nlb.plan import SLOTS, BalancingPlan, NicPlan, Rule
from portico.cluster.ownership import Ownership, RuleOwnership
from portico.server.balancer import plans
from portico.server.balancer.flows import Connection
from portico.server.balancer.kept import KeptSlots, bitmap, connected, from_bitmap

NONE: frozenset[int] = frozenset()
NOBODY = (0,) * 60
VIP = IPv4Address("203.0.113.11")


def ownership(*, dirty: set[int], default: set[int] | None = None, foreign: bytes | None = None) -> Ownership:
    """The default rule's dirty buckets, and those of the only port rule; the rest is owned and quiet."""

    def rule(buckets: set[int]) -> RuleOwnership:
        mine = frozenset(range(60)) - buckets
        return RuleOwnership(None, mine, frozenset(buckets), mine, NONE, NOBODY, NOBODY)

    return Ownership(1, 1, (rule(default or set()), rule(dirty)), foreign)


class Kernel:
    """What is in use by rule, and how often that was asked for."""

    def __init__(self, **used: set[int]) -> None:
        self.used = {int(name[1:]): frozenset(slots) for name, slots in used.items()}
        self.asked: list[int] = []

    def __call__(self, rule: int) -> frozenset[int]:
        self.asked.append(rule)
        return self.used.get(rule, NONE)


def test_slots_in_use_are_kept_of_buckets_that_move() -> None:
    kept, kernel = KeptSlots(), Kernel(r0={64 * 5, 64 * 5 + 7, 64 * 6}, r1={64 * 9})
    kept.move(ownership(dirty=set()), kernel)
    assert kernel.asked == [] and kept.slots == NONE, "nothing moves, nothing is asked for"
    kept.move(ownership(dirty={5}), kernel)
    assert kernel.asked == [0] and kept.slots == {64 * 5, 64 * 5 + 7}
    assert kept.buckets(0) == {5} and kept.buckets(1) == NONE
    kept.move(ownership(dirty={5}, default={9}), kernel)
    assert kept.slots == {64 * 5, 64 * 5 + 7, 64 * 9}
    kept.move(ownership(dirty=set()), kernel)
    assert kept.slots == NONE, "the buckets came back"


def test_idle_slots_are_let_go_and_never_taken_back() -> None:
    kept, kernel = KeptSlots(), Kernel(r0={64 * 5, 64 * 5 + 7})
    kept.move(ownership(dirty={5}), kernel)
    assert not kept.idle(kernel)
    kernel.used[0] = frozenset({64 * 5, 64 * 5 + 8})
    assert kept.idle(kernel) and kept.slots == {64 * 5}
    kernel.used[0] = frozenset({64 * 5, 64 * 5 + 7, 64 * 5 + 8})
    assert not kept.idle(kernel) and kept.slots == {64 * 5}
    kept.move(ownership(dirty={5, 6}), kernel)
    assert kept.slots == {64 * 5}, "a bucket that moves later asks for its own slots only"
    kernel.used[0] = NONE
    assert kept.idle(kernel) and kept.rules == [] and not kept.idle(kernel)


@given(st.frozensets(st.integers(0, SLOTS - 1), max_size=300))
def test_bitmaps_are_those_of_heartbeats(slots: frozenset[int]) -> None:
    value = bitmap(slots)
    assert (value is None) == (not slots) and (value is None or len(value) == 480)
    assert from_bitmap(value) == slots


def test_the_kernel_holds_what_is_kept_here_and_elsewhere() -> None:
    here, there = frozenset({5 * 64 + 1}), frozenset({5 * 64 + 2, 8 * 64})
    picture = plans.owned(ownership(dirty={5}, foreign=bitmap(there)), here)
    assert picture.rules[0].held == {5 * 64 + 1, 8 * 64}, "of other buckets than their own both are meaningless"
    assert picture.rules[0].verdict(5 * 64 + 1) == "dirty_held" and picture.rules[0].verdict(5 * 64 + 2) == "dirty"
    assert picture.rules[0].verdict(8 * 64) == "quiet_held" and picture.rules[0].verdict(8 * 64 + 1) == "quiet"


@pytest.mark.parametrize("affinity", ["single", "network"])
def test_a_client_with_a_connection_has_not_left(affinity: str) -> None:
    rule = Rule(ports=(443, 443), affinity=affinity, linger=60.0)  # type: ignore[arg-type]
    plan = BalancingPlan((NicPlan("eth0", "external", bytes(6), (VIP,)),), (rule,), 7)
    client = IPv4Address("198.51.100.9")
    found = [
        Connection(VIP, 443, client, 50000),
        Connection(VIP, 22, IPv4Address("198.51.100.10"), 50000),
        Connection(IPv4Address("203.0.113.12"), 443, IPv4Address("198.51.100.11"), 50000),
    ]
    assert connected(plan, found, 0) == {slot_of(client, 0, rule.affinity, 7)}
    assert connected(replace(plan, rules=()), found[:2], 0) == {
        slot_of(IPv4Address(f"198.51.100.{n}"), 0, "single", 7) for n in (9, 10)
    }
