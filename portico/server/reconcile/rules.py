"""Policy routing that hands NAT64's replies to the translator.

NAT64's source is an address of this machine, so the local table (preference 0) would deliver replies to the host.
A rule for marked packets must come before it, and nothing can come before preference 0: the local rule moves back. It
is added at its new place before it leaves the old one, in both directions, so the machine is never without it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from portico.server.reconcile.ledger import Ledger
from portico.server.reconcile.wanted import (
    LOCAL_PREFERENCE,
    LOCAL_TABLE,
    NAT64_MARK,
    NAT64_TABLE,
    STEER_PREFERENCE,
    Change,
)

# linux/fib_rules.h
_TO_TABLE, _INVERT = 1, 0x2
_SELECTORS = ("FRA_IIFNAME", "FRA_OIFNAME", "FRA_UID_RANGE", "FRA_IP_PROTO", "FRA_SPORT_RANGE", "FRA_DPORT_RANGE")


@dataclass(frozen=True, order=True)
class Rule:
    """An IPv4 policy routing rule without other selectors than a mark."""

    preference: int
    table: int
    mark: int | None = None
    narrowed: bool = False
    """It has other selectors too, or does something else: whatever it is, it is no rule of ours."""

    def __str__(self) -> str:
        mark = f"fwmark {self.mark:#x} " if self.mark is not None else ""
        table = "local" if self.table == LOCAL_TABLE else str(self.table)
        return f"{self.preference}: {mark}lookup {table}"


STEER = Rule(STEER_PREFERENCE, NAT64_TABLE, NAT64_MARK)
LOCAL_FIRST = Rule(0, LOCAL_TABLE)
LOCAL_MOVED = Rule(LOCAL_PREFERENCE, LOCAL_TABLE)


def observe(ip: IPRoute) -> frozenset[Rule]:
    """The IPv4 rules."""
    rules = set()
    for message in ip.get_rules(family=socket.AF_INET):
        table = message.get_attr("FRA_TABLE") or message["table"]
        mark = message.get_attr("FRA_FWMARK")
        rules.add(Rule(message.get_attr("FRA_PRIORITY") or 0, table, mark, _narrowed(message)))
    return frozenset(rules)


def _narrowed(message: Any) -> bool:
    mask = message.get_attr("FRA_FWMASK")
    return (
        message["action"] != _TO_TABLE
        or bool(message["flags"] & _INVERT)
        or bool(message["src_len"] or message["dst_len"] or message["tos"])
        or any(message.get_attr(name) is not None for name in _SELECTORS)
        or (mask is not None and mask != 0xFFFFFFFF)
    )


def plan(steer: bool, state: Collection[Rule], local_rule_moved: bool = False) -> list[Change]:
    """The changes in the order in which they must happen.

    Args:
        local_rule_moved: Portico moved the local rule; only then it is Portico's to move back.
    """
    changes = []
    if steer:
        elsewhere = any(
            rule.table == LOCAL_TABLE and rule.mark is None and rule.preference and not rule.narrowed for rule in state
        )
        if not elsewhere:
            changes.append(Change("rules", "add", str(LOCAL_MOVED), key=LOCAL_MOVED))
        if STEER not in state:
            changes.append(Change("rules", "add", str(STEER), key=STEER))
        if LOCAL_FIRST in state:
            changes.append(Change("rules", "remove", str(LOCAL_FIRST), key=LOCAL_FIRST))
        return changes
    if local_rule_moved and LOCAL_FIRST not in state:
        changes.append(Change("rules", "add", str(LOCAL_FIRST), key=LOCAL_FIRST))
    if STEER in state:
        changes.append(Change("rules", "remove", str(STEER), key=STEER))
    if local_rule_moved and LOCAL_MOVED in state:
        changes.append(Change("rules", "remove", str(LOCAL_MOVED), key=LOCAL_MOVED))
    return changes


def apply(ip: IPRoute, changes: Sequence[Change], ledger: Ledger) -> None:
    """Does the changes in their order; a rule that is already there, or gone, is no failure."""
    for change in changes:
        rule = change.key
        assert isinstance(rule, Rule)
        if change.action == "add" and rule == LOCAL_MOVED:
            ledger.set_local_rule_moved(True)
        arguments: dict[str, Any] = {"family": socket.AF_INET, "priority": rule.preference, "table": rule.table}
        if rule.mark is not None:
            arguments["fwmark"] = rule.mark
        try:
            ip.rule("add" if change.action == "add" else "del", **arguments)
        except NetlinkError as error:
            if error.code not in (errno.EEXIST, errno.ENOENT):
                raise


def undo(ip: IPRoute, ledger: Ledger) -> None:
    """Puts the local rule back to preference 0 and removes ours."""
    apply(ip, plan(False, observe(ip), ledger.local_rule_moved), ledger)
    ledger.set_local_rule_moved(False)
