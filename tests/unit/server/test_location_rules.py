"""Packet filter rules for the pages: pure."""

from __future__ import annotations

import json
from typing import Any

from portico.server.desired import desired_kernel
from portico.server.reconcile import nftables
from portico.server.reconcile.wanted import Filter
from portico.settings.document import load_data
from portico.settings.effective import effective
from portico.settings.localise import localise
from tests.unit.naming.records.test_plan import BALANCING, DATA, FACTS


def kernel_filter(**sections: Any) -> Filter:
    data = json.loads(json.dumps(DATA))
    for name, values in sections.items():
        data[name] = {**data.get(name, {}), **values}
    settings = localise(load_data(data), "da1")
    return desired_kernel(settings, effective(settings, FACTS), closed=frozenset()).filter


def texts(wanted: Filter, chain: str, comment: str) -> list[str]:
    return [json.dumps(e) for where, e, said in nftables.rules(wanted) if where == chain and said == comment]


def test_pages_are_refused_on_the_internet_interface_before_anything_else() -> None:
    wanted = kernel_filter()
    first = next(rule for rule in nftables.rules(wanted) if rule[0] == "input")
    assert first[2] == "pages are not for the Internet"
    four, six = texts(wanted, "input", "pages are not for the Internet")
    assert '"10.0.0.2"' in four and '"set": [80, 443]' in four and '"eth0"' in four and '"drop"' in four
    assert "fd7c:1a2b:3c4d:1::2" in six


def test_with_one_adapter_inside_and_outside_cannot_be_told_apart() -> None:
    wanted = kernel_filter(server={"internet_interface": "eth1"})
    assert not texts(wanted, "input", "pages are not for the Internet")
    assert '"right": 62000' in texts(wanted, "from_clients", "the location server is not for clients")[0]


def test_a_client_reaches_the_web_probe_directly_and_through_nat64_and_gets_its_answer() -> None:
    wanted = kernel_filter()
    assert len(texts(wanted, "input", "web probe")) == 2
    (through,) = texts(wanted, "input", "web probe through NAT64")
    assert "portico-nat64" in through and '"right": 80' in through
    (answer,) = texts(wanted, "steer_out", "answer of the web probe to NAT64")
    assert '"sport"}}, "right": 80' in answer and '"range": [32768, 60999]' in answer
    order = [said for where, _, said in nftables.rules(wanted) if where == "input"]
    assert order.index("web probe through NAT64") < order.index("the translator never talks to the server itself")
    assert order.index("web probe") < order.index("clients reach nothing else of the server")


def test_clients_reach_no_servers_location_page() -> None:
    wanted = kernel_filter(load_balancing=BALANCING)
    (four,) = texts(wanted, "from_translator", "the location server is not for clients")
    for address in ("10.0.0.2", "10.0.0.21", "10.0.0.22"):
        assert f'"{address}"' in four
    (six,) = texts(wanted, "from_clients", "the location server is not for clients")
    assert '"fd7c:1a2b:3c4d:1::22"' in six and '"drop"' in six
    own = texts(wanted, "input", "web probe")[0]
    assert '"10.0.0.21"' in own and '"10.0.0.22"' not in own


def test_without_pages_there_is_no_rule_for_them() -> None:
    disabled = {"state": "disabled"}
    wanted = kernel_filter(network_location_server=disabled, web_probe=disabled)
    said = {comment for _, _, comment in nftables.rules(wanted)}
    assert not {"web probe", "pages are not for the Internet", "the location server is not for clients"} & said


def test_another_web_server_for_the_page_needs_no_rule_for_it() -> None:
    wanted = kernel_filter(network_location_server={"url": "https://www.corp.example.net/"})
    assert not texts(wanted, "from_clients", "the location server is not for clients")


def test_without_nat64_nothing_names_its_chains() -> None:
    wanted = kernel_filter(nat64={"state": "disabled"})
    assert "from_translator" not in {chain for chain, _, _ in nftables.rules(wanted)}
    assert "steer_out" not in {chain for chain, _, _ in nftables.rules(wanted)}
