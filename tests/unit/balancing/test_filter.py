"""What is sent to the kernel, as text; the set of held clients. The lab sends it to real kernels."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from itertools import pairwise

import pytest

from portico.balancing.nlb import ruleset
from portico.balancing.nlb.filter import HeldClients
from portico.balancing.nlb.plan import BalancingPlan, NicPlan, Owned, Rule, Share
from portico.errors import LimitReached

NIC = NicPlan("eth0", "internal", bytes(6), (IPv4Address("10.0.0.2"), IPv6Address("2001:db8::2")))
PLAN = BalancingPlan((NIC,), (Rule(),), 0xABC, client_prefix=IPv6Network("fd00:0:0:1000::/59"))
ALL = Owned(1, (Share.all(),), Share.all())


def test_no_mark_of_a_bucket_is_zero_or_another_rules() -> None:
    bases = [ruleset.BASE + rule * ruleset.RULE_STRIDE for rule in range(34)]
    assert min(bases) > 0
    assert all(following - base > 3840 for base, following in pairwise(bases))
    assert max(bases) + 4096 <= ruleset.TRACKED


def test_marks_stay_clear_of_those_portico_routes_by() -> None:
    from portico.server.reconcile.wanted import NAT64_MARK

    assert not ruleset.BASE <= NAT64_MARK <= ruleset.TRACKED + 0xFFFF


def test_neighbouring_buckets_are_one_element() -> None:
    (line,) = ruleset.ownership(PLAN, Owned(1, (Share.all(),)), flush=False)
    assert line == "add element netdev portico_nlb buckets0 { 0x4e000000-0x4e000eff : goto own0 }"
    assert ruleset.ownership(PLAN, Owned(1, (Share(),)), flush=False) == []


def test_connections_are_tracked_by_nobody() -> None:
    moving = Owned(1, (Share(owned=frozenset({1}), quiet=frozenset({1}), dirty=frozenset({2})),))
    text = ruleset.render(PLAN, moving)
    assert "socket wildcard" in text
    assert " ct " not in text
    assert "socket" not in ruleset.render(PLAN, ALL), "and sockets are looked up only while buckets move"


def test_each_server_has_no_set_of_clients_with_a_prefix_of_its_own() -> None:
    own = replace(PLAN, server_prefix=IPv6Network("fd00:0:0:1001::/64"))
    assert "set clients" in ruleset.render(PLAN, ALL)
    assert "set clients" not in ruleset.render(own, ALL)
    assert "ip6 daddr fd00:0:0:1001::/64" in ruleset.render(own, ALL)


def test_many_clients_are_many_elements_of_few_commands() -> None:
    clients = [IPv6Address(n) for n in range(2500)]
    assert len(ruleset.client_changes(clients, ())) == 3
    assert ruleset.client_changes((), clients[:1]) == ["delete element netdev portico_nlb clients { :: }"]


def test_held_clients_are_bounded_and_exact() -> None:
    a, b, c, d = (IPv6Address(n) for n in range(1, 5))
    clients = HeldClients(3, [a])
    new, gone = clients.difference(add=[a, b], remove=[c])
    assert (new, gone) == ({b}, set())
    clients.commit(new, gone)
    with pytest.raises(LimitReached, match="limit is 3"):
        clients.difference(add=[c, d], remove=[])
    assert clients.held == {a, b}, "nothing was changed"
    assert clients.difference(add=[c, d], remove=[a]) == ({c, d}, {a})
    assert clients.difference(add=[a], remove=[a]) == (set(), set()), "one in both stays"
