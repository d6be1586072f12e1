"""What cannot work is refused when it is written down, with the reason."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from portico.cluster.config import MAX_SPREADS, Affinity, Key, MemberConfig, Mode, Path, PortRule, Protocol
from portico.errors import InvalidInput
from tests.unit.cluster.simulator import config


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"ports": (443, 80)}, "no range of ports"),
        ({"ports": (0, 65536)}, "no range of ports"),
        ({"ports": (1, 2), "affinity": Affinity.NONE}, "fragments"),
        ({"ports": (1, 2), "affinity": Affinity.NONE, "protocol": Protocol.UDP}, "fragments"),
        (
            {"ports": (1, 2), "affinity": Affinity.NONE, "protocol": Protocol.TCP, "extended_affinity": 5},
            "timeout extends",
        ),
        ({"ports": (1, 2), "extended_affinity": 14_401}, "timeout of 14401"),
        ({"ports": (1, 2), "weights": {33: 1}}, "33 is no host id"),
        ({"ports": (1, 2), "weights": {3: 101}}, "weight of 101"),
        ({"ports": (1, 2), "priorities": {3: 0}}, "0 is no host id"),
        ({"ports": (1, 2), "priorities": {3: 1, 4: 1}}, "one handling priority"),
    ],
)
def test_impossible_port_rules_are_refused(rule: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        PortRule(**rule)  # type: ignore[arg-type]


def test_affinity_none_is_for_tcp() -> None:
    PortRule((80, 80), Protocol.TCP, affinity=Affinity.NONE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"host_id": 0}, "0 is no host id"),
        ({"host_id": 9}, "not among the members"),
        ({"members": frozenset({1, 40})}, "40 is no host id"),
        ({"cluster_id": ""}, "cluster id"),
        ({"paths": ()}, "paths"),
        ({"paths": (Path("a", True), Path("a", False))}, "paths"),
        ({"keys": ()}, "one or two keys"),
        ({"keys": (Key(1, b"k" * 32), Key(1, b"l" * 32))}, "one or two keys"),
        ({"weight": 101}, "weight of 101"),
        ({"period_ms": 1}, "period of 1 ms"),
        ({"lease": 4}, "lease of 4 periods"),
        ({"lease": 1}, "lease of 1 periods"),
        ({"drain_timeout": 0.0}, "drain timeout"),
        ({"revision": -1}, "revision"),
        ({"nics": ("a", "b", "c")}, "3 network cards"),
        ({"rules": (PortRule((80, 90)), PortRule((90, 91), Protocol.UDP))}, "overlap"),
        ({"rules": tuple(PortRule((n, n)) for n in range(33))}, "33 port rules"),
        ({"rules": tuple(PortRule((n, n), weights={1: n}) for n in range(MAX_SPREADS + 1))}, "different sets"),
    ],
)
def test_impossible_configurations_are_refused(change: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        config(1, {1, 2}, **change)


def test_short_keys_are_refused_and_secrets_are_not_printed() -> None:
    with pytest.raises(InvalidInput, match="shorter"):
        Key(1, b"k" * 31)
    assert "kkk" not in repr(config(1, {1}))


def test_rules_for_different_traffic_do_not_overlap() -> None:
    vip = ip_address("192.0.2.10")
    one = PortRule((443, 443), Protocol.TCP)
    assert not one.overlaps(PortRule((443, 443), Protocol.UDP))
    assert not one.overlaps(PortRule((443, 443), Protocol.TCP, vip))
    assert one.overlaps(PortRule((400, 500), Protocol.BOTH))


def test_digest_covers_what_members_must_agree_on_and_nothing_else() -> None:
    base = config(1, {1, 2})
    same: list[MemberConfig] = [
        config(2, {1, 2}),
        replace(base, revision=9),
        replace(base, weight=7),
        replace(base, keys=(Key(3, b"n" * 32), *base.keys)),
    ]
    assert {other.digest for other in same} == {base.digest}
    different = [
        replace(base, members=frozenset({1, 2, 3})),
        replace(base, period_ms=50),
        replace(base, paths=(Path("other", True), Path("internal", True))),
        *(replace(base, rules=(PortRule((443, 443), **change),)) for change in (
            {}, {"mode": Mode.SINGLE}, {"weights": {1: 3}}, {"extended_affinity": 60.0},
            {"vip": ip_address("192.0.2.1")},
        )),
    ]  # fmt: skip
    assert len({base.digest, *(other.digest for other in different)}) == len(different) + 1
