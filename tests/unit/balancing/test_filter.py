"""What is sent to the kernel, as text; the set of held clients. The lab sends it to real kernels."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from portico.balancing.nlb import ruleset
from portico.balancing.nlb.bpf import _whole
from portico.balancing.nlb.filter import HeldClients
from portico.balancing.nlb.plan import BalancingPlan, NicPlan, Owned, Rule, Share
from portico.errors import LimitReached

NIC = NicPlan("eth0", "internal", bytes(6), (IPv4Address("10.0.0.2"), IPv6Address("2001:db8::2")))
PLAN = BalancingPlan((NIC,), (Rule(),), 0xABC, client_prefix=IPv6Network("fd00:0:0:1000::/59"))
ALL = Owned(1, (Share.all(),), Share.all())


def test_marks_stay_clear_of_those_portico_routes_by() -> None:
    from portico.server.reconcile.wanted import NAT64_MARK

    assert not ruleset.TRACKED <= NAT64_MARK <= ruleset.TRACKED + 0xFFFF


def test_a_bucket_is_one_element_and_only_one_that_splits_has_slots() -> None:
    moving = Share(
        owned=frozenset({1, 2}), quiet=frozenset({2}), dirty=frozenset({3}), held=frozenset({2 * 64 + 7, 70})
    )
    lines = ruleset.ownership(PLAN, Owned(1, (moving,)), flush=False)
    buckets, slots = (
        next(line for line in lines if f" {what}_rule0_single4_0 " in line) for what in ("buckets", "slots")
    )
    own, quiet = "goto own_rule0_single4_0", "goto quiet_rule0_single4_0"
    assert buckets.endswith(f"{{ 1 : {own}, 2 : goto split_rule0_single4_0, 3 : goto dirty0 }}")
    assert slots.count(" : ") == 64
    assert f"134 : {quiet}, 135 : goto quiet_held0, 136 : {quiet}" in slots
    assert ruleset.ownership(PLAN, Owned(1, (Share(),)), flush=False) == []


def test_extended_affinity_keeps_new_connections_of_held_slots_with_their_server() -> None:
    lingering = replace(PLAN, rules=(Rule(linger=600.0),))
    held = Share(owned=frozenset({2}), quiet=frozenset({2}), dirty=frozenset({3}), held=frozenset({2 * 64, 3 * 64}))
    text = "\n".join(ruleset.ownership(lingering, Owned(1, (held,)), flush=False))
    assert "128 : goto foreign0," in text
    assert "192 : goto dirty_held_rule0_single4_0," in text
    rules = ruleset.render(lingering, ALL)
    assert "chain dirty_held_rule0_single4_0 { goto own_rule0_single4_0; }" in rules
    assert "update @known0 { jhash @nh,96,32 mod 3840 seed 0xabc timeout 600000ms }" in rules
    assert "known" not in ruleset.render(PLAN, ALL), "TCP costs nothing where nobody asked for it"


def test_slots_in_use_are_noted_where_clients_come_in() -> None:
    outside = replace(NIC, interface="eth1", side="external", vips=(IPv4Address("203.0.113.1"),))
    both = ruleset.render(replace(PLAN, nics=(outside, NIC)), ALL)
    assert both.count("update @busy0") == 1
    assert ruleset.render(PLAN, ALL).count("update @busy0") == 2, "one interface alone has both families' clients"


def test_what_is_not_judged_ends_with_the_lease_and_with_every_change() -> None:
    plan = replace(PLAN, lease_ms=300)
    text = ruleset.render(plan, ALL)
    assert ruleset.flows(plan) == ["flows4_0", "flows6_0"]
    assert "add @flows4_0 { ip protocol . ip saddr . ip daddr timeout 50ms }" in text
    assert "10.0.0.2 timeout 250ms : goto four0" in ruleset.renewal(plan), "together they are the lease"
    forgotten = ["flush set netdev portico_nlb flows4_0", "flush set netdev portico_nlb flows6_0"]
    assert ruleset.ownership(plan, ALL)[:2] == forgotten == ruleset.forget(plan)
    assert all(line in ruleset.surrender(plan) for line in forgotten)
    assert "flush set netdev portico_nlb flows" not in ruleset.renewal(plan)
    assert "timeout 8ms }" in ruleset.render(replace(plan, lease_ms=50), ALL), "a sixth of a short lease"


def test_pings_hide_no_session_whose_slot_has_to_be_noted() -> None:
    lines = ruleset.render(PLAN, ALL).splitlines()
    for version, icmp, tcp in ((4, "@nh,72,8 1 ", "@nh,72,8 6 "), (6, "meta l4proto icmpv6 ", "@nh,48,8 6 ")):
        start = lines.index(f"chain own_rule0_single{version}_0 {{")
        own = lines[start + 1 : lines.index("counter name accepted0 accept; }", start) + 1]
        assert own[0] == f"{icmp}counter name accepted0 accept"
        flows = [n for n, line in enumerate(own) if "add @flows" in line]
        assert [own[n].startswith(tcp) for n in flows] == [True, False]
        (noted,) = [n for n, line in enumerate(own) if line.startswith("update @busy0")]
        assert flows[0] < noted < flows[1], "TCP's flows are its own: the protocol is part of them"


def test_packets_are_judged_one_by_one_where_addresses_do_not_say_the_verdict() -> None:
    rules = (
        (Rule(ports=(443, 443)), Rule()),
        (Rule(affinity="none", protocols=frozenset({"tcp"})), Rule()),
        (Rule(vip=IPv4Address("10.0.0.2")),),
        (Rule(mode="disabled"),),
    )
    for some in rules:
        plan = replace(PLAN, rules=some)
        judged = [name for name in ruleset.flows(plan) if name.startswith("flows4")]
        assert judged == [], some
        assert "@flows4" not in ruleset.render(plan, Owned(1, tuple(Share.all() for _ in some), Share.all()))
    outside = replace(NIC, interface="eth1", side="external", vips=(IPv4Address("203.0.113.1"),))
    assert ruleset.flows(replace(PLAN, nics=(outside, NIC))) == ["flows4_0"], "clients come in there"


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


def test_the_short_way_of_the_program_is_for_what_the_address_alone_decides() -> None:
    assert _whole(PLAN) and _whole(replace(PLAN, rules=())), "what no rule covers is a rule, too"
    assert _whole(replace(PLAN, rules=(Rule(), Rule(ports=(443, 443))))), "behind one that covers everything"
    for first in (
        Rule(ports=(443, 443)),
        Rule(protocols=frozenset({"udp", "tcp"})),
        Rule(vip=IPv4Address("10.0.0.2")),
        Rule(mode="disabled"),
        Rule(affinity="network"),
        Rule(linger=60.0),
    ):
        assert not _whole(replace(PLAN, rules=(first, Rule()))), first
