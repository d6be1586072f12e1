from __future__ import annotations

from typing import Any

import pytest

from portico.settings.diff import compare
from portico.settings.document import load_data


def difference(data: dict[str, Any], **sections: Any) -> list[str]:
    return compare(load_data(data), load_data({**data, **sections})).lines(connected=12)


def test_equal_documents_have_no_difference(data: dict[str, Any]) -> None:
    assert difference(data) == []


def test_a_changed_value_is_shown_with_its_consequence_and_who_it_hits(data: dict[str, Any]) -> None:
    assert difference(data, ip_https={"port": 8443, "authentication": "none"}) == [
        "~ ip_https.port: 443 -> 8443",
        "~ ip_https.authentication: certificates -> none",
        "! ip_https.port: the listener moves to another port; enrolled clients keep dialling the old one: "
        "each needs a new token, unless a router in front forwards the old port (12 clients will redial)",
        "! ip_https.authentication: changing the authentication mode closes all connections (12 clients will redial)",
    ]


def test_entries_of_lists_come_and_go(data: dict[str, Any]) -> None:
    lines = difference(data, dns64={"upstream_servers": ["10.0.0.54"]})
    assert lines == ["- dns64.upstream_servers: 10.0.0.53", "+ dns64.upstream_servers: 10.0.0.54"]
    data["dns64"] = {"upstream_servers": ["10.0.0.53", "10.0.0.54"]}
    lines = difference(data, dns64={"upstream_servers": ["10.0.0.54", "10.0.0.53"]})
    assert lines == ["~ dns64.upstream_servers: [10.0.0.53, 10.0.0.54] -> [10.0.0.54, 10.0.0.53]"]


def test_objects_in_lists_are_shown_whole(data: dict[str, Any]) -> None:
    binding = {"protocol": "tcp", "client": "fd7c:1a2b:3c4d:1000::5", "client_port": 22, "port": 50022}
    lines = difference(data, nat64={"static_bindings": [binding]})
    assert lines[0] == (
        "+ nat64.static_bindings: "
        "{protocol: tcp, client: fd7c:1a2b:3c4d:1000::5, client_port: 22, address: (derived), port: 50022}"
    )
    assert lines[1].startswith("! nat64.static_bindings:")
    mapping = "fd7c:1a2b:3c4d:7778::/96,10.9.0.0/16"
    assert (
        difference(data, dns64={**data["dns64"], "prefix_mapping": [mapping]})[0]
        == f"+ dns64.prefix_mapping: {mapping}"
    )


def test_a_value_that_is_no_longer_derived_says_so(data: dict[str, Any]) -> None:
    lines = difference(data, nat64={"prefix": "fd00:9::/96"})
    assert lines[0] == "~ nat64.prefix: (derived) -> fd00:9::/96"
    assert lines[1].startswith("! nat64.prefix:")


def test_a_union_that_changes_its_form_is_one_change(data: dict[str, Any]) -> None:
    lines = difference(data, access={"manage_out": {"from": ["fd00:9::/64"]}})
    assert lines[0] == "~ access.manage_out: true -> {from: [fd00:9::/64]}"


def test_the_first_document_is_all_new_and_hits_nobody(data: dict[str, Any]) -> None:
    first = compare(None, load_data(data))
    assert "+ deployment.domain: corp.example.net" in first.lines()
    assert not first.disconnects
    assert all(change.kind == "added" for change in first.changes)


@pytest.mark.parametrize(("count", "text"), [(0, "(0 clients"), (1, "(1 client "), (2, "(2 clients")])
def test_the_number_of_clients_reads_well(data: dict[str, Any], count: int, text: str) -> None:
    after = load_data({**data, "ip_https": {"port": 1}})
    assert text in compare(load_data(data), after).lines(connected=count)[-1]


def test_the_difference_is_plain_data_too(data: dict[str, Any]) -> None:
    shown = compare(load_data(data), load_data({**data, "drift": "report"})).as_dict()
    assert shown == {
        "changes": [{"path": "drift", "kind": "changed", "before": "repair", "after": "report"}],
        "consequences": [],
        "disconnects": False,
    }
