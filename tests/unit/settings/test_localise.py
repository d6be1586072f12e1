"""What each server reads in the one document."""

from __future__ import annotations

from ipaddress import IPv6Network, ip_address, ip_interface
from typing import Any

import pytest

from portico.errors import NotFound
from portico.settings.document import dump, load, load_data
from portico.settings.effective import effective
from portico.settings.facts import Facts, Interface
from portico.settings.localise import balanced_facts, dedicated_by_interface, localise
from portico.settings.model import Settings
from portico.settings.problems import SettingsRefused
from portico.settings.reference import BALANCED_EXAMPLE

P = "fd7c:1a2b:3c4d"
MACHINE = Facts(
    interfaces={
        "lo": Interface("lo", addresses=(ip_interface("127.0.0.1/8"),)),
        "eth0": Interface("eth0", addresses=(ip_interface("203.0.113.11/24"), ip_interface("198.51.100.5/24"))),
        "eth1": Interface("eth1", addresses=(ip_interface("10.0.0.2/24"), ip_interface(f"{P}:1::2/64"))),
    }
)


@pytest.fixture
def cluster(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "load_balancing": load_section()}


def load_section() -> dict[str, Any]:
    text = (
        "schema_version: 1\ndeployment: {domain: a.example, connect_to: b.example, organisation_prefix: 'fd00::/48'}\n"
    )
    text += "server: {name: x, internet_interface: a, internal_interface: b}\n"
    section = load(text + BALANCED_EXAMPLE).as_data()["load_balancing"]
    assert isinstance(section, dict)
    return section


def test_without_load_balancing_the_document_is_everybodys(data: dict[str, Any]) -> None:
    settings = load_data(data)
    assert localise(settings, "anybody") is settings
    assert effective(settings, MACHINE).client_prefix == IPv6Network(f"{P}:1000::/64")


def test_each_server_reads_its_own_name_interfaces_and_addresses(cluster: dict[str, Any]) -> None:
    cluster["load_balancing"]["servers"][1]["internal_interface"] = "ens7"
    settings = load_data(cluster)
    first, second = localise(settings, "da1"), localise(settings, "da2")
    assert (first.server.name, first.server.internal_interface, str(first.server.internal_ipv4)) == (
        "da1",
        "eth1",
        "10.0.0.12",
    )
    assert (second.server.name, second.server.internal_interface, str(second.server.internal_ipv4)) == (
        "da2",
        "ens7",
        "10.0.0.13",
    )
    assert {name: [str(a) for a in found] for name, found in dedicated_by_interface(second).items()} == {
        "eth0": ["203.0.113.13/24"],
        "ens7": ["10.0.0.13/24", f"{P}:1::13/64"],
    }
    assert load(dump(first)) == first
    with pytest.raises(NotFound, match="da3 is not a server of this cluster"):
        localise(settings, "da3")


def test_roaming_servers_share_a_prefix_and_others_have_their_own(cluster: dict[str, Any]) -> None:
    roaming = [effective(localise(load_data(cluster), name), MACHINE) for name in ("da1", "da2")]
    assert {str(values.client_prefix) for values in roaming} == {f"{P}:1000::/59"}
    assert {str(values.link_prefix) for values in roaming} == {f"{P}:1000::/64"}
    assert len({values.gateway_addresses for values in roaming}) == 1, "endpoints and DNS64 are the same everywhere"
    assert [str(values.nat64_pool[0].address) for values in roaming] == ["10.0.0.12", "10.0.0.13"]

    cluster["load_balancing"]["client_addresses"] = "per-server"
    cluster["load_balancing"]["servers"][1]["server_prefix_index"] = 31
    own = [effective(localise(load_data(cluster), name), MACHINE) for name in ("da1", "da2")]
    assert [str(values.link_prefix) for values in own] == [f"{P}:1000::/64", f"{P}:101f::/64"]
    assert [str(values.tunnel_endpoints[0]) for values in own] == [f"{P}:1000::1", f"{P}:101f::1"]
    assert len({values.dns64_address for values in own}) == 1


def test_a_vip_in_the_nat64_pool_stands_for_the_servers_own_address(cluster: dict[str, Any]) -> None:
    binding = {"protocol": "tcp", "client": f"{P}:1000::5", "client_port": 22, "address": "10.0.0.2", "port": 50022}
    cluster["nat64"] = {"ipv4_address_port_pool": ["10.0.0.2,2000-9000"], "static_bindings": [binding]}
    cluster["server"]["internal_ipv4"] = "10.0.0.2"
    local = localise(load_data(cluster), "da2")
    assert [str(entry) for entry in local.nat64.ipv4_address_port_pool] == ["10.0.0.13,2000-9000"]
    assert str(local.nat64.static_bindings[0].address) == "10.0.0.13"


def test_the_machine_as_it_will_be(cluster: dict[str, Any]) -> None:
    facts = balanced_facts(localise(load_data(cluster), "da1"), MACHINE)
    assert facts.interfaces is not None
    found = {name: [str(a) for a in interface.addresses] for name, interface in facts.interfaces.items()}
    assert found == {
        "lo": ["127.0.0.1/8", "203.0.113.11/32", "10.0.0.2/32", f"{P}:1::2/128"],
        "eth0": ["203.0.113.12/24", "198.51.100.5/24"],
        "eth1": ["10.0.0.12/24", f"{P}:1::12/64"],
    }


def test_a_single_adapter_may_name_its_addresses_on_both_sides(cluster: dict[str, Any]) -> None:
    cluster["server"]["internet_interface"] = "eth1"
    section = cluster["load_balancing"]
    for server in section["servers"]:
        server["internet_dedicated_addresses"] = server["internal_dedicated_addresses"]
    local = localise(load_data(cluster), "da1")
    assert {name: len(found) for name, found in dedicated_by_interface(local).items()} == {"eth1": 2}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("10.244.4.19 /255.255.255.0", "10.244.4.19/24"),
        (" 10.244.4.19/ 24 ", "10.244.4.19/24"),
        ("3ffe::5/64", "3ffe::5/64"),
        ("10.0.0.1/32", "10.0.0.1/32"),
    ],
)
def test_addresses_are_taken_as_the_windows_console_writes_them(cluster: dict[str, Any], text: str, meant: str) -> None:
    cluster["load_balancing"]["internet_virtual_addresses"] = [text]
    settings: Settings = load_data(cluster)
    assert settings.load_balancing is not None
    assert settings.load_balancing.internet_virtual_addresses == [ip_interface(meant)]
    assert settings.as_data()["load_balancing"]["internet_virtual_addresses"] == [meant]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.1", "no mask or prefix length"),
        ("10.0.0.0/24", "the network 10.0.0.0/24 itself"),
        ("10.0.0.255/24", "broadcast"),
        ("fe80::1/64", "other hosts"),
        ("fe80::1%eth0/64", "scope"),
        ("127.0.0.1/8", "other hosts"),
        ("224.0.0.1/4", "other hosts"),
        ("fd00::/64", "itself"),
    ],
)
def test_addresses_no_host_can_have_are_refused(cluster: dict[str, Any], text: str, why: str) -> None:
    cluster["load_balancing"]["servers"][0]["internal_dedicated_addresses"] = [text]
    with pytest.raises(SettingsRefused) as caught:
        load_data(cluster)
    (problem,) = caught.value.problems
    assert problem.path == "load_balancing.servers[0].internal_dedicated_addresses[0]"
    assert why in problem.why


def test_a_port_rule_names_all_addresses_or_one(cluster: dict[str, Any]) -> None:
    cluster["load_balancing"]["port_rules"] = [{}, {"virtual_address": "203.0.113.11", "protocol": "tcp"}]
    settings = load_data(cluster)
    assert settings.load_balancing is not None
    rules = settings.load_balancing.port_rules
    assert (rules[0].virtual_address, rules[0].affinity, rules[0].last_port) == ("all", "single", 65535)
    assert rules[1].virtual_address == ip_address("203.0.113.11")
    assert load(dump(settings)) == settings
