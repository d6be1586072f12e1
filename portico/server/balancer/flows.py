"""Which buckets still have TCP connections on this server: what it may let go of. Pure but for `connections`.

The socket itself is the record of a flow. While a server keeps old flows of buckets that others own now, these are
looked for among the kernel's sockets; nothing else needs to be remembered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from portico.balancing.nlb.hash import bucket_of
from portico.balancing.nlb.plan import BalancingPlan, Rule
from portico.errors import Unavailable
from portico.server.proc_net import endpoint

Address = IPv4Address | IPv6Address

_LISTEN, _TIME_WAIT, _CLOSE = 0x0A, 0x06, 0x07
_ENDED = frozenset({_LISTEN, _TIME_WAIT, _CLOSE})
"""States of sockets that are no flow: nobody loses anything when their packets go elsewhere."""

_TABLES = ("net/tcp", "net/tcp6")


@dataclass(frozen=True)
class Connection:
    """A TCP connection of this machine: to which of its addresses and ports, and from whom."""

    local: Address
    local_port: int
    remote: Address
    remote_port: int


def connections(proc: Path = Path("/proc")) -> list[Connection]:
    """All TCP connections of this network namespace. Takes a millisecond for some hundred of them.

    Raises:
        Unavailable: the kernel's tables cannot be read.
    """
    found: list[Connection] = []
    for table in _TABLES:
        try:
            text = (proc / table).read_text()
        except OSError as error:
            raise Unavailable("Connections cannot be counted", why=str(error), resolution="Is /proc mounted?") from None
        found += parse(text)
    return found


def parse(table: str) -> Iterator[Connection]:
    """The connections of one table in the form of /proc/net/tcp (proc(5)); lines that are none are left out."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        try:
            state = int(fields[3], 16)
            local, remote = endpoint(fields[1]), endpoint(fields[2])
        except (IndexError, ValueError):
            continue
        if state not in _ENDED:
            yield Connection(*local, *remote)


def busy_buckets(
    plan: BalancingPlan, found: Iterable[Connection], wanted: Sequence[Collection[int]]
) -> list[frozenset[int]]:
    """For each rule, the default's last, which of the wanted buckets have connections to a VIP.

    Args:
        wanted: buckets that matter, by rule; rules without any cost nothing.
    """
    vips = frozenset(vip for nic in plan.nics for vip in nic.vips)
    busy: list[set[int]] = [set() for _ in wanted]
    for connection in found:
        if connection.local not in vips:
            continue
        number = rule_of(plan, connection.local, connection.local_port)
        if not wanted[number]:
            continue
        affinity = plan.rules[number].affinity if number < len(plan.rules) else "single"
        bucket = bucket_of(connection.remote, connection.remote_port, affinity, plan.seed)
        if bucket in wanted[number]:
            busy[number].add(bucket)
    return [frozenset(buckets) for buckets in busy]


def rule_of(plan: BalancingPlan, vip: Address, port: int) -> int:
    """The number of the rule that decides about TCP to a VIP's port; that of the default when none does."""
    return next(
        (number for number, rule in enumerate(plan.rules) if _covers(rule, vip, port)),
        plan.default_rule,
    )


def _covers(rule: Rule, vip: Address, port: int) -> bool:
    first, last = rule.ports
    return rule.vip in (None, vip) and "tcp" in rule.protocols and first <= port <= last
