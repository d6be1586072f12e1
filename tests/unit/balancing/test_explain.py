"""Questions an administrator asks about packets. That the kernel agrees is shown in the lab (test_nlb_explain)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from portico.balancing.nlb.explain import ESP, ICMP, TCP, UDP, Member, Packet, check_rules, explain, protocol_number
from portico.balancing.nlb.hash import bucket_of
from portico.balancing.nlb.plan import BalancingPlan, NicPlan, Owned, Rule, Share

VIP = IPv4Address("203.0.113.10")
CLIENT = IPv4Address("198.51.100.7")
NIC = NicPlan("eth0", "external", bytes(6), (VIP,))
RULES = (
    Rule(protocols=frozenset({"tcp"}), ports=(443, 443)),
    Rule(protocols=frozenset({"udp"}), ports=(500, 4500)),
    Rule(protocols=frozenset({"tcp"}), ports=(22, 22), mode="disabled"),
)
PLAN = BalancingPlan((NIC,), RULES, 7, client_prefix=IPv6Network("fd00:0:0:1000::/59"))
BUCKET = bucket_of(CLIENT, 0, "single", 7)
MINE, OTHERS = frozenset({BUCKET}), frozenset(range(60)) - {BUCKET}


def members(one: Share, two: Share) -> list[Member]:
    return [Member(name, Owned(1, (share, share, share), share)) for name, share in (("da1", one), ("da2", two))]


def https(**changes: object) -> Packet:
    return Packet(CLIENT, VIP, TCP, 50_000, 443, **changes)  # type: ignore[arg-type]


def test_the_owner_accepts() -> None:
    found = explain(PLAN, https(), members(Share(MINE), Share(OTHERS)))
    assert (found.outcome, found.server, found.rule, found.bucket) == ("accepted", "da1", 0, BUCKET)
    assert any("da1 accepts it: it owns the bucket" in reason for reason in found.reasons)


def test_a_bucket_that_moves_keeps_its_connections() -> None:
    moving = members(Share(dirty=MINE), Share(OTHERS | MINE, quiet=MINE))
    assert explain(PLAN, https(), moving).server == "da2"
    found = explain(PLAN, https(begins=False), moving)
    assert found.outcome == "kept"
    assert found.server is None
    assert sum("accepts it if the connection is there" in reason for reason in found.reasons) == 2


def test_nobody_owns_it() -> None:
    found = explain(PLAN, https(), members(Share(OTHERS), Share()))
    assert found.outcome == "unowned"
    assert found.server is None


def test_two_owners_are_named_as_the_fault_they_are() -> None:
    found = explain(PLAN, https(), members(Share.all(), Share.all()))
    assert any("MORE THAN ONE" in reason for reason in found.reasons)


def test_an_owner_without_a_lease_drops() -> None:
    member = Member("da1", Owned(1, (Share.all(),) * 3), serving=False)
    found = explain(PLAN, https(), [member])
    assert found.outcome == "dropped"
    assert any("lease" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("packet", "outcome", "rule"),
    [
        (Packet(CLIENT, VIP, TCP, 1, 22), "refused", 2),
        (Packet(CLIENT, VIP, TCP, 1, 80), "accepted", 3),
        (Packet(CLIENT, VIP, ESP), "accepted", 1),
        (Packet(CLIENT, VIP, UDP, 1, 9, fragment=True), "accepted", 1),
        (Packet(CLIENT, VIP, ICMP, icmp_type=8), "accepted", 3),
        (Packet(CLIENT, VIP, ICMP, icmp_type=3), "all", None),
        (Packet(CLIENT, IPv4Address("203.0.113.11"), TCP, 1, 443), "passed", None),
        (Packet(IPv6Address("2001:db8::1"), IPv6Address("fd00:0:0:1001::5"), TCP, 1, 443), "passed", None),
    ],
)
def test_every_kind_of_packet(packet: Packet, outcome: str, rule: int | None) -> None:
    found = explain(PLAN, packet, members(Share(MINE), Share(OTHERS)))
    assert (found.outcome, found.rule) == (outcome, rule)
    assert found.reasons


def test_none_affinity_for_udp_is_found() -> None:
    rules = (Rule(affinity="none"), Rule(affinity="none", protocols=frozenset({"tcp"})))
    assert [(finding.code, finding.rules) for finding in check_rules(rules)] == [("NLB_AFFINITY_NONE_UDP", (0,))]
    assert check_rules((Rule(affinity="none", mode="disabled"),)) == []


def test_ike_under_two_rules_is_found() -> None:
    udp = frozenset({"udp"})
    split = (Rule(protocols=udp, ports=(500, 500)), Rule(protocols=udp, ports=(4000, 5000)))  # type: ignore[arg-type]
    assert [finding.code for finding in check_rules(split)] == ["NLB_IKE_SPLIT"]
    assert check_rules(RULES) == []


def test_protocol_names() -> None:
    assert [protocol_number(name) for name in ("tcp", "UDP", "50", "icmpv6")] == [6, 17, 50, 58]
    for wrong in ("tcpp", "256", "-1"):
        with pytest.raises(ValueError):
            protocol_number(wrong)
