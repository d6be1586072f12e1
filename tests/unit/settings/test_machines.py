"""Rules about the machines of all servers, each with an example that causes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from portico.settings.document import load_data
from portico.settings.facts import Facts, Interface
from portico.settings.problems import CATALOGUE
from portico.settings.verify import verify_machines
from tests.unit.settings.test_verify import IMPORTED_SETTINGS, SERVER_FILE, balanced, changed

DA = ip_address("203.0.113.11")
ISSUED = replace(SERVER_FILE, issuer="Example Trust")
NLS = replace(ISSUED, setting="network_location_server.certificate", names=("nls.corp.example.net",), common_name=None)


def server(number: int, **changes: Any) -> Facts:
    facts = Facts(
        own_name=f"da{number}",
        version="0.2.0",
        interfaces={
            "eth0": Interface("eth0", addresses=(ip_interface(f"203.0.113.1{number}/24"),)),
            "eth1": Interface("eth1", addresses=(ip_interface(f"10.0.0.1{number}/24"),)),
        },
        resolved={"da.example.net": (DA,)},
        server_certificate=ISSUED,
        network_location_certificate=NLS,
    )
    return replace(facts, **changes)


def adapters(*kept: Interface) -> dict[str, Interface]:
    return {interface.name: interface for interface in kept}


ETH0, ETH1 = (server(2).interfaces or {}).values()

MACHINES_EXAMPLES: dict[str, dict[str, Any] | None] = {
    "SERVER_NOT_CHECKED": None,
    "SERVER_ADDRESS_IN_USE": None,
    "SERVER_VERSION": {"version": "0.1.0"},
    "SERVER_VERSION_APART": {"version": "0.4.0"},
    "SERVER_ADAPTER": {"interfaces": adapters(ETH1)},
    "SERVER_MTU": {"interfaces": adapters(ETH0, replace(ETH1, mtu=1400))},
    "SERVER_SUBNET": {"interfaces": adapters(ETH0, replace(ETH1, addresses=(ip_interface("10.0.1.12/24"),)))},
    "CERTIFICATE_METHOD": {"server_certificate": replace(ISSUED, self_signed=True)},
    "CONNECT_TO_DIFFERS": {"resolved": {"da.example.net": (ip_address("10.0.0.2"),)}},
    "NLS_CERTIFICATE_SUBJECT": {"network_location_certificate": replace(NLS, names=("nls2.corp.example.net",))},
    "NLS_CERTIFICATE_CONNECT_TO": {"network_location_certificate": replace(NLS, names=("*.example.net",))},
}
"""What is different on the second server; None: caused by tests of their own."""


def found(settings: dict[str, Any], *machines: Facts) -> list[tuple[str, tuple[str, ...]]]:
    named = {facts.own_name or "": facts for facts in machines}
    return [(f.problem.code, f.servers) for f in verify_machines(load_data(changed(settings)), named)]


def test_servers_that_are_alike_have_no_problem() -> None:
    assert found(balanced(), server(1), server(2), server(3)) == []
    assert found({}, server(1)) == []
    assert found({}) == []


@pytest.mark.parametrize("code", sorted(code for code, changes in MACHINES_EXAMPLES.items() if changes is not None))
def test_an_example_causes_its_problem_on_the_server_that_differs(code: str) -> None:
    settings = load_data(changed(balanced()))
    findings = verify_machines(settings, {"da1": server(1), "da2": server(2, **(MACHINES_EXAMPLES[code] or {}))})
    mine = [finding for finding in findings if finding.problem.code == code]
    assert [finding.servers for finding in mine] == [("da2",)], findings
    problem = mine[0].problem
    assert problem.severity == CATALOGUE[code].severity
    assert "da2" in str(problem)
    for text in (problem.what, problem.why, problem.resolution):
        assert text and "{" not in text and not text.endswith("."), text


@pytest.mark.parametrize(
    ("names", "other"), [(("*.example.net",), ("da.example.net",)), (("da.example.net", "x.org"), ("*.example.net",))]
)
def test_wildcard_and_named_certificates_may_mix(names: tuple[str, ...], other: tuple[str, ...]) -> None:
    for mode in ({}, IMPORTED_SETTINGS):
        one, two = replace(ISSUED, names=names), replace(ISSUED, names=other)
        assert found(balanced() | mode, server(1, server_certificate=one), server(2, server_certificate=two)) == []


def test_the_built_in_certificate_of_each_server_is_for_the_connect_to_name() -> None:
    wrong = server(2, server_certificate=replace(ISSUED, names=("da2.example.net",)))
    assert found(balanced(), server(1), wrong) == [("CERTIFICATE_NAME_MISMATCH", ("da2",))]
    assert found(balanced() | IMPORTED_SETTINGS, server(1), wrong) == [], "that server's own rules tell"


def test_certificates_of_one_house_may_have_different_intermediate_certificates() -> None:
    both = [server(n, server_certificate=replace(ISSUED, issuer=house)) for n, house in ((1, "A"), (2, "B"))]
    assert found(balanced(), *both) == [("CERTIFICATE_METHOD", ("da2",))]
    signed = [server(n, server_certificate=replace(ISSUED, self_signed=True, issuer=f"da{n}")) for n in (1, 2)]
    assert found(balanced(), *signed) == [], "self-signed on all"


def test_each_server_is_compared_with_the_first_that_said_something() -> None:
    silent = server(1, version="", server_certificate=None, interfaces=None, resolved={})
    assert found(balanced(), silent, server(2), server(3, version="0.1.0")) == [("SERVER_VERSION", ("da3",))]


def test_a_certificate_that_cannot_be_read_is_not_compared() -> None:
    broken = server(2, server_certificate=replace(ISSUED, trouble="missing", self_signed=True))
    assert found(balanced(), server(1), broken) == []


def test_servers_may_name_their_adapters_differently() -> None:
    ens0 = replace(ETH0, name="ens0")
    there = server(2, interfaces=adapters(ens0, ETH1))
    assert found(balanced(da2__internet_interface="ens0"), server(1), there) == []
    assert found(balanced(da2__internet_interface="ens1"), server(1), there) == [("SERVER_ADAPTER", ("da2",))]


def test_addresses_of_a_single_server_that_another_machine_has_are_told() -> None:
    busy: Callable[..., Facts] = lambda: server(1, in_use={DA: "02:00:00:00:00:07"})  # noqa: E731
    assert found({}, busy()) == [("SERVER_ADDRESS_IN_USE", ("da1",))]
    assert found(balanced(), busy()) == [], "the rule about dedicated addresses tells"
