from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.settings.addresses import (
    AddressPlan,
    AddressPortPool,
    DnsServer,
    embed_ipv4,
    extract_ipv4,
    format_interface,
    is_cluster_client_prefix,
    parse_interface,
    parse_network,
    server_prefix,
)
from portico.settings.document import load_data
from portico.settings.effective import effective
from portico.settings.facts import Facts
from portico.settings.model import Settings
from portico.transition.addressing import generate_organisation_prefix, isatap_address, tunnel_addresses

P = IPv6Network("fd7c:1a2b:3c4d::/48")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("10.244.4.19 /255.255.255.0", "10.244.4.19/255.255.255.0"),
        ("131.107.0.5/24", "131.107.0.5/255.255.255.0"),
        (" 131.107.0.5 / 255.255.255.0 ", "131.107.0.5/255.255.255.0"),
        ("3ffe::5/64", "3ffe::5/64"),
        ("3FFE::5 /64", "3ffe::5/64"),
    ],
)
def test_the_forms_of_the_cmdlets_are_read_and_printed(text: str, printed: str) -> None:
    assert format_interface(parse_interface(text)) == printed
    assert parse_interface(printed) == parse_interface(text)


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1/33", "10.0.0.1/255.0.255.0", "/24", "", "x/24", "1.2.3.4/"])
def test_what_is_no_address_with_a_mask_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_interface(text)


def test_a_misaligned_59_is_no_prefix() -> None:
    assert is_cluster_client_prefix(parse_network("2001:db8:1:1000::/59"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2001:db8:1:1000::/59"):
        parse_network("2001:db8:1:1010::/59")


def test_a_59_has_32_server_prefixes() -> None:
    whole = IPv6Network("2001:db8:1:1000::/59")
    prefixes = [server_prefix(whole, index) for index in range(32)]
    assert str(prefixes[0]) == "2001:db8:1:1000::/64"
    assert str(prefixes[31]) == "2001:db8:1:101f::/64"
    assert prefixes == list(whole.subnets(new_prefix=64))
    for network, index in ((whole, 32), (whole, -1), (IPv6Network("2001:db8::/64"), 1), (P, 0)):
        with pytest.raises(ValueError):
            server_prefix(network, index)


def test_the_plan_of_a_48_has_the_numbers_of_a_windows_deployment() -> None:
    plan = AddressPlan.of(P)
    assert str(plan.intranet) == "fd7c:1a2b:3c4d:1::/64"
    assert str(plan.client) == "fd7c:1a2b:3c4d:1000::/64"
    assert str(plan.client_cluster) == "fd7c:1a2b:3c4d:1000::/59"
    assert str(plan.vpn) == "fd7c:1a2b:3c4d:2000::/64"
    assert str(plan.dns64) == "fd7c:1a2b:3c4d:3333::1"
    assert str(plan.nat64) == "fd7c:1a2b:3c4d:7777::/96"
    assert [str(a) for a in plan.tunnel_endpoints] == ["fd7c:1a2b:3c4d:1000::1", "fd7c:1a2b:3c4d:1000::2"]
    with pytest.raises(ValueError):
        AddressPlan.of(IPv6Network("fd00::/47"))


@given(st.binary(min_size=5, max_size=5))
def test_a_generated_organisation_prefix_is_a_unique_local_48(bits: bytes) -> None:
    prefix = generate_organisation_prefix(lambda size: bits[:size])
    assert prefix.prefixlen == 48
    assert prefix.subnet_of(IPv6Network("fd00::/8"))
    assert prefix.network_address.packed[1:6] == bits


def test_an_ipv4_server_behind_nat64_has_the_address_windows_gives_it() -> None:
    prefix = IPv6Network("fdc9:9f4e:eb1b:7777::/96")
    address = embed_ipv4(prefix, IPv4Address("10.0.0.4"))
    assert address == IPv6Address("fdc9:9f4e:eb1b:7777::a00:4")
    assert extract_ipv4(prefix, address) == IPv4Address("10.0.0.4")
    assert extract_ipv4(prefix, IPv6Address("fd00::1")) is None


def test_isatap_addresses_tell_private_from_public() -> None:
    prefix = IPv6Network("fd7f:f787:2112:1::/64")
    assert str(isatap_address(prefix, IPv4Address("10.0.0.4"))) == "fd7f:f787:2112:1:0:5efe:a00:4"
    assert str(isatap_address(prefix, IPv4Address("131.107.0.2"))) == "fd7f:f787:2112:1:200:5efe:836b:2"


@pytest.mark.parametrize(
    ("text", "pool"),
    [("10.0.0.2,1024-3388", (1024, 3388)), ("10.0.0.1,*", (1024, 65535)), (" 10.0.0.1 , 5 - 6 ", (5, 6))],
)
def test_port_pools_are_read_as_windows_writes_them(text: str, pool: tuple[int, int]) -> None:
    parsed = AddressPortPool.parse(text)
    assert (parsed.first, parsed.last) == pool
    assert AddressPortPool.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text", ["10.0.0.1", "10.0.0.1,", "10.0.0.1,0-5", "10.0.0.1,9-5", "10.0.0.1,1-65536", "x,*", "::1,*"]
)
def test_port_pools_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        AddressPortPool.parse(text)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("10.0.0.53", "10.0.0.53"),
        ("10.0.0.53:53", "10.0.0.53"),
        ("10.0.0.53:5353", "10.0.0.53:5353"),
        ("fd00::53", "fd00::53"),
        ("[fd00::53]", "fd00::53"),
        ("[fd00::53]:5353", "[fd00::53]:5353"),
    ],
)
def test_dns_servers_are_read_with_and_without_port(text: str, printed: str) -> None:
    assert str(DnsServer.parse(text)) == printed


@pytest.mark.parametrize(
    "text", ["", "dns.example.net", "10.0.0.1:0", "[::1]:x", "fe80::1%eth0", "::", "ff02::1", "0.0.0.0"]
)
def test_dns_servers_that_cannot_be_asked_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        DnsServer.parse(text)


@given(st.text(max_size=40))
def test_no_text_makes_a_parser_fail_otherwise_than_with_value_error(text: str) -> None:
    for parse in (parse_interface, parse_network, AddressPortPool.parse, DnsServer.parse):
        try:
            parse(text)
        except ValueError:
            continue


def test_everything_derived_is_shown_with_its_origin(settings: Settings, facts: Facts) -> None:
    values = effective(settings, facts)
    shown = values.as_dict()
    assert shown["ip_https.client_prefix"] == {
        "value": "fd7c:1a2b:3c4d:1000::/64",
        "origin": "from deployment.organisation_prefix",
    }
    assert shown["server.internal_ipv4"] == {"value": "10.0.0.2", "origin": "first IPv4 address of eth1"}
    assert shown["nat64.ipv4_address_port_pool"]["value"] == ["10.0.0.2,32768-60999"]
    assert shown["ip_https.url"]["value"] == "https://da.example.net:443/IPHTTPS"
    assert values.workers == 2
    assert [str(route) for route in values.routes] == ["fd7c:1a2b:3c4d::/48"]
    assert [str(address) for address in tunnel_addresses(values)] == [
        "fe80::1/64",
        "fd7c:1a2b:3c4d:1000::1/64",
        "fd7c:1a2b:3c4d:1000::2/128",
        "fd7c:1a2b:3c4d:3333::1/128",
    ]


def test_what_is_set_is_not_derived(data: dict[str, Any]) -> None:
    data["addresses"] = {"intranet_prefixes": ["2001:db8:1::/64", "2001:db8:1:1::/64"]}
    data["ip_https"] = {"client_prefix": "2001:db8:1:1000::/59"}
    data["deployment"]["connect_to"] = "2001:db8::11"
    data["nat64"] = {"state": "disabled"}
    values = effective(load_data(data))
    assert values.as_dict()["addresses.intranet_prefixes"]["origin"] == "set"
    assert [str(route) for route in values.routes] == [
        "fd7c:1a2b:3c4d::/48",
        "2001:db8:1::/64",
        "2001:db8:1:1::/64",
        "2001:db8:1:1000::/59",
    ]
    assert str(values.link_prefix) == "2001:db8:1:1000::/64"
    assert values.nat64_mappings == values.nat64_prefixes == values.nat64_pool == ()
    assert values.url == "https://[2001:db8::11]:443/IPHTTPS"


def test_without_facts_nothing_is_invented(settings: Settings) -> None:
    values = effective(settings)
    assert values.internal_ipv4 is None
    assert values.nat64_pool == ()
    assert ip_interface("10.0.0.2/24").ip not in values.as_dict().values()
