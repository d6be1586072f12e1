"""Hardware addresses of a cluster: the documented vectors, and what must hold for all."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.balancing.nlb import mac

VIP = IPv4Address("203.0.113.10")

ipv4 = st.integers(0, 2**32 - 1).map(IPv4Address)
ipv6 = st.integers(0, 2**128 - 1).map(IPv6Address)
modes = st.sampled_from(["unicast", "multicast", "igmp"])


def test_cluster_macs_of_an_ipv4_vip() -> None:
    assert mac.text(mac.cluster_mac("unicast", VIP)) == "02:bf:cb:00:71:0a"
    assert mac.text(mac.cluster_mac("multicast", VIP)) == "03:bf:cb:00:71:0a"
    assert mac.text(mac.cluster_mac("igmp", VIP)) == "01:00:5e:7f:71:0a"
    assert mac.igmp_group(VIP) == IPv4Address("239.255.113.10")
    assert mac.text(mac.masked_source(3, VIP)) == "02:03:cb:00:71:0a"


def test_cluster_mac_of_the_ipv6_vip_in_microsofts_example() -> None:
    """Get-NlbClusterDriverInfo, example 1."""
    vip = IPv6Address("2001:4898:e8:3018:bd82:dde1:6615:7b0")
    assert mac.cluster_mac("unicast", vip) == mac.parse("02-BF-FB-7E-A2-D1")


@given(modes, ipv4 | ipv6)
def test_only_unicast_is_a_unicast_address(mode: str, vip: IPv4Address | IPv6Address) -> None:
    found = mac.cluster_mac(mode, vip)  # type: ignore[arg-type]
    assert len(found) == 6
    assert bool(found[0] & 1) == (mode != "unicast")
    assert bool(found[0] & 2) == (mode != "igmp")  # locally administered, save for the group's


@given(st.integers(1, 32), st.integers(1, 32), ipv4 | ipv6)
def test_masked_sources_differ_and_are_never_the_cluster_mac(
    one: int, other: int, vip: IPv4Address | IPv6Address
) -> None:
    assert (mac.masked_source(one, vip) == mac.masked_source(other, vip)) == (one == other)
    assert mac.masked_source(one, vip) != mac.cluster_mac("unicast", vip)
    assert not mac.masked_source(one, vip)[0] & 1


@given(ipv4 | ipv6)
def test_the_group_has_the_cluster_mac(vip: IPv4Address | IPv6Address) -> None:
    group = mac.igmp_group(vip)
    assert group.is_multicast
    ethernet = b"\x01\x00\x5e" + bytes([group.packed[1] & 0x7F]) + group.packed[2:]  # RFC 1112 section 6.4
    assert ethernet == mac.cluster_mac("igmp", vip)


@pytest.mark.parametrize("priority", [0, 33])
def test_a_priority_out_of_range_is_refused(priority: int) -> None:
    with pytest.raises(ValueError, match="priority"):
        mac.masked_source(priority, VIP)


@given(st.binary(min_size=6, max_size=6))
def test_text_and_back(address: bytes) -> None:
    assert mac.parse(mac.text(address)) == address
    assert mac.parse(address.hex("-").upper()) == address


def test_solicited_node_group() -> None:
    group = mac.solicited_node_group(IPv6Address("2001:db8::1:800:200e:8c6c"))  # RFC 4291 section 2.7.1's
    assert group == IPv6Address("ff02::1:ff0e:8c6c")
    assert mac.text(mac.ipv6_group_mac(group)) == "33:33:ff:0e:8c:6c"
