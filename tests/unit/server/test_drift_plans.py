"""What counts as drift of routes, rules and users. What the kernel really says is in tests/lab/test_agent.py."""

from __future__ import annotations

import pytest

from portico.server.reconcile import nftables, routes, rules
from portico.server.reconcile.nftables import Table
from portico.server.reconcile.routes import Observed
from portico.server.reconcile.rules import LOCAL_MOVED, STEER, Rule
from portico.server.reconcile.wanted import MAIN_TABLE, Route

CLIENTS = Route(6, MAIN_TABLE, "fd00:1000::/64", "portico-iphttps")


def elsewhere(interface: str, odd: str = "") -> Observed:
    return Observed(Route(6, MAIN_TABLE, CLIENTS.destination, interface), False, odd, 5)


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ([Observed(CLIENTS, False)], []),
        ([Observed(CLIENTS, True, metric=256)], []),
        ([], ["add route"]),
        ([Observed(CLIENTS, False), elsewhere("eth1")], ["remove route"]),
        ([Observed(CLIENTS, False), elsewhere("lo", "blackhole")], ["remove route"]),
        ([Observed(CLIENTS, False, "mtu 1300")], ["remove route", "add route"]),
        ([Observed(CLIENTS, False, "via fd00::1")], ["remove route", "add route"]),
    ],
)
def test_a_route_that_takes_packets_elsewhere_or_otherwise_is_drift(state: list[Observed], named: list[str]) -> None:
    found = [str(change) for change in routes.plan([CLIENTS], state)]
    assert [text.startswith(name) for text, name in zip(found, named, strict=True)] == [True] * len(named)


def test_a_rule_that_was_narrowed_is_not_ours() -> None:
    narrowed = Rule(STEER.preference, STEER.table, STEER.mark, narrowed=True)
    assert rules.plan(True, [LOCAL_MOVED, STEER]) == []
    assert [change.key for change in rules.plan(True, [LOCAL_MOVED, narrowed])] == [STEER]
    local = Rule(LOCAL_MOVED.preference, LOCAL_MOVED.table, None, narrowed=True)
    assert LOCAL_MOVED in [change.key for change in rules.plan(True, [local, STEER])]


def test_who_was_let_in_by_somebody_else_is_drift_and_so_is_who_was_put_out() -> None:
    seen = Table([], frozenset({"fd00::1", "fd00::9"}))
    assert nftables.plan_users(["fd00::1", "fd00::9", "fd00::2"], ["fd00::1"], seen) == []
    assert [str(change) for change in nftables.plan_users(["fd00::1", "fd00::2"], ["fd00::1", "fd00::2"], seen)] == [
        "remove nftables in inet portico: element fd00::9 of set users",
        "add nftables in inet portico: element fd00::2 of set users",
    ]
