"""From settings to what the cluster protocol and the data plane are told."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from portico.balancing.nlb.plan import EVERY_PROTOCOL
from portico.cluster.config import Affinity, PortRule
from portico.cluster.ownership import Ownership, RuleOwnership
from portico.errors import InvalidInput
from portico.server.balancer.plans import Assignment, assignment, balancing_plan, member_config, owned
from portico.server.cluster_secrets import ClusterSecrets
from portico.settings.document import load_data
from portico.settings.localise import localise

SECRETS = ClusterSecrets("c1", ((3, bytes(range(32))), (2, bytes(32))), 0xDEADBEEF)
MACS = {"eth0": bytes.fromhex("0a0000000001"), "eth1": bytes.fromhex("0a0000000002")}


def document(**balancing: Any) -> dict[str, Any]:
    servers = [
        {
            "name": f"da{number}",
            "priority": number,
            "internet_dedicated_addresses": [f"203.0.113.2{number}/24", f"2001:db8:ffff::2{number}/64"],
            "internal_dedicated_addresses": [f"10.0.0.2{number}/24", f"fd7c:1a2b:3c4d:1::2{number}/64"],
        }
        for number in (1, 2, 3)
    ]
    return {
        "schema_version": 1,
        "deployment": {
            "domain": "corp.example.net",
            "connect_to": "da.example.net",
            "organisation_prefix": "fd7c:1a2b:3c4d::/48",
        },
        "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
        "dns64": {"upstream_servers": ["10.0.0.53"]},
        "load_balancing": {
            "internet_virtual_addresses": ["203.0.113.11/24", "2001:db8:ffff::11/64"],
            "internal_virtual_addresses": ["10.0.0.2/24", "fd7c:1a2b:3c4d:1::2/64"],
            "servers": servers,
            **balancing,
        },
    }


def told(own: str = "da2", **balancing: Any) -> Assignment:
    return assignment(localise(load_data(document(**balancing)), own), 7, SECRETS)


def test_a_process_gets_back_what_the_agent_has() -> None:
    sent = told()
    assert Assignment.from_config(json.loads(json.dumps(sent.as_config()))) == sent


@pytest.mark.parametrize("gone", ["settings", "revision", "secrets"])
def test_a_configuration_that_lacks_something_is_refused(gone: str) -> None:
    config = told().as_config()
    del config[gone]
    with pytest.raises(InvalidInput):
        Assignment.from_config(config)


def test_a_server_that_is_not_in_the_cluster_has_nothing_to_balance() -> None:
    alone = load_data({key: value for key, value in document().items() if key != "load_balancing"})
    with pytest.raises(InvalidInput):
        assignment(alone, 1, SECRETS)


def test_heartbeats_have_three_paths_of_which_two_carry_clients() -> None:
    config = member_config(told())
    assert [path.carries_clients for path in config.paths] == [True, True, False]
    assert config.members == {1, 2, 3} and config.host_id == 2 and config.nics == ("eth0", "eth1")
    assert config.host_address == IPv4Address("10.0.0.22")
    assert (config.period_ms, config.miss, config.lease) == (100, 4, 3)


def test_members_agree_whoever_of_them_reads_the_document() -> None:
    assert len({member_config(told(own)).digest for own in ("da1", "da2", "da3")}) == 1


def test_the_data_plane_knows_both_sides() -> None:
    external, internal = balancing_plan(told(), MACS).nics
    assert (external.side, internal.side) == ("external", "internal")
    assert external.vips == (IPv4Address("203.0.113.11"), IPv6Address("2001:db8:ffff::11"))
    assert external.cluster_mac == bytes((2, 0xBF, 203, 0, 113, 11))
    assert internal.dedicated == (IPv4Address("10.0.0.22"), IPv6Address("fd7c:1a2b:3c4d:1::22"))


def test_roaming_clients_are_a_set_and_others_a_prefix() -> None:
    assert balancing_plan(told(), MACS).server_prefix is None
    prefix = balancing_plan(told(client_addresses="per-server"), MACS).server_prefix
    assert str(prefix) == "fd7c:1a2b:3c4d:1001::/64"


def test_what_has_no_ports_goes_with_a_rule_for_all_of_them() -> None:
    one = {"first_port": 443, "last_port": 443, "virtual_address": "203.0.113.11"}
    every = {"first_port": 0, "last_port": 65535}
    plan = balancing_plan(told(port_rules=[{**every, "virtual_address": "2001:db8:ffff::11"}, one]), MACS)
    assert plan.rules[0].protocols == EVERY_PROTOCOL and plan.rules[1].protocols == {"tcp", "udp"}


def test_rules_for_one_address_go_first_in_both_worlds() -> None:
    rules = [{"affinity": "network"}, {"virtual_address": "203.0.113.11", "affinity": "single"}]
    described = told(port_rules=rules)
    assert [rule.affinity for rule in balancing_plan(described, MACS).rules] == ["single", "network"]
    assert [rule.affinity for rule in member_config(described).rules] == [Affinity.SINGLE, Affinity.NETWORK]


def test_the_picture_of_the_cluster_becomes_the_data_plane_s() -> None:
    nobody = (0,) * 60

    def rule(which: PortRule | None, **sets: Any) -> RuleOwnership:
        none: frozenset[int] = frozenset()
        given = {name: frozenset(sets.get(name, none)) for name in ("owned", "dirty", "quiet", "orphaned")}
        return RuleOwnership(which, origin=nobody, owners=nobody, **given)

    picture = Ownership(
        4, 9, (rule(None, owned={5}), rule(PortRule((0, 65535)), owned={1, 2}, quiet={2, 3}, dirty={4}))
    )
    found = owned(picture)
    assert found.version == 9 and found.default.owned == {5}
    (share,) = found.rules
    assert share.owned == {1, 2} and share.quiet == {2} and share.dirty == {4}
