from __future__ import annotations

from typing import Any

import pytest

from portico.naming.explain import excluded_by, explain
from portico.settings.document import load_data
from portico.settings.effective import effective

PREFIX = "fd7c:1a2b:3c4d"
DATA: dict[str, Any] = {
    "schema_version": 1,
    "deployment": {
        "domain": "corp.example.net",
        "connect_to": "da.example.net",
        "organisation_prefix": f"{PREFIX}::/48",
    },
    "server": {"name": "da1", "internet_interface": "eth0", "internal_interface": "eth1"},
    "nat64": {"prefix_mapping": [f"{PREFIX}:7777::/96,0.0.0.0/0", f"{PREFIX}:7778::/96,10.9.0.0/16"]},
    "dns64": {
        "upstream_servers": ["10.0.0.53"],
        "only_send_a_query": False,
        "exclusion_list": [".voice.corp.example.net", "fd00:9::/64"],
    },
}


def told(name: str, answer: dict[str, Any], kind: str = "AAAA", **nat64: Any) -> tuple[str | None, str]:
    settings = load_data({**DATA, "nat64": {**DATA["nat64"], **nat64}})
    found = explain(settings, effective(settings), name, kind, answer)
    return found["prefix_mapping"], str(found["why"])


def answer(*data: str, rcode: str = "NOERROR", synthesized: bool = False, source: str = "upstream") -> dict[str, Any]:
    records = [{"name": "x", "type": "AAAA", "ttl": 1, "data": text} for text in data]
    return {"rcode": rcode, "answers": records, "synthesized": synthesized, "source": source}


def test_a_synthesised_answer_names_the_a_record_and_the_mapping() -> None:
    mapping, why = told("app4.corp.example.net", answer(f"{PREFIX}:7777::a00:4", synthesized=True))
    assert mapping == f"{PREFIX}:7777::/96,0.0.0.0/0"
    assert "A record 10.0.0.4" in why
    mapping, why = told("app9.corp.example.net", answer(f"{PREFIX}:7778::a09:4", synthesized=True))
    assert mapping == f"{PREFIX}:7778::/96,10.9.0.0/16"
    assert "10.9.0.4" in why


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("none.corp.example.net", answer(rcode="NXDOMAIN"), "does not exist"),
        ("x.corp.example.net", answer(rcode="SERVFAIL"), "SERVFAIL"),
        ("app6.corp.example.net", answer(f"{PREFIX}:1::6"), "IPv6 addresses of its own"),
        ("a.voice.corp.example.net.", answer(), "'.voice.corp.example.net' of dns64.exclusion_list"),
        ("empty.corp.example.net", answer(), "no IPv4 address either"),
        ("old.corp.example.net", answer("fd00:1::a00:4", synthesized=True), "none of those in force"),
    ],
)
def test_what_was_not_synthesised_has_a_reason(name: str, given: dict[str, Any], why: str) -> None:
    mapping, text = told(name, given)
    assert mapping is None
    assert why in text
    assert not text.endswith(".")


def test_other_types_are_passed_on_or_answered_here() -> None:
    assert "passed on" in told("corp.example.net", answer(), kind="MX")[1]
    assert "NAT64's prefix" in told("4.0.0.ip6.arpa", answer(source="local"), kind="PTR")[1]


def test_without_nat64_nothing_is_synthesised_and_it_says_so() -> None:
    assert "nat64.state" in told("app4.corp.example.net", answer(), state="disabled")[1]


def test_exclusions_cover_a_name_and_all_below_it() -> None:
    settings = load_data(DATA)
    for name, entry in (
        ("voice.corp.example.net", ".voice.corp.example.net"),
        ("a.b.voice.corp.example.net", ".voice.corp.example.net"),
        ("invoice.corp.example.net", None),
        ("corp.example.net", None),
    ):
        assert excluded_by(settings, name) == entry
