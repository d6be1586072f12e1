from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.naming.dns64 import dns64_configuration, listen_address
from portico.naming.nrpt import Rule, Table, table
from portico.settings.document import load_data
from portico.settings.effective import effective

A, B = ip_address("fd00::a"), ip_address("fd00::b")
DNS64 = "fd7c:1a2b:3c4d:3333::1"
NLS = {"namespace": "directaccess-nls.corp.example.net", "dns_servers": []}


def built(data: dict[str, Any], **sections: Any) -> Table:
    settings = load_data({**data, **sections})
    return table(settings, effective(settings))


def test_a_suffix_covers_its_own_name_and_all_below() -> None:
    rules = Table([Rule(".corp.example.net", (A,))])
    for name in ("corp.example.net", "app4.corp.example.net", "a.b.CORP.example.net."):
        assert rules.servers_for(name) == (A,)
    for name in ("example.net", "xcorp.example.net", "corp.example.net.evil.org", ""):
        assert rules.rule_for(name) is None


def test_without_a_dot_it_is_exactly_one_name() -> None:
    rules = Table([Rule("www.example.net", (A,))])
    assert rules.servers_for("www.example.net") == (A,)
    assert rules.rule_for("a.www.example.net") is None


def test_the_longest_match_wins() -> None:
    rules = Table(
        [
            Rule(".", (A,)),
            Rule(".example.net", (A,)),
            Rule(".corp.example.net", (B,)),
            Rule("nls.corp.example.net", ()),
            Rule("corp.example.net", ()),
        ]
    )
    assert rules.servers_for("app.corp.example.net") == (B,)
    assert rules.servers_for("app.example.net") == (A,)
    assert rules.servers_for("example.org") == (A,)
    assert rules.servers_for("nls.corp.example.net") is None
    assert rules.servers_for("corp.example.net") is None


def test_a_single_label_gets_the_suffix_first() -> None:
    rules = Table([Rule(".corp.example.net", (A,))])
    assert rules.servers_for("app4", suffix="corp.example.net") == (A,)
    assert rules.rule_for("app4") is None


names = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map(".".join)


@given(st.lists(st.tuples(st.booleans(), names), max_size=8), names)
def test_the_lookup_agrees_with_trying_every_rule(namespaces: list[tuple[bool, str]], name: str) -> None:
    rules = Table([Rule(f".{text}" if suffix else text, (A,)) for suffix, text in namespaces])
    matching = [rule for rule in rules.rules if rule.matches(name)]
    best = max(matching, key=lambda rule: (len(rule.namespace.strip(".")), not rule.suffix), default=None)
    assert rules.rule_for(name) == best


def test_the_domain_gets_its_rule_by_itself(data: dict[str, Any]) -> None:
    assert built(data).as_list() == [NLS, {"namespace": ".corp.example.net", "dns_servers": [DNS64]}]


def test_the_domain_keeps_the_rule_it_was_given(data: dict[str, Any]) -> None:
    rules = built(data, nrpt={"rules": [{"namespace": ".corp.example.net", "dns_servers": ["fd00::53"]}]})
    assert rules.as_list() == [NLS, {"namespace": ".corp.example.net", "dns_servers": ["fd00::53"]}]


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ({}, "directaccess-nls.corp.example.net"),
        ({"name": "Inside.corp.example.net"}, "inside.corp.example.net"),
        ({"url": "https://www.corp.example.net:8443/nls.html"}, "www.corp.example.net"),
    ],
)
def test_the_network_location_server_is_never_found_through_the_tunnel(
    data: dict[str, Any], section: dict[str, Any], name: str
) -> None:
    rules = built(data, network_location_server=section)
    rule = rules.rule_for(name)
    assert rule is not None and rule.exemption and rule.origin == "network-location-server"
    assert rules.servers_for(f"other.{name}") == (ip_address(DNS64),)


@pytest.mark.parametrize("section", [{"state": "disabled"}, {"url": "https://nls.example.org/"}])
def test_no_exemption_where_no_rule_covers_the_network_location_server(
    data: dict[str, Any], section: dict[str, Any]
) -> None:
    assert len(built(data, network_location_server=section).rules) == 1


def test_a_connect_to_name_inside_the_domain_is_exempt_by_itself(data: dict[str, Any]) -> None:
    data["deployment"]["connect_to"] = "da.corp.example.net"
    rules = built(data)
    assert rules.servers_for("da.corp.example.net") is None
    assert rules.servers_for("app.corp.example.net") == (ip_address(DNS64),)
    rule = rules.rule_for("da.corp.example.net")
    assert rule is not None and rule.origin == "connect-to"


@pytest.mark.parametrize("connect_to", ["da.example.net", "203.0.113.11"])
def test_a_connect_to_that_no_rule_covers_needs_no_exemption(data: dict[str, Any], connect_to: str) -> None:
    data["deployment"]["connect_to"] = connect_to
    assert [rule.origin for rule in built(data).rules] == ["network-location-server", "domain"]


def test_an_exemption_is_a_rule_without_servers(data: dict[str, Any]) -> None:
    nrpt = {"exemptions": ["nls.corp.example.net", ".dmz.corp.example.net"], "rules": [{"namespace": ".x.org"}]}
    rules = built(data, nrpt=nrpt)
    assert rules.servers_for("nls.corp.example.net") is None
    assert rules.servers_for("a.dmz.corp.example.net") is None
    assert rules.servers_for("x.org") == (ip_address(DNS64),)


def test_without_dns64_clients_ask_the_intranets_servers(data: dict[str, Any]) -> None:
    rules = built(data, dns64={"state": "disabled", "upstream_servers": ["10.0.0.53", "fd00::53"]})
    assert rules.servers_for("a.corp.example.net") == (ip_address("fd00::53"),)


def test_a_client_reads_what_the_server_wrote(data: dict[str, Any]) -> None:
    rules = built(data, nrpt={"exemptions": ["nls.corp.example.net"]})
    assert Table.from_list(rules.as_list()).as_list() == rules.as_list()


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["namespace", "dns_servers"]), inner),
    max_leaves=8,
)


@given(json_values)
def test_a_client_refuses_anything_else_with_value_error(rows: object) -> None:
    try:
        Table.from_list(rows)
    except ValueError:
        return


def test_dns64_listens_while_it_is_enabled(data: dict[str, Any]) -> None:
    settings = load_data(data)
    assert listen_address(effective(settings)) == (ip_address(DNS64), 53)
    disabled = load_data({**data, "dns64": {"state": "disabled"}})
    assert listen_address(effective(disabled)) is None
    assert dns64_configuration(disabled, effective(disabled)) is None
