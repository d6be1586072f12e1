"""Edits of the cluster: enable, add, remove, disable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import Any

import pytest

from portico.errors import PorticoError
from portico.settings import cluster
from portico.settings.diff import compare
from portico.settings.document import dump, load, load_data
from portico.settings.facts import Facts, Interface
from portico.settings.load_balancing import ClusterServer
from portico.settings.model import Settings
from portico.settings.verify import verify

P = "fd7c:1a2b:3c4d"
EDGE1 = Facts(
    interfaces={
        "eth0": Interface(
            "eth0",
            addresses=tuple(map(ip_interface, ("131.107.0.2/24", "131.107.0.3/24", "198.51.100.9/24", "fe80::1/64"))),
        ),
        "eth1": Interface("eth1", addresses=tuple(map(ip_interface, ("10.0.0.2/24", f"{P}:1::2/64")))),
    }
)


def given(*texts: str) -> list[IPv4Interface | IPv6Interface]:
    return [ip_interface(text) for text in texts]


@pytest.fixture
def alone(data: dict[str, Any]) -> Settings:
    return load_data(data)


@pytest.fixture
def first(alone: Settings) -> Settings:
    """The worked example of the Windows test lab: EDGE1 before its cluster has a second server."""
    return cluster.enable(
        alone,
        EDGE1,
        internet_dedicated=given("131.107.0.10/24"),
        internal_dedicated=given("10.0.0.10/24", f"{P}:1::10/64"),
    )


def second(**changes: Any) -> ClusterServer:
    fields: dict[str, Any] = {
        "name": "da2",
        "priority": 2,
        "internet_dedicated_addresses": given("131.107.0.8/24"),
        "internal_dedicated_addresses": given("10.0.0.8/24", f"{P}:1::8/64"),
    }
    return ClusterServer(**{**fields, **changes})


def code(edit: Callable[[], Settings]) -> str:
    with pytest.raises(PorticoError) as caught:
        edit()
    assert caught.value.why
    assert caught.value.resolution
    return caught.value.code


def test_existing_addresses_become_virtual(first: Settings) -> None:
    balancing = first.load_balancing
    assert balancing is not None
    assert [str(vip) for vip in balancing.internet_virtual_addresses] == ["131.107.0.2/24", "131.107.0.3/24"]
    assert [str(vip) for vip in balancing.internal_virtual_addresses] == ["10.0.0.2/24", f"{P}:1::2/64"]
    assert [(s.name, s.priority, s.server_prefix_index) for s in balancing.servers] == [("da1", 1, 0)]
    assert verify(first, EDGE1) == []
    assert load(dump(first)) == first


def test_virtual_addresses_may_be_chosen(alone: Settings) -> None:
    settings = cluster.enable(
        alone,
        EDGE1,
        internet_dedicated=given("131.107.0.10/24"),
        internal_dedicated=given("10.0.0.10/24"),
        internet_virtual=given("131.107.0.2/24"),
        internal_virtual=given("10.0.0.2/24"),
        mode="multicast",
    )
    assert settings.load_balancing is not None
    assert settings.load_balancing.mode == "multicast"
    assert settings.load_balancing.internet_virtual_addresses == given("131.107.0.2/24")


def test_a_single_adapter_has_one_list(data: dict[str, Any]) -> None:
    data["server"]["internet_interface"] = "eth1"
    dns64 = ip_interface(f"{P}:3333::1/64")
    eth1 = Interface("eth1", addresses=(ip_interface("10.0.0.2/24"), dns64))
    facts = replace(EDGE1, interfaces={"eth1": eth1})
    settings = cluster.enable(load_data(data), facts, internet_dedicated=given("10.0.0.10/24"))
    assert settings.load_balancing is not None
    assert settings.load_balancing.internet_virtual_addresses == []
    assert settings.load_balancing.internal_virtual_addresses == given("10.0.0.2/24")
    assert settings.load_balancing.servers[0].internal_dedicated_addresses == given("10.0.0.10/24")
    assert verify(settings, facts) == []
    asked = cluster.enable(load_data(data), facts, internet_dedicated=given("10.0.0.10/24", f"{P}:3333::2/64"))
    assert {problem.code for problem in verify(asked, facts)} == {"LB_DIP_WITHOUT_VIP"}, "never the DNS64 address"


def test_what_cannot_be_enabled_says_why(alone: Settings, first: Settings, data: dict[str, Any]) -> None:
    dips = given("131.107.0.10/24")
    assert code(lambda: cluster.enable(first, EDGE1, internet_dedicated=dips)) == "LB_ENABLED"
    far = given("192.0.2.1/24")
    inside = given("10.0.0.10/24")
    assert code(lambda: cluster.enable(alone, EDGE1, internet_dedicated=dips)) == "LB_NO_ADDRESSES"
    enabled = lambda: cluster.enable(alone, EDGE1, internet_dedicated=far, internal_dedicated=inside)  # noqa: E731
    assert code(enabled) == "LB_NO_ADDRESSES"
    data["ip_https"] = {"client_prefix": f"{P}:1000::/64"}
    settings = cluster.enable(
        load_data(data), EDGE1, internet_dedicated=dips, internal_dedicated=given("10.0.0.10/24", f"{P}:1::10/64")
    )
    (problem,) = verify(settings, EDGE1)
    assert problem.code == "LB_CLIENT_PREFIX"
    assert f"{P}:1000::/59" in problem.resolution


def test_servers_come_and_go(first: Settings) -> None:
    both = cluster.add_server(first, second())
    assert verify(both, EDGE1) == []
    assert both.load_balancing is not None
    assert [server.server_prefix_index for server in both.load_balancing.servers] == [0, 1]
    assert cluster.free_priority(both) == 3
    assert code(lambda: cluster.add_server(both, second())) == "LB_SERVER_EXISTS"

    left = cluster.remove_server(both, "da1")
    assert left.server.name == "da2"
    assert left.load_balancing is not None
    again = cluster.add_server(left, second(name="da3", priority=1))
    assert again.load_balancing is not None
    assert again.load_balancing.servers[1].server_prefix_index == 0, "the lowest that is free"
    assert code(lambda: cluster.remove_server(left, "da2")) == "LB_LAST_SERVER"
    assert code(lambda: cluster.remove_server(both, "edge3")) == "NOT_IN_CLUSTER"


def test_disabling_gives_the_document_back(alone: Settings, first: Settings) -> None:
    assert cluster.disable(first, EDGE1) == alone
    for edit in (
        lambda: cluster.disable(alone, EDGE1),
        lambda: cluster.set_mode(alone, "multicast"),
        lambda: cluster.add_server(alone, second()),
        lambda: cluster.remove_server(alone, "da1"),
    ):
        assert code(edit) == "LB_DISABLED"


def test_only_a_machine_that_had_the_virtual_addresses_can_keep_them(first: Settings) -> None:
    both = cluster.add_server(first, second(internal_interface="ens7"))
    interfaces = {
        "eth0": Interface("eth0", addresses=(ip_interface("131.107.0.8/24"),)),
        "ens7": Interface("ens7", addresses=tuple(given("10.0.0.8/24", f"{P}:1::8/64"))),
    }
    facts = Facts(own_name="da2", interfaces=interfaces)
    with pytest.raises(PorticoError, match=r"ip addr add 131.107.0.2/24 dev eth0") as caught:
        cluster.disable(both, facts)
    assert caught.value.code == "LB_VIP_NOT_OWN"
    had = {
        name: replace(item, addresses=(*item.addresses, *vips))
        for (name, item), vips in zip(
            interfaces.items(),
            (given("131.107.0.2/24", "131.107.0.3/24"), given("10.0.0.2/24", f"{P}:1::2/64")),
            strict=True,
        )
    }
    settings = cluster.disable(both, replace(facts, interfaces=had))
    assert (settings.server.name, settings.server.internal_interface) == ("da2", "ens7")


def test_the_plan_says_what_happens(alone: Settings, first: Settings) -> None:
    def lines(before: Settings, after: Settings) -> str:
        return "\n".join(line for line in compare(before, after).lines(connected=3) if line.startswith("!"))

    enabled = lines(alone, first)
    for text in (
        "existing address 131.107.0.2 becomes a VIP",
        "131.107.0.10, 10.0.0.10, fd7c:1a2b:3c4d:1::10 become the DIPs of da1",
        f"intranet routers must route {P}:1000::/59 to {P}:1::2",
        "NAT64 translates to the internal DIP",
    ):
        assert text in enabled
    assert "redial" not in enabled
    both = cluster.add_server(first, second())
    assert "da2 joins" in lines(first, both)
    assert "da2 no longer serves" in lines(both, first)
    assert "(3 clients will redial)" in lines(both, first)
    assert "da2 no longer serve" in lines(both, alone)
    assert "131.107.0.2, 131.107.0.3, 10.0.0.2" in lines(first, alone)
    assert "another MAC address" in lines(first, cluster.set_mode(first, "igmp_multicast"))
    only4 = cluster.enable(
        alone, EDGE1, internet_dedicated=given("131.107.0.10/24"), internal_dedicated=given("10.0.0.10/24")
    )
    assert "must route" not in lines(alone, only4), "an IPv4 router has no way to an IPv6 prefix"
    assert ip_address("131.107.0.2") in {vip.ip for vip in only4.load_balancing.virtual_addresses}  # type: ignore[union-attr]
