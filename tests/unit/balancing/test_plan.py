"""The plan refuses what cannot work, and shares become verdicts without gaps or overlaps."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.balancing.nlb.plan import (
    BUCKETS,
    SLOTS,
    SLOTS_PER_BUCKET,
    BalancingPlan,
    NicPlan,
    Owned,
    Rule,
    Share,
)
from portico.errors import InvalidInput

VIP4, VIP6 = IPv4Address("203.0.113.10"), IPv6Address("2001:db8::10")
NIC = NicPlan("eth0", "external", bytes(6), (VIP6, VIP4), dips=(IPv4Interface("203.0.113.11/24"),))
PLAN = BalancingPlan((NIC,), (Rule(),), 1)


@st.composite
def shares(draw: st.DrawFn) -> Share:
    states = draw(st.lists(st.sampled_from("odq-"), min_size=BUCKETS, max_size=BUCKETS))

    def which(letters: str) -> frozenset[int]:
        return frozenset(n for n, state in enumerate(states) if state in letters)

    return Share(which("oq"), which("d"), which("q"), frozenset(draw(st.sets(st.integers(0, SLOTS - 1), max_size=200))))


@given(shares())
def test_verdicts_cover_exactly_what_is_not_dropped(share: Share) -> None:
    seen: dict[int, str] = {}
    last = (-1, "")
    for first, end, verdict in share.verdicts():
        assert first > last[0]
        assert first > last[0] + 1 or verdict != last[1], "neighbours with one verdict are one range"
        seen |= dict.fromkeys(range(first, end + 1), verdict)
        last = (end, verdict)
    verdicts = {slot: share.verdict(slot) for slot in range(SLOTS)}
    assert seen == {slot: verdict for slot, verdict in verdicts.items() if verdict is not None}


@given(shares())
def test_a_dropped_slot_is_nobodys(share: Share) -> None:
    for slot in range(0, SLOTS, 7):
        bucket = slot // SLOTS_PER_BUCKET
        assert (share.verdict(slot) is None) == (bucket not in share.owned | share.dirty)


@pytest.mark.parametrize(
    "values",
    [
        {"owned": frozenset({60})},
        {"owned": frozenset({-1})},
        {"owned": frozenset({1}), "dirty": frozenset({1})},
        {"quiet": frozenset({1})},
        {"held": frozenset({SLOTS})},
    ],
)
def test_impossible_shares_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="assignment of buckets"):
        Share(**values)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"vips": ()}, "no VIP"),
        ({"vips": (IPv4Address("203.0.113.11"),)}, "is a VIP and the server's own"),
        ({"mac": b"\1\2\3"}, "not 6 bytes"),
        ({"priority": 0}, "priority 0"),
        ({"priority": 33}, "priority 33"),
        ({"takeover": True, "mode": "multicast"}, "takeover"),
        ({"vips": tuple(VIP4 + n for n in range(2, 80))}, "more than 64"),
    ],
)
def test_impossible_interfaces_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        replace(NIC, **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seed": 1 << 32}, "32-bit"),
        ({"lease_ms": 5}, "lease"),
        ({"rules": (Rule(),) * 33}, "33 port rules"),
        ({"nics": (NIC, NIC)}, "named twice"),
        ({"max_clients": 0}, "clients"),
        ({"server_prefix": IPv6Network("2001:db8::/64")}, "client prefix"),
        (
            {"client_prefix": IPv6Network("fd00::/59"), "server_prefix": IPv6Network("2001:db8::/64")},
            "client prefix",
        ),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        replace(PLAN, **changes)


@pytest.mark.parametrize("values", [{"ports": (5, 4)}, {"ports": (0, 65_536)}, {"protocols": frozenset()}])
def test_impossible_rules_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="port rule"):
        Rule(**values)


def test_the_first_ipv4_vip_names_the_cluster_mac() -> None:
    assert NIC.primary == VIP4
    assert NIC.cluster_mac.hex(":") == "02:bf:cb:00:71:0a"
    assert replace(NIC, vips=(VIP6,)).primary == VIP6


def test_only_takeover_masks_the_source() -> None:
    assert NIC.source_mac == NIC.mac
    assert replace(NIC, takeover=True, priority=4).source_mac.hex(":") == "02:04:cb:00:71:0a"


def test_an_assignment_for_other_rules_is_refused() -> None:
    with pytest.raises(InvalidInput, match="2 port rules and there are 1"):
        Owned(1, (Share(), Share())).shares(PLAN)
    assert list(Owned(1, (Share(),), Share.all()).shares(PLAN)) == [Share(), Share.all()]
    assert Owned(1, (Share(),), Share.all()).default_host
    assert not Owned(1, (Share(),)).default_host
