"""What the packet filter and the gateway are told of the two levels."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any

from portico.server.desired import desired_kernel
from portico.server.reconcile import level_rules, nftables
from portico.server.reconcile.level_rules import Member
from portico.server.reconcile.wanted import Filter
from portico.settings.document import load_data
from portico.settings.effective import effective
from portico.transition.gateway_config import GatewaySecrets, build_gateway_config
from tests.unit.settings.test_verify import MACHINE, changed

SERVERS = [{"name": "dc1", "addresses": ["10.0.0.10", "fd7c:1a2b:3c4d:1::10"], "type": "DomainController"}]
RESTRICTED = {
    "access.user_authentication": "certificate",
    "access.user_ca": ["/users.pem"],
    "management_servers": SERVERS,
}


def wanted(**more: Any) -> Filter:
    settings = load_data(changed({**RESTRICTED, **more}))
    return desired_kernel(settings, effective(settings, MACHINE), closed=frozenset()).filter


def chain(filter_: Filter, name: str) -> list[str]:
    return [comment for where, _, comment in nftables.rules(filter_) if where == name]


def test_nothing_changes_without_user_authentication() -> None:
    settings = load_data(changed({"management_servers": SERVERS}))
    plain = desired_kernel(settings, effective(settings, MACHINE), closed=frozenset()).filter
    assert plain.levels is None
    assert not any("set" in command.get("add", {}) for command in nftables.render(plain)["nftables"])


def test_everything_but_management_servers_is_dropped_before_the_intranet_is_allowed() -> None:
    found = chain(wanted(), "from_clients")
    order = ["answers to what the intranet opened", "management servers", "no user has authenticated"]
    assert found[-4:] == [*order, "all of the intranet"]
    drop = next(e for c, e, comment in nftables.rules(wanted()) if comment == "no user has authenticated")
    assert drop[0]["match"]["op"] == "!=" and drop[0]["match"]["right"] == "@users"
    assert {"drop": None} in drop


def test_clients_reach_each_other_only_when_the_user_has_authenticated() -> None:
    found = chain(wanted(**{"access.client_to_client": True}), "from_clients")
    at = found.index("client to client")
    assert found[at - 2 : at] == ["answers to another client", "no user has authenticated here"]


def test_without_management_servers_only_answers_and_users_pass() -> None:
    assert "management servers" not in chain(wanted(management_servers=[]), "from_clients")


def test_the_own_intranet_destinations_hold_for_users_too() -> None:
    found = chain(wanted(**{"access.intranet": ["10.1.0.0/16", "fd7c:1a2b:3c4d:1::/64"]}), "from_clients")
    assert found.index("no user has authenticated") < found.index("the intranet the settings allow")
    translated = chain(wanted(**{"access.intranet": ["10.1.0.0/16"]}), "from_translator")
    assert translated.index("management servers") < translated.index("not allowed by the settings")


def test_a_new_table_denies_by_default_and_keeps_whoever_is_in() -> None:
    member = Member(IPv6Address("fd7c:1a2b:3c4d:1000::c1"), 60)
    for members in ((), (member,)):
        commands = nftables.render(wanted(), members)["nftables"]
        assert [c["add"]["set"]["flags"] for c in commands if "set" in c.get("add", {})] == [["timeout"]]
        elements = [c["add"]["element"]["elem"] for c in commands if "element" in c.get("add", {})]
        assert elements == ([[{"elem": {"val": str(member.address), "timeout": 60}}]] if members else [])


def test_members_are_replaced_in_one_transaction_and_are_no_drift() -> None:
    commands = level_rules.replace("inet", "portico", [Member(IPv6Address("fd00::1"), 5)])
    assert [list(command) for command in commands] == [["flush"], ["add"]]
    listing = {"set": {"name": "users", "type": "ipv6_addr", "elem": ["fd00::1"]}}
    assert nftables.normalise({"nftables": [listing]}) == nftables.normalise(
        {"nftables": [{"set": {"name": "users", "type": "ipv6_addr"}}]}
    )


def test_the_gateway_is_told_what_is_open_for_everybody() -> None:
    settings = load_data(changed(RESTRICTED))
    secrets = GatewaySecrets("", "", "ca", [])
    config = build_gateway_config(settings, effective(settings, MACHINE), secrets)
    assert config["nat64"]["open_hosts"] == [
        {"network": "10.0.0.10/32"},
        {"network": "10.0.0.2/32", "port": settings.web_probe.port},
    ]
    settings = load_data(changed({}))
    config = build_gateway_config(settings, effective(settings, MACHINE), secrets)
    assert config["nat64"]["open_hosts"] is None
