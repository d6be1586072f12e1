"""Which buckets have connections, from the kernel's own tables."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.balancing.nlb.hash import bucket_of
from portico.balancing.nlb.plan import BUCKETS, BalancingPlan, NicPlan, Rule
from portico.errors import Unavailable
from portico.server.balancer.flows import Connection, busy_buckets, connections, parse, rule_of

VIP, VIP6 = IPv4Address("203.0.113.11"), IPv6Address("2001:db8:ffff::11")
ALL = frozenset(range(BUCKETS))

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B7100CB:01BB 0764A8C0:9C40 01 00000000:00000000 00:00000000 00000000   997        0 1 1 0 20 4 30 10 -1
   1: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000   997        0 2 1 0 100 0 0 10 0
   2: 0B7100CB:01BB 0764A8C0:9C41 06 00000000:00000000 03:00000A2B 00000000     0        0 0 3 0
   3: half a line
"""
TCP6 = """\
  sl  local_address                         remote_address                        st
   0: 0000000000000000FFFF00000B7100CB:01BB 0000000000000000FFFF00000864A8C0:9C40 01
   1: B80D012000 zz 01
   2: B80D0120000000FF0000000011000000:01BB B80D0120000000C00000000007000000:9C40 08
"""


def plan(*rules: Rule) -> BalancingPlan:
    nic = NicPlan("eth0", "external", bytes(6), (VIP, VIP6))
    return BalancingPlan((nic,), rules or (Rule(),), seed=7)


def test_listeners_and_ended_connections_are_no_flows() -> None:
    assert list(parse(TCP)) == [Connection(VIP, 443, IPv4Address("192.168.100.7"), 40000)]


def test_an_ipv4_peer_of_an_ipv6_socket_is_an_ipv4_peer() -> None:
    mapped, native = parse(TCP6)
    assert mapped == Connection(VIP, 443, IPv4Address("192.168.100.8"), 40000)
    assert native.remote.version == 6 and native.remote_port == 40000


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    list(parse(text))


def test_the_kernel_s_tables_are_read(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TCP)
    (tmp_path / "net/tcp6").write_text(TCP6)
    assert len(connections(tmp_path)) == 3
    (tmp_path / "net/tcp6").unlink()
    with pytest.raises(Unavailable):
        connections(tmp_path)


def test_only_buckets_with_connections_to_a_vip_are_busy() -> None:
    client, other = IPv4Address("198.51.100.1"), IPv4Address("198.51.100.2")
    found = [Connection(VIP, 443, client, 1), Connection(IPv4Address("203.0.113.21"), 22, other, 2)]
    bucket = bucket_of(client, 1, "single", 7)
    assert busy_buckets(plan(), found, [ALL, frozenset()]) == [frozenset({bucket}), frozenset()]
    assert busy_buckets(plan(), found, [ALL - {bucket}, frozenset()]) == [frozenset(), frozenset()]


def test_a_connection_belongs_to_the_first_rule_that_fits() -> None:
    rules = plan(Rule(vip=VIP6, ports=(443, 443)), Rule(protocols=frozenset({"udp"})), Rule(ports=(80, 443)))
    assert rule_of(rules, VIP6, 443) == 0
    assert rule_of(rules, VIP, 443) == 2
    assert rule_of(rules, VIP, 8443) == rules.default_rule == 3
