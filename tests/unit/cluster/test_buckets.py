"""Shares are exact, moves are few, and everybody comes to the same result."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.cluster.buckets import NOBODY, BucketMap, Share, carried_over, empty_map, rebalance, shares
from portico.cluster.config import BUCKETS, Mode, PortRule, Protocol

hosts = st.integers(1, 32)
weights = st.dictionaries(hosts, st.integers(0, 100), max_size=32)
owners = st.lists(st.integers(0, 32), min_size=BUCKETS, max_size=BUCKETS).map(bytes)


def exact(share: dict[int, int], host: int) -> float:
    return BUCKETS * share[host] / sum(share.values())


@given(owners, weights)
def test_every_host_is_within_one_bucket_of_its_exact_share(before: bytes, share: dict[int, int]) -> None:
    after = rebalance(before, share)
    if not any(share.values()):
        assert after == NOBODY
        return
    assert set(after) <= {host for host, weight in share.items() if weight}
    assert all(abs(after.count(host) - exact(share, host)) < 1 for host in share)


@given(owners, weights)
def test_no_bucket_moves_that_could_stay(before: bytes, share: dict[int, int]) -> None:
    after = rebalance(before, share)
    moved = sum(old != new for old, new in zip(before, after, strict=True))
    gained = sum(max(0, after.count(host) - before.count(host)) for host in share)
    assert moved == (gained if any(share.values()) else sum(owner != 0 for owner in before))
    assert rebalance(after, share) == after


@given(owners, weights, st.randoms(use_true_random=False))
def test_the_order_in_which_hosts_are_named_does_not_matter(
    before: bytes, share: dict[int, int], random: object
) -> None:
    items = list(share.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert rebalance(before, dict(items)) == rebalance(before, share)


@given(st.lists(st.tuples(hosts, st.sampled_from([0, 30, 50, 100])), max_size=20))
def test_walks_of_members_that_come_and_go_keep_shares_and_moves(walk: list[tuple[int, int]]) -> None:
    current = NOBODY
    share: dict[int, int] = {}
    for host, weight in walk:
        if host in share:
            del share[host]
        else:
            share[host] = weight
        after = rebalance(current, share)
        if any(share.values()):
            assert all(abs(after.count(host) - exact(share, host)) < 1 for host in share)
            assert all(new == old or old not in share or current.count(old) > after.count(old)
                       for old, new in zip(current, after, strict=True))  # fmt: skip
        current = after


def test_single_mode_takes_the_lowest_handling_priority_that_is_there() -> None:
    share = shares([PortRule((80, 80), mode=Mode.SINGLE, priorities={3: 1, 1: 2, 2: 3})])[1]
    assert share.assign(NOBODY, {1: 50, 2: 50, 3: 50}) == bytes([3]) * BUCKETS
    assert share.assign(NOBODY, {1: 50, 2: 50}) == bytes([1]) * BUCKETS
    assert share.assign(NOBODY, {2: 50}) == bytes([2]) * BUCKETS
    assert share.assign(NOBODY, {}) == NOBODY


def test_disabled_mode_gives_buckets_to_nobody_and_the_default_rule_to_the_lowest_host() -> None:
    default, disabled = shares([PortRule((80, 80), mode=Mode.DISABLED)])
    assert disabled.assign(bytes([4]) * BUCKETS, {4: 50}) == NOBODY
    assert default.assign(NOBODY, {4: 50, 7: 50}) == bytes([4]) * BUCKETS


def test_a_rules_weights_go_before_those_that_hosts_announce() -> None:
    (_, share) = shares([PortRule((80, 80), weights={1: 100, 2: 0})])
    assert share.assign(NOBODY, {1: 50, 2: 50}).count(1) == BUCKETS
    assert share.assign(NOBODY, {1: 50, 3: 100}).count(3) == 30


def test_rules_with_equal_shares_have_one_map() -> None:
    rules = (PortRule((80, 80), weights={1: 10}), PortRule((443, 443), weights={1: 10}), PortRule((22, 22)))
    made = empty_map(3).successor(shares(rules), [1, 2, 3], {1: 50, 2: 50, 3: 50}, 1)
    assert made.owners[1] == made.owners[2] != made.owners[3]


def rank(version: int, leader: int, filler: int = 1) -> tuple[int, int, bytes]:
    return BucketMap(version, leader, frozenset({1}), frozenset({1}), (bytes([filler]) * BUCKETS,)).rank


def test_of_two_maps_the_higher_version_then_the_lower_leader_goes_first() -> None:
    assert rank(3, 5) > rank(2, 1)
    assert rank(3, 1) > rank(3, 2)
    assert rank(3, 1) == rank(3, 1)
    assert rank(3, 1, 1) != rank(3, 1, 2)


def test_rules_that_stay_keep_their_owners_when_others_change() -> None:
    web, teredo = PortRule((443, 443)), PortRule((3544, 3544), Protocol.UDP, weights={1: 1, 2: 3})
    old = empty_map(2).successor(shares((web, teredo)), [1, 2], {1: 50, 2: 50}, 7)
    rules = (PortRule((22, 22), mode=Mode.SINGLE), teredo, web, PortRule((25, 25), mode=Mode.DISABLED))
    new = carried_over(old, (web, teredo), rules, shares(rules))
    assert new.owners == (old.owners[0], old.owners[0], old.owners[2], old.owners[1], NOBODY)
    assert new.version == 7
    assert new.members == {1, 2}


@pytest.mark.parametrize("mode", Mode)
def test_shares_are_comparable(mode: Mode) -> None:
    assert Share(mode, ((1, 2),)) == Share(mode, ((1, 2),))
