"""Any server answers for all of them: what its own kernel does, and what the map gives to the others."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from portico.balancing.nlb.explain import ESP, TCP, UDP, Member
from portico.balancing.nlb.hash import bucket_of
from portico.balancing.nlb.plan import BalancingPlan, NicPlan, Owned, Rule, Share
from portico.cluster.ownership import Ownership, RuleOwnership
from portico.errors import InvalidInput
from portico.server.balancer.explaining import explanation, members, packet

VIP = "203.0.113.10"
PREFIX = IPv6Network("fd00:0:0:1000::/59")
PLAN = BalancingPlan(
    (NicPlan("eth0", "external", bytes(6), (IPv4Address(VIP),)),),
    (Rule(protocols=frozenset({"tcp"}), ports=(443, 443)),),
    7,
    client_prefix=PREFIX,
)
NAMES = {1: "da1", 2: "da2"}
EVERYTHING = frozenset(range(60))
BUCKET = bucket_of(IPv4Address("198.51.100.7"), 0, "single", 7)


def picture(owner: int) -> Ownership:
    nothing: frozenset[int] = frozenset()
    rule = RuleOwnership(None, nothing, nothing, nothing, nothing, (0,) * 60, tuple([owner] * 60))
    return Ownership(1, 4, (rule, rule))


def servers(owner: int, *, serving: bool = True) -> list[Member]:
    own = Share(EVERYTHING if owner == 1 else frozenset())
    return members(1, Owned(4, (own,), own), {1: True, 2: serving}, picture(owner), NAMES)


def test_addresses_with_and_without_ports_are_read() -> None:
    asked = packet("198.51.100.7:40000", f"{VIP}:443", "tcp")
    assert (asked.source_port, asked.destination_port, asked.protocol, asked.begins) == (40_000, 443, TCP, True)
    asked = packet("[2001:db8::7]:500", "2001:db8::1", "UDP", established=True)
    assert (asked.source, asked.source_port) == (IPv6Address("2001:db8::7"), 500)
    assert (asked.destination_port, asked.protocol, asked.begins) == (None, UDP, False)
    assert packet("198.51.100.7", VIP, "50").protocol == ESP


@pytest.mark.parametrize(
    ("source", "destination", "protocol"),
    [
        ("nonsense", VIP, "tcp"),
        ("198.51.100.7:", VIP, "tcp"),
        ("198.51.100.7:65536", VIP, "tcp"),
        ("[2001:db8::7]443", "2001:db8::1", "tcp"),
        ("2001:db8::7", VIP, "tcp"),
        ("198.51.100.7", VIP, "ipx"),
        ("198.51.100.7", VIP, "256"),
        ("198.51.100.7:1", VIP, "esp"),
    ],
)
def test_what_is_no_packet_is_refused_with_a_reason(source: str, destination: str, protocol: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        packet(source, destination, protocol)
    assert refused.value.why
    assert refused.value.resolution


def test_the_owner_is_named_whichever_server_answers() -> None:
    asked = packet("198.51.100.7:40000", f"{VIP}:443", "tcp")
    for owner in (1, 2):
        found = explanation(PLAN, asked, servers(owner), answering="da1", holder=None)
        assert (found["outcome"], found["server"], found["bucket"]) == ("accepted", NAMES[owner], BUCKET)
        assert (found["rule"], found["default_rule"], found["answered_by"]) == (0, False, "da1")


def test_a_server_that_is_not_heard_takes_nothing() -> None:
    asked = packet("198.51.100.7:40000", f"{VIP}:443", "tcp")
    found = explanation(PLAN, asked, servers(2, serving=False), answering="da1", holder=None)
    assert (found["outcome"], found["server"]) == ("dropped", None)
    assert any("da2 would take it, but its lease" in reason for reason in found["reasons"])


def test_what_no_rule_covers_is_the_default_host_s() -> None:
    found = explanation(PLAN, packet("198.51.100.7", VIP, "udp"), servers(2), answering="da1", holder=None)
    assert (found["server"], found["rule"], found["default_rule"]) == ("da2", None, True)


def test_the_holder_of_a_client_is_named() -> None:
    asked = packet("fd7c::1", "fd00:0:0:1000::5", "icmpv6")
    found = explanation(PLAN, asked, servers(1), answering="da1", holder="da2")
    assert (found["outcome"], found["server"]) == ("passed", "da2")
    found = explanation(PLAN, asked, servers(1), answering="da1", holder=None)
    assert found["server"] is None
    assert "nobody takes it" in found["reasons"][-1]
