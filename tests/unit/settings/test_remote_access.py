"""What this version does not have is refused by name, and what rules out each other is told beside that."""

from __future__ import annotations

import time
from typing import Any

import pytest

from portico.settings.document import dump, load, load_data
from portico.settings.problems import SettingsRefused
from portico.settings.rules.remote_access import UNSUPPORTED
from portico.settings.verify import verify
from tests.unit.settings.test_verify import MACHINE, balanced, changed, codes, with_interfaces

ENABLED = {
    "load_balancing.mode": balanced(mode="external"),
    **{
        path: {path: "enabled"}
        for path in (
            "vpn.state",
            "teredo.state",
            "isatap.state",
            "authentication.kerberos_proxy",
            "authentication.two_factor",
            "authentication.health_check",
            "remote_clients.force_tunnel",
            "remote_clients.downlevel",
        )
    },
}


@pytest.mark.parametrize("setting", [row[0] for row in UNSUPPORTED])
def test_whatever_would_do_nothing_is_refused_by_name(setting: str) -> None:
    problems = [p for p in verify(load_data(changed(ENABLED[setting])), MACHINE) if p.code == "NOT_SUPPORTED"]
    assert [problem.path for problem in problems] == [setting]
    assert "is not supported in this version" in problems[0].what
    assert problems[0].severity == "error"


def test_the_sections_are_stored_and_read_again() -> None:
    changes = balanced(da1__vpn_ip_address_ranges=["10.1.0.10 , 10.1.0.99"]) | {"vpn.ip_address_assignment": "dhcp"}
    settings = load_data(changed(changes))
    assert load(dump(settings)) == settings
    assert "10.1.0.10,10.1.0.99" in dump(settings)


@pytest.mark.parametrize("text", ["10.1.0.10", "10.1.0.99,10.1.0.10", "10.1.0.10,x", "fd00::1,fd00::2", "", ","])
def test_a_pool_that_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(SettingsRefused) as caught:
        load_data(changed({"vpn.ip_address_ranges": [text]}))
    assert caught.value.problems[0].path == "vpn.ip_address_ranges[0]"


def pools(*ranges: str, **vpn: Any) -> dict[str, Any]:
    first, second = ranges
    changes = balanced(da1__vpn_ip_address_ranges=[first], da2__vpn_ip_address_ranges=[second])
    return changes | {"vpn": {"state": "enabled", **vpn}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (pools("10.1.0.1,10.1.0.9", "10.1.0.10,10.1.0.19"), set()),
        (pools("10.1.0.1,10.1.0.10", "10.1.0.10,10.1.0.19"), {"VPN_POOL_OVERLAP"}),
        (pools("10.1.0.1,10.1.0.9", "10.1.0.10,10.1.0.19", ip_address_assignment="dhcp"), {"VPN_DHCP_IN_CLUSTER"}),
        (pools("10.0.0.200,10.0.0.209", "10.0.0.210,10.0.0.219"), set()),
        (pools("10.0.0.1,10.0.0.9", "10.0.0.210,10.0.0.219"), {"VPN_POOL_TAKEN"}),
        (pools("10.1.0.1,10.1.0.9", "10.1.0.10,10.1.0.19", ipv6_prefix="fd7c:1a2b:3c4d:2000::/59"), set()),
        (
            pools("10.1.0.1,10.1.0.9", "10.1.0.10,10.1.0.19", ipv6_prefix="fd7c:1a2b:3c4d:1000::/59"),
            {"PREFIX_OVERLAP"},
        ),
        (balanced() | {"vpn.state": "enabled"}, {"VPN_POOL_MISSING"}),
    ],
)
def test_vpn_pools_of_a_cluster(changes: dict[str, Any], expected: set[str]) -> None:
    assert codes(changes) - {"NOT_SUPPORTED"} == expected


def test_vpn_of_a_single_server() -> None:
    pool = {"state": "enabled", "ip_address_ranges": ["10.1.0.1,10.1.0.9"]}
    assert codes({"vpn": pool}) == {"NOT_SUPPORTED"}
    assert codes({"vpn": {**pool, "state": "disabled"}}) == {"VPN_POOL_UNUSED"}
    assert codes({"vpn": {"state": "enabled", "ip_address_assignment": "dhcp"}}) == {"NOT_SUPPORTED"}
    assert codes({"vpn.ipv6_prefix": "fd7c:1a2b:3c4d:2000::/64"}) == set()
    assert codes({"vpn.ipv6_prefix": "fd7c:1a2b:3c4d:2000::/59"}) == {"VPN_PREFIX_LENGTH"}


def test_a_vpn_prefix_that_is_not_aligned_cannot_be_written() -> None:
    with pytest.raises(SettingsRefused, match="behind its prefix length"):
        load_data(changed({"vpn.ipv6_prefix": "fd7c:1a2b:3c4d:2010::/59"}))


def external(**changes: Any) -> dict[str, Any]:
    section = balanced(mode="external", **changes)
    section["load_balancing"]["internet_virtual_addresses"] = ["131.107.0.2/24", "131.107.0.3/24"]
    for number, server in enumerate(section["load_balancing"]["servers"]):
        server["internet_dedicated_addresses"] = [f"131.107.0.{10 + 2 * number}/24", f"131.107.0.{11 + 2 * number}/24"]
    return section | {"teredo.state": "enabled"}


def test_teredo_behind_an_external_balancer() -> None:
    facts = with_interfaces(eth0=MACHINE.interfaces["eth1"])  # type: ignore[index]
    told = {"TEREDO_EXTERNAL_MANAGE_OUT", "TEREDO_ADDRESSES"}
    assert codes(external(), facts) & told == {"TEREDO_EXTERNAL_MANAGE_OUT"}
    assert codes(external() | {"access.manage_out": False}, facts) & told == set()
    assert "TEREDO_EXTERNAL_MANAGE_OUT" in codes(external() | {"access.manage_out": {"from": ["fd00:9::/64"]}})
    apart = external() | {"access.manage_out": False}
    apart["load_balancing"]["servers"][1]["internet_dedicated_addresses"] = ["131.107.0.20/24", "131.107.0.22/24"]
    assert codes(apart, facts) & told == {"TEREDO_ADDRESSES"}
    apart["load_balancing"]["mode"] = "unicast"
    assert codes(apart, facts) & told == set(), "only the virtual ones are asked for"


def test_up_to_thirty_two_servers_behind_an_external_balancer() -> None:
    def many(count: int, mode: str) -> dict[str, Any]:
        servers = [
            {
                "name": f"da{n}",
                "priority": min(n, 32),
                "internet_dedicated_addresses": [f"203.0.113.{20 + n}/24"],
                "internal_dedicated_addresses": [f"10.0.0.{20 + n}/24", f"fd7c:1a2b:3c4d:1::{20 + n}/64"],
            }
            for n in range(1, count + 1)
        ]
        return balanced(servers=servers, mode=mode)

    assert codes(many(32, "external")) == {"NOT_SUPPORTED"}
    assert "LB_TOO_MANY_SERVERS" in codes(many(33, "external"))
    assert codes(many(32, "unicast")) == {"LB_TOO_MANY_SERVERS"}


def test_thousands_of_ranges_are_compared_quickly() -> None:
    ranges = [[f"10.{n}.{m}.0,10.{n}.{m}.255" for m in range(64)] for n in range(8)]
    changes = balanced() | {"vpn.state": "enabled"}
    template = changes["load_balancing"]["servers"][0]
    changes["load_balancing"]["servers"] = [
        {**template, "name": f"da{n + 1}", "priority": n + 1, "vpn_ip_address_ranges": ranges[n]} for n in range(8)
    ]
    settings = load_data(changed(changes))
    started = time.process_time()
    found = {problem.code for problem in verify(settings, MACHINE)}
    assert "VPN_POOL_OVERLAP" not in found
    assert time.process_time() - started < 2.0
