"""The wizard without a terminal: answers in, the document out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from portico.management.wizard.core import Wizard, document, owner
from portico.management.wizard.questions import QUESTIONS, Detected, Topology, entries
from portico.settings.document import dump, load, load_data
from portico.settings.facts import CertificateFile, Facts, Interface, Kernel, Listener
from portico.settings.model import Settings
from portico.settings.problems import errors

FACTS = Facts(
    now=datetime(2026, 1, 1, tzinfo=UTC),
    interfaces={
        "lo": Interface("lo", addresses=(ip_interface("127.0.0.1/8"),)),
        "eth1": Interface("eth1", addresses=(ip_interface("10.0.0.2/24"), ip_interface("fd7c:1a2b:3c4d:1::2/64"))),
        "eth0": Interface("eth0", addresses=(ip_interface("203.0.113.11/24"), ip_interface("fe80::1/64"))),
        "spare": Interface("spare", up=False),
    },
    resolved={"da.example.net": (ip_address("203.0.113.11"),)},
    kernel=Kernel("6.1"),
    processors=2,
)
MACHINE = Detected(
    FACTS,
    host_name="da1",
    organisation_prefix="fd00:1:2::/48",
    domain="corp.example.net",
    default_interface="eth0",
    resolvers=("10.0.0.53",),
    search=("corp.example.net", "branch.example.net"),
)
BEHIND = replace(
    MACHINE,
    facts=replace(
        FACTS,
        interfaces={"eth0": Interface("eth0", addresses=(ip_interface("10.0.0.2/24"),))},
    ),
)


def wizard(detected: Detected = MACHINE, **given: str) -> Wizard:
    return Wizard(detected, given, lambda _settings, _names: detected.facts)


def asked(made: Wizard) -> str:
    return made.question.key if made.question is not None else ""


def play(made: Wizard, **answers: str) -> list[str]:
    """Answers as given, everything else with Enter; returns the keys of the questions."""
    keys = []
    while (question := made.question) is not None:
        keys.append(question.key)
        assert not errors(made.answer(answers.get(question.key, ""))), question.key
    return keys


def test_enter_alone_makes_a_document_on_an_edge_server() -> None:
    made = wizard()
    keys = play(made, connect_to="da.example.net")
    assert keys == [
        *("name", "topology", "internet", "internal", "connect_to", "certificate", "organisation", "intranet"),
        *("clients", "domain", "dns", "ipv6_servers", "suffixes", "exemptions", "location"),
    ]
    assert made.problems() == []
    settings = made.settings()
    assert load(dump(settings)) == settings
    assert settings == load_data(
        {
            "schema_version": 1,
            "deployment": {
                "domain": "corp.example.net",
                "connect_to": "da.example.net",
                "organisation_prefix": "fd7c:1a2b:3c4d::/48",
            },
            "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
            "dns64": {"upstream_servers": ["10.0.0.53"], "only_send_a_query": False},
            "nrpt": {"rules": [{"namespace": ".branch.example.net"}]},
        }
    )


def test_a_machine_with_one_adapter_is_asked_for_one() -> None:
    made = wizard(BEHIND)
    keys = play(made, connect_to="da.example.net", suffixes="none")
    assert "internal" not in keys
    settings = made.settings()
    assert settings.server.internet_interface == settings.server.internal_interface == "eth0"
    assert settings.deployment.organisation_prefix == load_data(document(made.answers)).deployment.organisation_prefix
    assert str(settings.deployment.organisation_prefix) == "fd00:1:2::/48"
    assert settings.dns64.only_send_a_query, "the intranet has no IPv6 that could be seen"
    assert settings.nrpt.rules == []


def test_every_answer_can_be_another_one() -> None:
    made = wizard()
    play(
        made,
        name="gate",
        topology="2",
        internet="eth1",
        internal="eth0",
        connect_to="198.51.100.7",
        organisation="2001:db8:5::/48",
        intranet="2001:db8:5:1::/64, 2001:db8:9::/64",
        clients="2001:db8:5:1000::/64",
        domain="x.example",
        dns="10.0.0.53, 10.0.0.54",
        ipv6_servers="n",
        suffixes="y.example, .z.example",
        exemptions="www.x.example",
        location="https://nls.x.example/inside",
    )
    assert made.answers["topology"] == Topology.TWO_ADAPTERS
    settings = made.settings()
    assert (settings.server.name, settings.server.internet_interface) == ("gate", "eth1")
    assert settings.deployment.connect_to == "198.51.100.7"
    assert list(map(str, settings.addresses.intranet_prefixes or ())) == ["2001:db8:5:1::/64", "2001:db8:9::/64"]
    assert settings.ip_https.client_prefix is None, "the derived one stays derived"
    assert [rule.namespace for rule in settings.nrpt.rules] == [".y.example", ".z.example"]
    assert settings.nrpt.exemptions == ["www.x.example"]
    assert settings.network_location_server.url == "https://nls.x.example/inside"


def test_imported_certificates_are_asked_for_and_judged_at_once() -> None:
    found = CertificateFile("certificates.server_certificate", "/a.pem", trouble="missing", detail="/a.pem")
    detected = replace(MACHINE, facts=replace(FACTS, certificate_files=(found,)))
    made = wizard(detected)
    for answer in ("", "", "", "", "da.example.net", "imported"):
        made.answer(answer)
    assert asked(made) == "server_certificate"
    (problem,) = made.answer("/a.pem")
    assert problem.code == "CERTIFICATE_FILE_MISSING"
    assert asked(made) == "server_certificate", "an error keeps the question"
    good = wizard()
    keys = play(
        good,
        connect_to="da.example.net",
        certificate="imported",
        server_certificate="/etc/portico/server.pem",
        server_key="/etc/portico/server.key",
        client_ca="/etc/portico/ca.pem",
        location_certificate="/etc/portico/nls.pem",
        location_key="/etc/portico/nls.key",
    )
    assert keys[-3:] == ["location", "location_certificate", "location_key"]
    certificates = good.settings().certificates
    assert (certificates.mode, len(certificates.client_ca)) == ("imported", 1)
    elsewhere = wizard()
    assert "location_certificate" not in play(
        elsewhere,
        connect_to="da.example.net",
        certificate="imported",
        server_certificate="/a.pem",
        server_key="/a.key",
        client_ca="/ca.pem",
        location="https://nls.corp.example.net/",
    )


@pytest.mark.parametrize(
    ("key", "text", "code"),
    [
        ("name", "da1.example.net", "SETTINGS_INVALID"),
        ("topology", "7", "WIZARD_ANSWER"),
        ("internet", "eth9", "WIZARD_ANSWER"),
        ("internal", "eth0", "WIZARD_ANSWER"),
        ("connect_to", "da", "SETTINGS_INVALID"),
        ("organisation", "fd00::/40", "ORGANISATION_PREFIX_LENGTH"),
        ("organisation", "nothing", "SETTINGS_INVALID"),
        ("intranet", "10.0.0.0/8", "SETTINGS_INVALID"),
        ("clients", "fd7c:1a2b:3c4d:1000::/60", "CLIENT_PREFIX_LENGTH"),
        ("domain", "-", "SETTINGS_INVALID"),
        ("dns", "ns1", "SETTINGS_INVALID"),
        ("location", "http://nls.corp.example.net/", "SETTINGS_INVALID"),
        ("exemptions", "a b", "SETTINGS_INVALID"),
    ],
)
def test_an_answer_is_judged_at_once_by_the_rules_of_the_settings(key: str, text: str, code: str) -> None:
    made = wizard()
    while asked(made) != key:
        made.answer("da.example.net" if asked(made) == "connect_to" else "")
    found = errors(made.answer(text))
    assert [problem.code for problem in found] == [code]
    assert all(problem.why and problem.resolution for problem in found)
    assert asked(made) == key and key not in made.answers


def test_where_nothing_is_detected_an_answer_is_needed() -> None:
    made = wizard(BEHIND)
    while asked(made) != "connect_to":
        made.answer("")
    assert made.default() == ""
    assert [problem.code for problem in made.answer("")] == ["WIZARD_ANSWER"]
    assert asked(made) == "connect_to"


def test_a_port_that_somebody_has_is_told_with_the_adapter() -> None:
    busy = replace(FACTS, listeners=(Listener("tcp", ip_address("0.0.0.0"), 443, "nginx"),))
    made = wizard(replace(MACHINE, facts=busy))
    made.answer("")
    made.answer("")
    assert [problem.code for problem in made.answer("")] == ["LISTENER_PORT_IN_USE"]


def test_an_edge_server_without_a_public_address_is_warned() -> None:
    inside = Interface("eth0", addresses=(ip_interface("192.168.0.2/24"),))
    facts = replace(FACTS, interfaces={**(FACTS.interfaces or {}), "eth0": inside})
    made = wizard(replace(MACHINE, facts=facts))
    made.answer("")
    assert made.default() == Topology.TWO_ADAPTERS
    made.answer("edge")
    assert [(p.code, p.severity) for p in made.answer("eth0")] == [("WIZARD_NO_PUBLIC_ADDRESS", "warning")]
    assert asked(made) == "internal", "a warning goes on"


def test_back_asks_again_with_the_former_answer_as_default() -> None:
    made = wizard()
    assert not made.back()
    made.answer("gate")
    made.answer("two-adapters")
    assert made.number == (3, 15)
    assert made.back() and asked(made) == "topology" and made.default() == "two-adapters"
    assert made.back() and asked(made) == "name" and made.default() == "gate"
    play(made, connect_to="da.example.net", topology="single-adapter")
    assert made.settings().server.name == "gate"
    assert made.settings().server.internal_interface == "eth0"


def test_what_was_given_is_not_asked() -> None:
    made = wizard(
        domain="given.example", connect_to="da.given.example", internet="eth0", internal="eth1", dns="10.9.9.9"
    )
    keys = play(made)
    assert not {"domain", "connect_to", "internet", "internal", "dns"} & set(keys)
    assert made.settings().deployment.domain == "given.example"
    assert not Wizard(MACHINE, made.answers, lambda *_: FACTS).back(), "and nobody goes back to it"


def test_what_only_the_whole_document_shows_leads_back_to_its_question() -> None:
    made = wizard()
    play(made, connect_to="da.example.net", suffixes=".x.example", exemptions=".y.example")
    found = made.problems()
    assert not errors(found)
    wrong = replace(FACTS, interfaces={"eth1": (FACTS.interfaces or {})["eth1"]})
    made._look = lambda *_: wrong  # an adapter went away meanwhile
    found = errors(made.problems())
    assert found and made.back_to(found)
    assert asked(made) == "internet"
    assert not wizard(internet="eth0").back_to(found), "what was given cannot be asked"


def test_every_setting_that_is_asked_for_has_one_owner() -> None:
    data: dict[str, Any] = document({question.key: "x" for question in QUESTIONS})
    assert data["deployment"].keys() == set(Settings.model_fields["deployment"].annotation.model_fields)  # type: ignore[union-attr]
    paths = [path for question in QUESTIONS for path in question.paths]
    assert len(paths) == len(set(paths))
    for question in QUESTIONS:
        for path in question.paths:
            assert owner(path) is question
    assert owner("nrpt.rules[0].namespace") is next(q for q in QUESTIONS if q.key == "suffixes")
    assert owner("vpn.ip_address_ranges") is None


def test_lists_are_written_with_commas() -> None:
    assert entries(" a , b,,") == ["a", "b"]
    assert entries("None") == entries("") == []
