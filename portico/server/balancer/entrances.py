"""Where clients come in. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from portico.balancing.nlb.plan import BalancingPlan, NicPlan
from portico.cluster.holdings import Outer


def external(plan: BalancingPlan) -> Sequence[NicPlan]:
    """The interfaces to which clients come; the only one where there is one."""
    return [nic for nic in plan.nics if nic.side == "external"] or plan.nics


def entrances(plan: BalancingPlan | None) -> tuple[IPv4Address | IPv6Address, ...]:
    """VIPs that clients dial."""
    return tuple(vip for nic in external(plan) for vip in nic.vips) if plan is not None else ()


def outer(peer: str, plan: BalancingPlan | None, port: int) -> Outer | None:
    """The connection of a tunnel from `203.0.113.7:40000`, `[2001:db8::7]:40000` to `port`. The address it dialled is
    not known, one of its family stands for it."""
    host, _, number = peer.rpartition(":")
    try:
        client = ip_address(host.strip("[]"))
        vip = next(vip for vip in entrances(plan) if vip.version == client.version)
        return Outer(client, int(number), vip, port)
    except (ValueError, StopIteration):
        return None


def client_address(text: str) -> IPv6Address | None:
    """An address by which the intranet reaches a client; link-local ones are nobody's but the link's."""
    address = IPv6Address(text)
    return None if address.is_link_local else address
